"""What `BatchList…` rpcs share: they answer the first pages of many lists, each as its `List…` rpc does."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from services.kit.errors import Invalid
from services.kit.mongo.scoped_collection import Page

LISTS_MAX = 100
"""Lists of which the first pages are asked for at a time."""


def asked(request: Message, *names: str) -> tuple[str, list[str]]:
    """The one of these repeated fields that says which lists, as rows name it (`store_ids` are of `store_id`), and its ids, each once.

    `Invalid` unless exactly one is given, with at most LISTS_MAX ids.
    """
    given = [name for name in names if getattr(request, name)]
    if len(given) != 1:
        raise Invalid("INVALID_FIELD", f"give exactly one of {', '.join(names)}", field=names[0])
    ids: list[str] = list(getattr(request, given[0]))
    if len(ids) > LISTS_MAX:
        raise Invalid("BATCH_TOO_LARGE", f"ask for at most {LISTS_MAX} at a time", field=given[0])
    return given[0].removesuffix("s"), list(dict.fromkeys(ids))


def answered(key: str, items: str, found: Mapping[str, Page]) -> list[Any]:
    """The lists that were found, shaped like the message that has their `key`, their `items` and their `page`."""
    return [{key: id, items: rows, "page": page} for id, (rows, page) in found.items()]
