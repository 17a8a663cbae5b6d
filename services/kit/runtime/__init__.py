"""The process of a service: its mechanisms, start and stop."""
