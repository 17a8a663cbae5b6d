"""Limits of what a client may ask for: size and cost of a document, rate, concurrency, and deadline."""
