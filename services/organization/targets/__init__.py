"""Targets: monthly targets of org units, scorecards, and the guide that each order is credited to."""
