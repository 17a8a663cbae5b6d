"""What the gateway reports about itself: one log line and one metric per operation, and coalesced lines for refusals in bulk."""
