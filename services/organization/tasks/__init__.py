"""Tasks: follow-ups that events create for guides, from creation to outcome."""
