"""What a `BatchList…` rpc says of each of many is what its `List…` sibling says of that one."""

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
Lists = dict[str, tuple[list[Any], PageInfo]]
"""The first page of each key that has one."""


async def first_pages(stub: Any, rpc: str, by: str, keys: Sequence[str], first: int, **filters: Any) -> Lists:
    """What `BatchList…` answers to keys given in the field `by` and an `s`."""
    method = rpcs()[rpc]
    request = GetMessageClass(method.input_type)(**{f"{by}s": keys}, first=first, **filters)
    answer = await getattr(stub, method.name)(request)
    lists = next((field for field in answer.DESCRIPTOR.fields if getattr(answer, field.name)), answer.DESCRIPTOR.fields[0])
    key, items, *_ = lists.message_type.fields
    found = [(getattr(one, key.name), (list(getattr(one, items.name)), one.page)) for one in getattr(answer, lists.name)]
    assert len(dict(found)) == len(found)
    return dict(found)


async def says_the_same_of_each(
    stub: Any, rpc: str, by: str, keys: Sequence[str], *, sibling: str = "", told: str = "", **filters: Any
) -> dict[str, int]:
    """Compares in several sizes; how much each key has, those that have nothing left out. More keys than a batch takes are refused.

    `told` names the field of an item that is compared, where not all of it stays as it is meanwhile.
    """
    method = rpcs()[sibling or rpc.replace(".BatchList", ".List")]
    found: Lists = {}
    for first in SIZES:
        found = await first_pages(stub, rpc, by, [*keys, *keys], first, **filters)
        for key in keys:
            request = GetMessageClass(method.input_type)(**{by: key}, page=PageRequest(first=first), **filters)
            one = await getattr(stub, method.name)(request)
            items = next(field.name for field in one.DESCRIPTOR.fields if field.is_repeated)
            shown, page = found.get(key, ([], PageInfo()))
            assert (_told(shown, told), page) == (_told(getattr(one, items), told), one.page), (key, first)
    with pytest.raises(Invalid, match="BATCH_TOO_LARGE"):
        await first_pages(stub, rpc, by, [f"{keys[0]}{number}" for number in range(LISTS_MAX + 1)], 1, **filters)
    with pytest.raises(Invalid, match="INVALID_PAGE_SIZE"):
        await first_pages(stub, rpc, by, keys, 101, **filters)
    return {key: len(items) for key, (items, _) in found.items()}


def _told(items: Sequence[Any], field: str) -> list[Any]:
    return [getattr(item, field) if field else item for item in items]


async def rows_read(database: Database, collection: str, call: Awaitable[Any]) -> int:
    """How many rows of a collection the database looks at for a call, which must need no sorting."""
    seen = [one for one in await profiled(database, call) if one["ns"] == f"{database.name}.{collection}"]
    assert not [one for one in seen if one.get("hasSortStage")]
    return sum(one["docsExamined"] for one in seen)


async def queries_made(database: Database, collections: Sequence[str], call: Awaitable[Any]) -> int:
    """How many queries of these collections the database is asked for a call."""
    names = {f"{database.name}.{collection}" for collection in collections}
    return len([one for one in await profiled(database, call) if one["ns"] in names])


async def profiled(database: Database, call: Awaitable[Any]) -> list[dict[str, Any]]:
    """What the database was asked for a call, which must not have begun: a coroutine."""
    await database["system.profile"].drop()
    await database.raw.command("profile", 2)
    try:
        await call
    finally:
        await database.raw.command("profile", 0)
    profile = database["system.profile"].with_options(read_concern=ReadConcern("local"))
    found: list[dict[str, Any]] = await profile.find({}).to_list(None)
    return found
