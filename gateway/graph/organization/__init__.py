"""What `organization` shows in the graph."""
