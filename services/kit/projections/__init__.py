"""Projections that every service keeps from events: scopes and linked persons."""
