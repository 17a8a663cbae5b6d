"""Transactions: the unit of work, idempotency, group commit and the outbox."""
