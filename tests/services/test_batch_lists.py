"""Access tests of batch rpcs: each caller gets of each key what the single rpc returns, generated from the descriptors.

All people of the world of two tenants (tests/services/worlds) request their own lists together with those of the others.
"""

import secrets
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.message import Message

from services.kit.runtime.runtime import SERVICES
from services.kit.settings import Settings
from services.local.keys import Keys
from tests.services.conftest import run_services
from tests.services.worlds.rpcs import Person, make_request, rpcs
from tests.services.worlds.seeding import World, seed_world
from tests.services.worlds.sides import ANONYMOUS, OPERATOR, ROLES_BY_NAME, SYSTEM, WITHOUT_GRANTS

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIBLINGS = {"CatalogService.BatchListOffers": "CatalogService.SearchOffers"}
"""The single rpcs with another name than that of the batch."""
WITHOUT = {"CatalogService.BatchListVariants"}
"""These have no single rpc and return public data."""
SIZES = (1, 100)
KEYED = {
    "OrderService.BatchGetDestinations": ("OrderService.GetDestination", "order_id", "destination"),
    "TargetService.BatchGetScorecards": ("TargetService.GetScorecard", "", "scorecard"),
}
"""Batches of items without an id: the single rpc, the field of an item with the key, and the field with the value.

An empty key field is named like the field of the request. If an item lacks the value field, the item itself is the value.
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(mongo_uri: str, keys: Keys) -> AsyncIterator[World]:
    settings = Settings(mongo_uri=mongo_uri, database_prefix=f"test{secrets.token_hex(4)}")
    async with run_services(settings, keys) as start:
        yield await seed_world(await start(*SERVICES))


def people(world: World) -> Iterable[Person]:
    sides = (world.ash, world.birch, world.oak)
    yield from (ANONYMOUS, WITHOUT_GRANTS, OPERATOR, SYSTEM, world.person)
    yield from (person for side in sides for person in (*side.people.values(), side.combine_people(list(ROLES_BY_NAME.values()))))


def keys_of(world: World, by: str) -> list[str]:
    noun = by.removesuffix("_ids")
    ids = (world.ash.ids, world.birch.ids, world.oak.ids, world.common)
    return sorted({id for one in ids for id in (*one.get(noun, ()), *(one.get("linked_consumer", ()) if noun == "consumer" else ()))})


def single_request(name: str, by: str, key: str, **fields: Any) -> Message:
    """Builds the request of the single rpc for one of the keys."""
    if by == "relation_ids":
        consumer_id, mark, brand = key.removeprefix("rel_").partition("_brd_")
        return make_request(name, consumer_id=consumer_id, brand_id=mark[1:] + brand, **fields)
    return make_request(name, **{by.removesuffix("s"): key}, **fields)


def lists_in(response: Message) -> Iterator[tuple[str, list[Message], Message | None]]:
    for field in response.DESCRIPTOR.fields:
        if field.is_repeated:
            for one in getattr(response, field.name):
                key, items, *_ = one.DESCRIPTOR.fields
                yield getattr(one, key.name), list(getattr(one, items.name)), getattr(one, "page", None)


def stable_part(item: Message) -> Message:
    """Returns the item without values that change with time."""
    if "closeness" in item.DESCRIPTOR.fields_by_name:
        item.ClearField("closeness")
    return item


def keyed_by(batch: str) -> list[str]:
    return [field.name for field in rpcs()[batch].input_type.fields if field.is_repeated and field.name.endswith("_ids")]


PAIRS = sorted(
    (name, SIBLINGS.get(name, name.replace(".BatchList", ".List")), by)
    for name in rpcs()
    if ".BatchList" in name and name not in WITHOUT
    for by in keyed_by(name)
)


@pytest.mark.parametrize(("batch", "sibling", "by"), PAIRS)
async def test_batch_list_equals_the_single_lists(world: World, batch: str, sibling: str, by: str) -> None:
    keys, compared = keys_of(world, by), 0
    paged = "first" in rpcs()[batch].input_type.fields_by_name
    for person in people(world):
        for first in SIZES if paged else (0,):
            outcome = await world.suite.call(batch, person, make_request(batch, **{by: keys}, **({"first": first} if paged else {})))
            assert not outcome.broken
            found = {key: (items, page) for answer in outcome.answers for key, items, page in lists_in(answer)}
            for key in keys:
                one = await world.suite.call(
                    sibling, person, single_request(sibling, by, key, **({"page": {"first": first}} if paged else {}))
                )
                items: list[Message] = []
                for answer in one.answers:
                    repeated = next(field.name for field in answer.DESCRIPTOR.fields if field.is_repeated)
                    items = list(getattr(answer, repeated))
                batch_items = found.get(key, ([], None))[0]
                assert list(map(stable_part, batch_items)) == list(map(stable_part, items)), (person.label, key, first)
                if items and paged:
                    assert found[key][1] == one.answers[0].page, (person.label, key, first)
                if not paged:
                    assert (key in found) == one.done, (person.label, key)
                compared += len(items)
    assert compared


@pytest.mark.parametrize(("batch", "by"), [(name, by) for name in KEYED for by in keyed_by(name)])
async def test_batch_get_equals_the_single_rpc(world: World, batch: str, by: str) -> None:
    sibling, key_field, part = KEYED[batch]
    keys, compared = keys_of(world, by), 0
    days = {"from_day": f"{world.at:%Y-%m}-01", "until_day": f"{world.at:%Y-%m-%d}"} if part == "scorecard" else {}
    for person in people(world):
        outcome = await world.suite.call(batch, person, make_request(batch, **{by: [*keys, *keys, "unknown"]}, **days))
        items = [item for answer in outcome.answers for field in answer.DESCRIPTOR.fields for item in getattr(answer, field.name)]
        found = {getattr(item, key_field or by.removesuffix("s")): getattr(item, part, item) for item in items}
        assert len(found) == len(items)
        singles = {key: await world.suite.call(sibling, person, single_request(sibling, by, key, **days)) for key in keys}
        assert found == {key: getattr(one.answers[0], part) for key, one in singles.items() if one.done}, person.label
        compared += len(found)
    assert compared
