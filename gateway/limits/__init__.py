"""Limits of what a client may ask for: size and cost of a document (`document`, `cost`), and rate (`rate_limit`)."""
