"""Logs and metrics of the gateway: one line and one observation per operation, and coalesced lines for frequent refusals."""
