"""Look-up of complete documents: a page contains only the fields of its message, and some responses need the other fields too."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from msgspec import Struct

from quanyu.common.v1.page_pb2 import PageInfo
from services.kit.mongo.client import MessageDocument
from services.kit.mongo.codec import to_struct
from services.kit.mongo.scoped_collection import Page, ScopedCollection

S = TypeVar("S", bound=Struct)


async def find_full(collection: ScopedCollection[S], found: Sequence[MessageDocument]) -> list[S]:
    """Returns the complete documents of message-shaped ones as structs, in the same order; deleted documents are left out."""
    (documents,) = (await find_full_pages(collection, {"": (list(found), PageInfo())})).values()
    return documents[0]


async def find_full_pages(collection: ScopedCollection[S], pages: Mapping[str, Page]) -> dict[str, tuple[list[S], PageInfo]]:
    """Returns the complete documents of several pages, by the key of each page, with one query."""
    ids = [item["id"] for items, _ in pages.values() for item in items]
    cursor = collection.collection.find({"_id": {"$in": ids}})
    full = {document["_id"]: to_struct(document, collection.struct) async for document in cursor}
    return {key: ([full[item["id"]] for item in items if item["id"] in full], info) for key, (items, info) in pages.items()}
