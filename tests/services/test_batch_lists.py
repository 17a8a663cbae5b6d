"""Whoever asks for many lists or things at once sees of each what the single rpc tells them: generated from the descriptors.

Everybody of the world of two tenants (tests/services/worlds) asks for their own lists beside the neighbours'.
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
from tests.services.conftest import starting
from tests.services.worlds.rpcs import Person, asked, rpcs
from tests.services.worlds.seeding import World, grown
from tests.services.worlds.sides import KINDS, NOBODY, OPERATOR, STRANGER, SYSTEM

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIBLINGS = {"CatalogService.BatchListOffers": "CatalogService.SearchOffers"}
"""Of those that are not named like it."""
WITHOUT = {"CatalogService.BatchListVariants"}
"""Has no sibling, and answers what everybody may see."""
SIZES = (1, 100)
KEYED = {
    "OrderService.BatchGetDestinations": ("OrderService.GetDestination", "order_id", "destination"),
    "TargetService.BatchGetScorecards": ("TargetService.GetScorecard", "", "scorecard"),
}
"""Batches of what is no noun with an id: the sibling, the item's field of the key (unless it is named like those asked for), and what both
tell: in the batch a part of an item, or the item itself where it has no such part."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(mongo_uri: str, keys: Keys) -> AsyncIterator[World]:
    settings = Settings(mongo_uri=mongo_uri, database_prefix=f"test{secrets.token_hex(4)}")
    async with starting(settings, keys) as start:
        yield await grown(await start(*SERVICES))


def people(world: World) -> Iterable[Person]:
    sides = (world.ash, world.birch, world.oak)
    yield from (NOBODY, STRANGER, OPERATOR, SYSTEM, world.person)
    yield from (person for side in sides for person in (*side.people.values(), side.everybody(list(KINDS.values()))))


def keys_of(world: World, by: str) -> list[str]:
    noun = by.removesuffix("_ids")
    ids = (world.ash.ids, world.birch.ids, world.oak.ids, world.common)
    return sorted({id for one in ids for id in (*one.get(noun, ()), *(one.get("linked_consumer", ()) if noun == "consumer" else ()))})


def single(name: str, by: str, key: str, **further: Any) -> Message:
    """The request of the sibling for one of the keys."""
    if by == "relation_ids":
        consumer_id, mark, brand = key.removeprefix("rel_").partition("_brd_")
        return asked(name, consumer_id=consumer_id, brand_id=mark[1:] + brand, **further)
    return asked(name, **{by.removesuffix("s"): key}, **further)


def lists_in(answer: Message) -> Iterator[tuple[str, list[Message], Message | None]]:
    for field in answer.DESCRIPTOR.fields:
        if field.is_repeated:
            for one in getattr(answer, field.name):
                key, items, *_ = one.DESCRIPTOR.fields
                yield getattr(one, key.name), list(getattr(one, items.name)), getattr(one, "page", None)


def standing(item: Message) -> Message:
    """An item without what cools from one moment to the next."""
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
async def test_a_batch_tells_nobody_what_the_list_does_not(world: World, batch: str, sibling: str, by: str) -> None:
    keys, told = keys_of(world, by), 0
    paged = "first" in rpcs()[batch].input_type.fields_by_name
    for person in people(world):
        for first in SIZES if paged else (0,):
            outcome = await world.suite.call(batch, person, asked(batch, **{by: keys}, **({"first": first} if paged else {})))
            assert not outcome.broken
            found = {key: (items, page) for answer in outcome.answers for key, items, page in lists_in(answer)}
            for key in keys:
                one = await world.suite.call(sibling, person, single(sibling, by, key, **({"page": {"first": first}} if paged else {})))
                items: list[Message] = []
                for answer in one.answers:
                    repeated = next(field.name for field in answer.DESCRIPTOR.fields if field.is_repeated)
                    items = list(getattr(answer, repeated))
                shown = found.get(key, ([], None))[0]
                assert list(map(standing, shown)) == list(map(standing, items)), (person.label, key, first)
                if items and paged:
                    assert found[key][1] == one.answers[0].page, (person.label, key, first)
                if not paged:
                    assert (key in found) == one.done, (person.label, key)
                told += len(items)
    assert told


@pytest.mark.parametrize(("batch", "by"), [(name, by) for name in KEYED for by in keyed_by(name)])
async def test_a_batch_tells_nobody_what_the_single_rpc_does_not(world: World, batch: str, by: str) -> None:
    sibling, key_field, part = KEYED[batch]
    keys, told = keys_of(world, by), 0
    days = {"from_day": f"{world.at:%Y-%m}-01", "until_day": f"{world.at:%Y-%m-%d}"} if part == "scorecard" else {}
    for person in people(world):
        outcome = await world.suite.call(batch, person, asked(batch, **{by: [*keys, *keys, "unknown"]}, **days))
        items = [item for answer in outcome.answers for field in answer.DESCRIPTOR.fields for item in getattr(answer, field.name)]
        found = {getattr(item, key_field or by.removesuffix("s")): getattr(item, part, item) for item in items}
        assert len(found) == len(items)
        singles = {key: await world.suite.call(sibling, person, single(sibling, by, key, **days)) for key in keys}
        assert found == {key: getattr(one.answers[0], part) for key, one in singles.items() if one.done}, person.label
        told += len(found)
    assert told
