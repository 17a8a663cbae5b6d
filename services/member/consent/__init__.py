"""Consents: what consumers allow brands to do."""
