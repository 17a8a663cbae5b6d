"""The schema of the member service, one file for each use case."""
