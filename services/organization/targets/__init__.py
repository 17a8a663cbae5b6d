"""Targets: what units are meant to sell, what they sold, and to whom an order is credited."""
