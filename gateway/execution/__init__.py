"""Execution of operations: from the parsed document to the response."""
