"""Command-line tools for developers of front ends."""
