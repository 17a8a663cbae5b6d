"""The schema of the organization service, one file for each use case."""
