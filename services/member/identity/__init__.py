"""One person behind many identities."""
