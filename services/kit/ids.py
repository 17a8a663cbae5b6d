"""Ids: UUIDv7 strings with the prefix of their noun, like `con_018f…`. They sort by time of creation."""

from datetime import UTC, datetime

from uuid_utils import uuid7


def pattern(prefix: str, *, length_max: int = 64, extra: str = "", optional: bool = False) -> str:
    """Returns the pattern of ids that clients may choose: a prefix, then ASCII letters, digits, `_`, `-` and the characters of `extra`.

    It ends with `\\Z`, since `$` would accept a line break at the end. `optional` also accepts an empty string.
    """
    id = rf"{prefix}_[A-Za-z0-9_{extra}-]{{1,{length_max}}}"
    return rf"^({id})?\Z" if optional else rf"^{id}\Z"


def new(prefix: str) -> str:
    """Returns a new id of the noun with this prefix of three lower-case letters."""
    return f"{prefix}_{uuid7().hex}"


def lower_bound(prefix: str, at: datetime) -> str:
    """Returns a lower bound for all ids that are created at this time or later."""
    return f"{prefix}_{max(0, int(at.timestamp() * 1000)):012x}"


def created_at(id: str) -> datetime:
    """Returns when an id was created, in milliseconds."""
    return datetime.fromtimestamp(int(id.partition("_")[2][:12], 16) / 1000, UTC)
