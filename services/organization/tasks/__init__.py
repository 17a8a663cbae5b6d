"""Tasks: what an event asks of a member of staff, from birth to outcome."""
