"""Prefixed UUIDv7 strings: `con_018f…`. They sort by time of birth and tell what they name."""

from uuid_utils import uuid7


def new(prefix: str) -> str:
    """A fresh id of the noun that `prefix` stands for (three lower-case letters)."""
    return f"{prefix}_{uuid7().hex}"
