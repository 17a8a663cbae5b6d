"""gRPC servers and channels, and what surrounds each call."""
