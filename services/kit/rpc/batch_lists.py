"""Helpers of `BatchList…` rpcs, which return the first pages of many lists, each as its `List…` rpc returns it."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from services.kit.errors import Invalid
from services.kit.mongo.scoped_collection import Page

LISTS_MAX = 100
"""A request names at most this many lists."""


def selected_ids(request: Message, *names: str) -> tuple[str, list[str]]:
    """Returns the one of these repeated fields that is set, as documents name it (`store_id` for `store_ids`), and its distinct ids.

    `Invalid` unless exactly one field is set, with at most LISTS_MAX ids.
    """
    set_names = [name for name in names if getattr(request, name)]
    if len(set_names) != 1:
        raise Invalid("INVALID_FIELD", f"Set exactly one of {', '.join(names)}.", field=names[0])
    ids: list[str] = list(getattr(request, set_names[0]))
    if len(ids) > LISTS_MAX:
        raise Invalid(
            "BATCH_TOO_LARGE", f"`{set_names[0]}` has more than {LISTS_MAX} entries. Split it into several requests.", field=set_names[0]
        )
    return set_names[0].removesuffix("s"), list(dict.fromkeys(ids))


def to_lists(key: str, items: str, found: Mapping[str, Page]) -> list[Any]:
    """Returns the pages shaped like the message with the fields `key`, `items` and `page`."""
    return [{key: id, items: documents, "page": page} for id, (documents, page) in found.items()]
