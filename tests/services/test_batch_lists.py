"""Whoever asks for the first pages of many lists at once sees of each what the single list tells them: generated from the descriptors.

Everybody of the world of two tenants (tests/services/worlds) asks for their own lists beside the neighbours'.
"""

import secrets
from collections.abc import AsyncIterator, Iterable, Iterator

import pytest
import pytest_asyncio
from google.protobuf.message import Message

from services.kit.house import SERVICES
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


def single(name: str, by: str, key: str, first: int) -> Message:
    """The request of the sibling for one of the keys."""
    if by == "relation_ids":
        consumer_id, mark, brand = key.removeprefix("rel_").partition("_brd_")
        return asked(name, consumer_id=consumer_id, brand_id=mark[1:] + brand, page={"first": first})
    return asked(name, **{by.removesuffix("s"): key}, page={"first": first})


def lists_in(answer: Message) -> Iterator[tuple[str, list[Message], Message]]:
    for field in answer.DESCRIPTOR.fields:
        if field.is_repeated:
            for one in getattr(answer, field.name):
                key, items, *_ = one.DESCRIPTOR.fields
                yield getattr(one, key.name), list(getattr(one, items.name)), one.page


def standing(item: Message) -> Message:
    """An item without what cools from one moment to the next."""
    if "closeness" in item.DESCRIPTOR.fields_by_name:
        item.ClearField("closeness")
    return item


PAIRS = sorted(
    (name, SIBLINGS.get(name, name.replace(".BatchList", ".List")), field.name)
    for name, method in rpcs().items()
    if ".BatchList" in name and name not in WITHOUT
    for field in method.input_type.fields
    if field.is_repeated and field.name.endswith("_ids")
)


@pytest.mark.parametrize(("batch", "sibling", "by"), PAIRS)
async def test_a_batch_tells_nobody_what_the_list_does_not(world: World, batch: str, sibling: str, by: str) -> None:
    keys = keys_of(world, by)
    told = 0
    for person in people(world):
        for first in SIZES:
            outcome = await world.suite.call(batch, person, asked(batch, **{by: keys}, first=first))
            assert not outcome.broken
            found = {key: (items, page) for answer in outcome.answers for key, items, page in lists_in(answer)}
            for key in keys:
                one = await world.suite.call(sibling, person, single(sibling, by, key, first))
                items: list[Message] = []
                for answer in one.answers:
                    repeated = next(field.name for field in answer.DESCRIPTOR.fields if field.is_repeated)
                    items = list(getattr(answer, repeated))
                shown = found.get(key, ([], None))[0]
                assert list(map(standing, shown)) == list(map(standing, items)), (person.label, key, first)
                if items:
                    assert found[key][1] == one.answers[0].page, (person.label, key, first)
                told += len(items)
    assert told
