"""Prefixed UUIDv7 strings: `con_018f…`. They sort by time of birth and tell what they name."""

from datetime import UTC, datetime

from uuid_utils import uuid7


def shape(prefix: str, *, length_max: int = 64, further: str = "", empty: bool = False) -> str:
    """The pattern of ids that others may choose: after a prefix ASCII letters, digits, `_`, `-` and what is `further` allowed.

    It holds to the very end: `$` would let a line break through, and an id that ends in one is found by nobody who types it.
    `empty`: there may be none.
    """
    id = rf"{prefix}_[A-Za-z0-9_{further}-]{{1,{length_max}}}"
    return rf"^({id})?\Z" if empty else rf"^{id}\Z"


def new(prefix: str) -> str:
    """A fresh id of the noun that `prefix` stands for (three lower-case letters)."""
    return f"{prefix}_{uuid7().hex}"


def least(prefix: str, at: datetime) -> str:
    """What no id that was made at this time or later comes before."""
    return f"{prefix}_{max(0, int(at.timestamp() * 1000)):012x}"


def made_at(id: str) -> datetime:
    """When an id was made, to the millisecond."""
    return datetime.fromtimestamp(int(id.partition("_")[2][:12], 16) / 1000, UTC)
