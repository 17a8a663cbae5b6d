"""The schema of the commerce service, one file for each use case."""
