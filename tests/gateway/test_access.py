"""Access through the graph: generated operations disclose and change no data of another tenant, in front of four real services.

The world is that of `tests/services/worlds`. The people of birch, and those of oak, ash's other store, send every operation with ash's ids,
with their own ids and with both. Ash's people then send the same operations, which proves that there is data to disclose.
"""

import asyncio
import json
import logging
import re
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import structlog
from msgspec import Struct

from gateway.app import build
from services.kit.runtime.runtime import SERVICES
from services.kit.settings import Settings
from services.local.keys import Keys
from tests.gateway.conftest import FAULTS, Gateway
from tests.gateway.schema_operations import Ids, OperationGenerator, list_fields
from tests.services.conftest import run_services
from tests.services.test_access import ALLOWED
from tests.services.worlds.rpcs import Person
from tests.services.worlds.seeding import World, seed_world
from tests.services.worlds.sides import Side
from tests.services.worlds.watching import GENERATED_ID, ChangeWatcher, OwnData, document_values, find_own_data

PUBLIC_FIELDS = {
    "brand": "public: the sellers",
    "store": "public: the stores",
    "product": "public: the catalogue", "variant": "the same", "offer": "the same", "offers": "the same",
    "promises": "public: availability near by, without quantities",
    "district": "public: the places", "districts": "the same", "venue": "public: the venues", "campaign": "public: the campaigns",
    "nodes of Brand": "as above", "nodes of Store": "as above", "nodes of Product": "as above", "nodes of Variant": "as above",
    "nodes of Offer": "as above", "nodes of District": "as above", "nodes of Venue": "as above", "nodes of Campaign": "as above",
}  # fmt: skip
"""The fields that return data to anonymous clients, with the reason. Add a field only after a check of the personal data in it."""
UNSEEN_FIELDS: Mapping[str, str] = {}
"""Fields that are not public and that return no data of their owner in this world."""
REFUSED_TYPES = (None, "NotFound", "NotPermitted", "InvalidInput")
ENDING = re.compile(r"cancel|release|dismiss|revoke|unbind|unlink|leave|move|complete")
"""Mutations that end objects are sent last."""
UNBOUNDED = {
    f"limit_{name}": 10_000_000 for name in ("body_bytes", "characters", "tokens", "fields", "repeats", "roots", "aliases", "cost")
}
AMOUNT = re.compile(r"^\d+(\.\d\d)?$")

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Turns off the log of thousands of refused operations."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


class Actor(Struct, frozen=True):
    """A client of the test: its label, and the subject of its token (empty: anonymous)."""

    label: str
    subject: str
    side: Side

    @property
    def person(self) -> Person:
        return Person(self.label, self.subject)


class Street:
    """The world and a gateway in front of its services."""

    def __init__(self, world: World, gateway: Gateway) -> None:
        self.world, self.gateway = world, gateway
        self.generator = OperationGenerator(gateway.app.state.executor.core, world.at)

    async def answer(self, actor: Actor, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
        """Returns the response to an actor, which must not be a fault."""
        response = await self.gateway.post({"query": query, "variables": variables}, subject=actor.subject, offset=self.world.suite.offset)
        assert response.status_code == 200, (query[:300], response.text[:600], variables)
        body: dict[str, Any] = response.json()
        codes = {error["extensions"]["code"] for error in body.get("errors", ())}
        assert not codes & FAULTS, (actor.label, query[:300], body["errors"][:3])
        return body

    async def answers(self, actors: list[Actor], query: str) -> list[dict[str, Any]]:
        """Returns the response to each actor."""
        return await asyncio.gather(*(self.answer(actor, query) for actor in actors))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def street(mongo_uri: str, keys: Keys) -> AsyncIterator[Street]:
    """One world for all tests. The test of its owners is last."""
    settings = Settings(mongo_uri=mongo_uri, database_prefix=f"test{secrets.token_hex(4)}")
    async with run_services(settings, keys) as start:
        running = await start(*SERVICES)
        world = await seed_world(running)
        for side in (world.ash, world.birch, world.oak):
            await _grant_roles(world, side)
        await world.wait_for_events()
        own = {f"{name}_address": service.address for name, service in running.items()}
        own |= {"signing_key": keys.signing_setting("gateway"), "token_keys": keys.tokens_setting(), "deadline_seconds": 60.0}
        rates = {"rate_principal": 0.0, "rate_tenant": 0.0, "rate_address": 0.0}
        app = build(msgspec.structs.replace(settings, **own | rates | UNBOUNDED))  # type: ignore[arg-type]
        async with app.router.lifespan_context(app):
            gateway = Gateway(app, keys)
            async with gateway.http:
                yield Street(world, gateway)


async def _grant_roles(world: World, side: Side) -> None:
    """Grants the roles of a side's staff. Its guide already has a role."""
    _, manager, supervisor, operator = side.ids["staff"][:4]
    for staff, role, kind, scope in ((manager, 3, 4, side.store), (supervisor, 4, 3, side.org_unit), (operator, 5, 2, side.brand_id)):
        if side.brand == side.name or role != 5:
            granted = await world.write("ChartService.GrantRole", staff_id=staff, role=role, kind=kind, scope_id=scope)
            side.add_ids("grant", granted.grant.id)


def list_people(side: Side) -> list[Actor]:
    """Returns all people of a side who may sign in; of oak, only its staff, because its brand is ash's."""
    whole = side.brand == side.name
    guide, manager, supervisor, operator = side.ids["staff"][:4]
    subjects = {"GUIDE": guide, "STORE_MANAGER": manager, "SUPERVISOR": supervisor}
    subjects |= {"BRAND_OPERATOR": operator, "CONSUMER": side.consumer} if whole else {}
    return [Actor(f"{side.name}'s {kind}", subject, side) for kind, subject in subjects.items()]


def find_disclosed(own: OwnData, body: dict[str, Any], text: str) -> list[str]:
    """Returns the values of the target that a response discloses. An error may repeat the text of the operation, `data` may not."""
    found = [value for value in document_values(body.get("data")) if _is_disclosed(own, value)]
    echoed = sorted(set(re.findall(r"[\w:.-]{4,}", text)), key=len, reverse=True)
    for error in body.get("errors", ()):
        rest = error["message"]
        for echo in echoed:
            rest = rest.replace(echo, "")
        if _is_disclosed(own, rest):
            found.append(error["message"])
    return [str(each) for each in found]


def _is_disclosed(own: OwnData, value: Any) -> bool:
    if isinstance(value, str):
        minor = int(value.replace(".", "")) if AMOUNT.match(value) else 0
        return own.secret in value or not own.ids.isdisjoint(GENERATED_ID.findall(value)) or minor in own.numbers
    return isinstance(value, int) and not isinstance(value, bool) and value in own.numbers


async def test_generated_operations_reach_every_field(street: Street) -> None:
    world = street.world
    sides = {"target": world.ash.ids}
    assert list(street.generator.queries(sides))
    assert list(street.generator.mutations(sides))
    assert list(street.generator.subscriptions(sides))
    assert not street.generator.unknown, "add ids of these to the world (tests/services/worlds)"
    assert sorted(list_fields(street.generator.schema) - street.generator.reached) == []


async def test_anonymous_client_sees_listed_fields_only(street: Street) -> None:
    anonymous, answered = Actor("anonymous", "", street.world.birch), set()
    for name, query in street.generator.queries({"target": street.world.ash.ids}):
        if any(value not in (None, []) for value in _list_values((await street.answer(anonymous, query))["data"])):
            answered.add(name)
    assert answered == set(PUBLIC_FIELDS)


@pytest.mark.parametrize("attacker", ["birch", "oak"])
async def test_query_discloses_no_foreign_data(street: Street, attacker: str) -> None:
    world, side = street.world, getattr(street.world, attacker)
    own = await find_own_data(world.ash, side, world)
    actors = [Actor("anonymous", "", side), *list_people(side)]
    problems = []
    for name, query in street.generator.queries(_list_sides(world, side)):
        for actor, body in zip(actors, await street.answers(actors, query), strict=True):
            if found := find_disclosed(own, body, query):
                problems.append(f"{name} discloses to {actor.label} {found[:3]}: {query[:200]}")
    assert not problems, "\n".join([f"{len(problems)}", *problems[:30]])


@pytest.mark.parametrize("attacker", ["birch", "oak"])
async def test_mutation_changes_no_foreign_data(street: Street, attacker: str) -> None:
    world, side = street.world, getattr(street.world, attacker)
    own = await find_own_data(world.ash, side, world)
    watches = [ChangeWatcher(service) for service in world.suite.services.values()]
    for watch in watches:
        await watch.find_changes()
    problems = []
    for name, group in groupby(street.generator.mutations(_list_sides(world, side)), key=itemgetter(0)):
        inputs = list(group)
        for actor in list_people(side):
            for _, query, given in inputs:
                if found := _find_disclosed_change(own, await street.answer(actor, query, {"input": given}), given):
                    problems.append(f"{name} discloses to {actor.label} {found[:3]}: {given}")
            problems += [line async for line in _list_changes(street, watches, own, name, actor)]
    await world.wait_for_events()
    for watch in watches:
        problems += [f"an event changed {change}" for change in await watch.find_changes() if own.is_changed_by(watch.scopes, change)]
    assert not problems, "\n".join([f"{len(problems)}", *problems[:30]])


async def _list_changes(street: Street, watches: list[ChangeWatcher], own: OwnData, name: str, actor: Actor) -> AsyncIterator[str]:
    rpc = street.generator.schema.mutation_type.fields[name].extensions["strawberry-definition"].rpc.method  # type: ignore[union-attr]
    allowed = ALLOWED.get(f"{rpc.containing_service.name}.{rpc.name}", ())
    for watch in watches:
        for change in await watch.find_changes():
            if own.is_changed_by(watch.scopes, change) and not any(one.allows(change, actor.person, actor.side) for one in allowed):
                yield f"{name} lets {actor.label} change {change.collection}: {change.before} -> {change.after}"


def _find_disclosed_change(own: OwnData, body: dict[str, Any], given: dict[str, Any]) -> list[str]:
    """Does the same for a mutation, whose payload and refusal may repeat its input."""
    text = json.dumps(body, ensure_ascii=False)
    for echo in sorted({each for each in document_values(given) if isinstance(each, str) and len(each) > 3}, key=len, reverse=True):
        text = text.replace(echo, "")
    return find_disclosed(own, json.loads(text), "")


async def test_owners_see_and_change_their_data(street: Street) -> None:
    """Without this, the tests above could not fail."""
    world = street.world
    own = await find_own_data(world.ash, world.birch, world)
    seen, done = defaultdict(bool), defaultdict(bool)
    for name, query in street.generator.queries({"target": world.ash.ids}):
        seen[name] |= any(find_disclosed(own, body, query) for body in await street.answers(list_people(world.ash), query))
    unseen = {name for name, saw in seen.items() if not saw} - set(PUBLIC_FIELDS)
    assert unseen == set(UNSEEN_FIELDS)
    owners = [*list_people(world.ash), Actor("the operator", "operator", world.ash)]
    for name, query, given in sorted(street.generator.owner_mutations(world.ash.ids), key=lambda each: bool(ENDING.match(each[0]))):
        for actor in owners:
            if not done[name]:
                body = await street.answer(actor, query, {"input": given})
                done[name] = (body["data"][name] or {}).get("__typename") not in REFUSED_TYPES
    assert {name for name, was in done.items() if not was} == set(), "no owner may execute these mutations"


def _list_sides(world: World, side: Side) -> dict[str, Ids]:
    """Returns the ids for the arguments of a foreign actor: the target's, its own, and those of shared objects."""
    return {"target": world.ash.ids, "own": side.ids, "common": {**side.ids, **world.common}}


def _list_values(value: Any) -> Iterator[Any]:
    """Yields the values of a response without type names."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name != "__typename":
                yield from _list_values(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _list_values(inner)
    else:
        yield value
