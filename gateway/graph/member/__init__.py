"""What `member` shows in the graph."""
