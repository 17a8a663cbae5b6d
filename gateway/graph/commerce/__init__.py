"""What `commerce` shows in the graph."""
