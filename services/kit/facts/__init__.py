"""Facts: told in the transaction that causes them, delivered at least once, applied exactly once, in order for each key."""
