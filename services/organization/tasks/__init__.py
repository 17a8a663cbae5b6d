"""Tasks: what a fact asks of a member of staff, from birth to outcome."""
