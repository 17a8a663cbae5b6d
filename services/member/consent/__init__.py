"""What consumers allow brands."""
