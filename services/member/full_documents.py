"""Rows that were found in scope, whole: answers that follow from more than the message's own fields need them."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from msgspec import Struct

from quanyu.common.v1.page_pb2 import PageInfo
from services.kit.mongo.client import Shaped
from services.kit.mongo.codec import as_struct
from services.kit.mongo.scoped_collection import Page, ScopedCollection

S = TypeVar("S", bound=Struct)


async def whole(table: ScopedCollection[S], found: Sequence[Shaped]) -> list[S]:
    """The rows behind message-shaped ones, as the rules' structs, in their order; a row that went meanwhile is left out."""
    (rows,) = (await whole_pages(table, {"": (list(found), PageInfo())})).values()
    return rows[0]


async def whole_pages(table: ScopedCollection[S], found: Mapping[str, Page]) -> dict[str, tuple[list[S], PageInfo]]:
    """The same of the rows of several pages, by their keys."""
    ids = [row["id"] for shown, _ in found.values() for row in shown]
    rows = {row["_id"]: as_struct(row, table.struct) async for row in table.collection.find({"_id": {"$in": ids}})}
    return {key: ([rows[row["id"]] for row in shown if row["id"] in rows], page) for key, (shown, page) in found.items()}
