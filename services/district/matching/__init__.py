"""Which brands a consumer cares about, learned from what was bought."""
