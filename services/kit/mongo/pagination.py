"""Keyset pages: a cursor is the last row's order values, so that rows inserted meanwhile never shift a page."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from quanyu.common.v1.page_pb2 import PageRequest
from services.kit.errors import Invalid
from services.kit.mongo.client import Document

PAGE_SIZE = 20
PAGE_SIZE_MAX = 100
CURSOR_LENGTH_MAX = 1024

T = TypeVar("T")
Order = Sequence[tuple[str, int]]
"""Fields and directions (1, -1). Every row has every field of an order; `_id` comes last and makes it total."""


def size(page: PageRequest) -> int:
    """How many items a page asks for: 20 when it does not say; `Invalid` outside 1 to 100."""
    if not 0 <= page.first <= PAGE_SIZE_MAX:
        raise Invalid("INVALID_PAGE_SIZE", f"ask for 1 to {PAGE_SIZE_MAX} items", field="first")
    return page.first or PAGE_SIZE


def token(value: Any) -> str:
    """An opaque token of a plain value (or a struct): letters, digits, `-` and `_`."""
    return urlsafe_b64encode(msgspec.msgpack.encode(value)).decode().rstrip("=")


def opened(token: str, type: type[T]) -> T | None:
    """The value a token was made of; None when it is too long, damaged or of another type."""
    if len(token) > CURSOR_LENGTH_MAX:
        return None
    try:
        return msgspec.msgpack.decode(urlsafe_b64decode(token + "=" * (-len(token) % 4)), type=type)
    except (ValueError, msgspec.MsgspecError):
        return None


def cursor(list_name: str, values: Sequence[Any]) -> str:
    """The opaque token of a row: the list it belongs to and the row's order values."""
    return token([list_name, *values])


def values(list_name: str, order: Order, token: str, kinds: Sequence[type] | None = None) -> list[Any]:
    """The order values a token carries, of these `kinds`; `Invalid` when it is damaged, made by hand or of another list.

    Whoever does more with them than to ask the database for what comes after them says what kinds they are.
    """
    name, *found = opened(token, list[Any]) or [None]
    if name != list_name or len(found) != len(order) or not all(map(_scalar, found)) or not all(map(isinstance, found, kinds or ())):
        raise Invalid("INVALID_CURSOR", "this cursor is not one of this list; start at the first page", field="after")
    return found


def _scalar(value: Any) -> bool:
    """Whether the database orders by such values: a mapping would reach it as operators, and it has integers of 64 bits."""
    return isinstance(value, str | float | datetime) or (isinstance(value, int) and -(2**63) <= value < 2**63)


def after(order: Order, last: Sequence[Any]) -> Document:
    """The filter for rows that come after the row with these order values."""
    alternatives = []
    for position, (field, direction) in enumerate(order):
        equal = {name: value for (name, _), value in zip(order[:position], last, strict=False)}
        alternatives.append(equal | {field: {"$gt" if direction > 0 else "$lt": last[position]}})
    return alternatives[0] if len(alternatives) == 1 else {"$or": alternatives}
