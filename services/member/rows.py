"""Rows that were found in scope, whole: answers that follow from more than the message's own fields need them."""

from collections.abc import Sequence
from typing import TypeVar

from msgspec import Struct

from services.kit.documents import as_struct
from services.kit.mongo import Shaped
from services.kit.table import Table

S = TypeVar("S", bound=Struct)


async def whole(table: Table[S], found: Sequence[Shaped]) -> list[S]:
    """The rows behind message-shaped ones, as the rules' structs, in their order; a row that went meanwhile is left out."""
    ids = [row["id"] for row in found]
    rows = {row["_id"]: as_struct(row, table.struct) async for row in table.collection.find({"_id": {"$in": ids}})}
    return [rows[id] for id in ids if id in rows]
