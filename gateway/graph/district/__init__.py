"""What `district` shows in the graph."""
