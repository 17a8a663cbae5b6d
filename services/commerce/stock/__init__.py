"""The stock of every store and warehouse, and the holds on it."""
