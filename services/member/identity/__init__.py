"""Identity: one person behind many consumer ids and identities (OneID)."""
