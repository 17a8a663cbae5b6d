"""Assertions for `BatchList…` rpcs: each list equals that of the `List…` rpc; and counts of the queries of a call."""

from collections.abc import Awaitable, Sequence
from typing import Any

import pytest
from google.protobuf.message_factory import GetMessageClass
from pymongo.read_concern import ReadConcern

from quanyu.common.v1.page_pb2 import PageInfo, PageRequest
from services.kit.errors import Invalid
from services.kit.mongo.client import Database
from services.kit.rpc.batch_lists import LISTS_MAX
from tests.services.worlds.rpcs import rpcs

SIZES = (1, 2, 3, 100)
"""Lists are compared with these page sizes."""
Lists = dict[str, tuple[list[Any], PageInfo]]
"""The items and the page info of the first page, by key; a key without items is missing."""


async def fetch_first_pages(stub: Any, rpc: str, by: str, keys: Sequence[str], first: int, **filters: Any) -> Lists:
    """Calls a `BatchList…` rpc with the keys in the field `by` with an `s`."""
    method = rpcs()[rpc]
    request = GetMessageClass(method.input_type)(**{f"{by}s": keys}, first=first, **filters)
    response = await getattr(stub, method.name)(request)
    lists = next((field for field in response.DESCRIPTOR.fields if getattr(response, field.name)), response.DESCRIPTOR.fields[0])
    key, items, *_ = lists.message_type.fields
    found = [(getattr(one, key.name), (list(getattr(one, items.name)), one.page)) for one in getattr(response, lists.name)]
    assert len(dict(found)) == len(found)
    return dict(found)


async def assert_batch_equals_lists(
    stub: Any, rpc: str, by: str, keys: Sequence[str], *, sibling: str = "", field: str = "", **filters: Any
) -> dict[str, int]:
    """Compares the lists in all SIZES and asserts the limits; returns the number of items of each key that has some.

    `field` names the field of an item to compare, if the others change between the calls.
    """
    method = rpcs()[sibling or rpc.replace(".BatchList", ".List")]
    found: Lists = {}
    for first in SIZES:
        found = await fetch_first_pages(stub, rpc, by, [*keys, *keys], first, **filters)
        for key in keys:
            request = GetMessageClass(method.input_type)(**{by: key}, page=PageRequest(first=first), **filters)
            one = await getattr(stub, method.name)(request)
            items = next(each.name for each in one.DESCRIPTOR.fields if each.is_repeated)
            batch_items, page = found.get(key, ([], PageInfo()))
            assert (_values(batch_items, field), page) == (_values(getattr(one, items), field), one.page), (key, first)
    with pytest.raises(Invalid, match="BATCH_TOO_LARGE"):
        await fetch_first_pages(stub, rpc, by, [f"{keys[0]}{number}" for number in range(LISTS_MAX + 1)], 1, **filters)
    with pytest.raises(Invalid, match="INVALID_PAGE_SIZE"):
        await fetch_first_pages(stub, rpc, by, keys, 101, **filters)
    return {key: len(items) for key, (items, _) in found.items()}


def _values(items: Sequence[Any], field: str) -> list[Any]:
    return [getattr(item, field) if field else item for item in items]


async def count_documents_read(database: Database, collection: str, call: Awaitable[Any]) -> int:
    """Returns how many documents of a collection the database examines for a call; asserts that it sorts none."""
    operations = [one for one in await profile_queries(database, call) if one["ns"] == f"{database.name}.{collection}"]
    assert not [one for one in operations if one.get("hasSortStage")]
    return sum(one["docsExamined"] for one in operations)


async def count_queries(database: Database, collections: Sequence[str], call: Awaitable[Any]) -> int:
    """Returns how many queries of these collections a call makes."""
    names = {f"{database.name}.{collection}" for collection in collections}
    return len([one for one in await profile_queries(database, call) if one["ns"] in names])


async def profile_queries(database: Database, call: Awaitable[Any]) -> list[dict[str, Any]]:
    """Returns the profile of the database operations of a call, which must be a coroutine that has not started."""
    await database["system.profile"].drop()
    await database.raw.command("profile", 2)
    try:
        await call
    finally:
        await database.raw.command("profile", 0)
    profile = database["system.profile"].with_options(read_concern=ReadConcern("local"))
    found: list[dict[str, Any]] = await profile.find({}).to_list(None)
    return found
