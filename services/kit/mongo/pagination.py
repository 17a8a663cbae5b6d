"""Keyset pagination: a cursor holds the order values of the last document, so that documents inserted later never shift a page."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from quanyu.common.v1.page_pb2 import PageRequest
from services.kit.errors import Invalid
from services.kit.mongo.client import Document

PAGE_SIZE = 20
"""A page has this many items if the request names no size."""
PAGE_SIZE_MAX = 100
"""A page has at most this many items."""
CURSOR_LENGTH_MAX = 1024
"""A cursor has at most this many characters."""

T = TypeVar("T")
Order = Sequence[tuple[str, int]]
"""Fields and directions (1, -1). Each document has each field of an order; `_id` comes last, so that the order is total."""


def page_size(page: PageRequest) -> int:
    """Returns the number of items that a page request names, by default PAGE_SIZE; `Invalid` outside of 1 to PAGE_SIZE_MAX."""
    if not 0 <= page.first <= PAGE_SIZE_MAX:
        raise Invalid("INVALID_PAGE_SIZE", f"`first` must be between 1 and {PAGE_SIZE_MAX}.", field="first")
    return page.first or PAGE_SIZE


def encode_token(value: Any) -> str:
    """Encodes a plain value or a struct as an opaque token of letters, digits, `-` and `_`."""
    return urlsafe_b64encode(msgspec.msgpack.encode(value)).decode().rstrip("=")


def decode_token(token: str, type: type[T]) -> T | None:
    """Decodes a token; None if it is too long, damaged or of another type."""
    if len(token) > CURSOR_LENGTH_MAX:
        return None
    try:
        return msgspec.msgpack.decode(urlsafe_b64decode(token + "=" * (-len(token) % 4)), type=type)
    except (ValueError, msgspec.MsgspecError):
        return None


def encode_cursor(list_name: str, values: Sequence[Any]) -> str:
    """Encodes the cursor of a document: the name of its list and its order values."""
    return encode_token([list_name, *values])


def decode_cursor(list_name: str, order: Order, token: str, kinds: Sequence[type] | None = None) -> list[Any]:
    """Decodes the order values of a cursor; `Invalid` if it is damaged, forged or of another list.

    `kinds` are the types of the values. A caller that uses the values elsewhere than in `filter_after` must give them.
    """
    name, *values = decode_token(token, list[Any]) or [None]
    if (
        name != list_name
        or len(values) != len(order)
        or not all(map(_is_orderable, values))
        or not all(map(isinstance, values, kinds or ()))
    ):
        raise Invalid("INVALID_CURSOR", "`after` is not a cursor of this list. Start at the first page.", field="after")
    return values


def _is_orderable(value: Any) -> bool:
    """True if MongoDB can order by this value: a mapping would reach it as operators, and its integers have 64 bits."""
    return isinstance(value, str | float | datetime) or (isinstance(value, int) and -(2**63) <= value < 2**63)


def filter_after(order: Order, last: Sequence[Any]) -> Document:
    """Returns the filter for the documents after the one with these order values."""
    alternatives = []
    for position, (field, direction) in enumerate(order):
        equal = {name: value for (name, _), value in zip(order[:position], last, strict=False)}
        alternatives.append(equal | {field: {"$gt" if direction > 0 else "$lt": last[position]}})
    return alternatives[0] if len(alternatives) == 1 else {"$or": alternatives}
