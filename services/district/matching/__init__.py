"""Matching: the affinity of consumers for brands, computed from purchases."""
