"""Places: districts, their venues, and visits of consumers."""
