"""The schema of the district service, one file for each use case."""
