"""Nobody sees or changes through the graph what is a neighbour's: everything the schema lets one ask, before four real services.

The world is that of `tests/services/worlds`: birch's people, and those of ash's other store oak, ask for everything with ash's ids, with
their own and with both. Ash's people then ask the same, so that it is known that something could have been seen.
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
from tests.gateway.asking import Asking, Ids, fields_of
from tests.gateway.conftest import FAULTS, Gateway
from tests.services.conftest import starting
from tests.services.test_access import ALLOWED
from tests.services.worlds.rpcs import Person
from tests.services.worlds.seeding import World, grown
from tests.services.worlds.sides import Side
from tests.services.worlds.watching import MADE, Own, Watch, own_of, scalars

PUBLIC = {
    "brand": "who sells here",
    "store": "where they do",
    "product": "the catalogue is the shop front", "variant": "the same", "offer": "the same", "offers": "the same",
    "promises": "whether it can be had near by, never how many",
    "district": "where one may go", "districts": "the same", "venue": "what is there", "campaign": "what is given there",
    "nodes of Brand": "as above", "nodes of Store": "as above", "nodes of Product": "as above", "nodes of Variant": "as above",
    "nodes of Offer": "as above", "nodes of District": "as above", "nodes of Venue": "as above", "nodes of Campaign": "as above",
}  # fmt: skip
"""What answers somebody who is not signed in, and why. Add a field only after asking what of a tenant or a person it could carry."""
SILENT: Mapping[str, str] = {}
"""Fields that are not public and yet tell nothing of one's own in this world."""
REFUSED_BY_THE_GATE = (None, "NotFound", "NotPermitted", "InvalidInput")
BREAKING = re.compile(r"cancel|release|dismiss|revoke|unbind|unlink|leave|move|complete")
"""What ends things comes last."""
UNBOUNDED = {
    f"limit_{name}": 10_000_000 for name in ("body_bytes", "characters", "tokens", "fields", "repeats", "roots", "aliases", "cost")
}
AMOUNT = re.compile(r"^\d+(\.\d\d)?$")

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of refused operations say nothing that a failed assertion does not."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


class Neighbour(Struct, frozen=True):
    """Somebody with a token: how the test names them, and its subject (empty: nobody)."""

    label: str
    subject: str
    side: Side

    @property
    def person(self) -> Person:
        return Person(self.label, self.subject)


class Street:
    """The world and a gateway before it."""

    def __init__(self, world: World, gateway: Gateway) -> None:
        self.world, self.gateway = world, gateway
        self.asking = Asking(gateway.app.state.executor.core, world.at)

    async def answer(self, who: Neighbour, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer to somebody; it is one, whatever is asked."""
        response = await self.gateway.post({"query": query, "variables": variables}, who=who.subject, offset=self.world.suite.offset)
        assert response.status_code == 200, (query[:300], response.text[:600], variables)
        body: dict[str, Any] = response.json()
        codes = {error["extensions"]["code"] for error in body.get("errors", ())}
        assert not codes & FAULTS, (who.label, query[:300], body["errors"][:3])
        return body

    async def answers(self, neighbours: list[Neighbour], query: str) -> list[dict[str, Any]]:
        """The answer to each of them."""
        return await asyncio.gather(*(self.answer(who, query) for who in neighbours))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def street(mongo_uri: str, keys: Keys) -> AsyncIterator[Street]:
    """One world for all; the last test is that of whom it belongs to."""
    settings = Settings(mongo_uri=mongo_uri, database_prefix=f"test{secrets.token_hex(4)}")
    async with starting(settings, keys) as start:
        running = await start(*SERVICES)
        world = await grown(running)
        for side in (world.ash, world.birch, world.oak):
            await _granted(world, side)
        await world.settled()
        own = {f"{name}_address": service.address for name, service in running.items()}
        own |= {"signing_key": keys.signing_setting("gateway"), "token_keys": keys.tokens_setting(), "deadline_seconds": 60.0}
        rates = {"rate_principal": 0.0, "rate_tenant": 0.0, "rate_address": 0.0}
        app = build(msgspec.structs.replace(settings, **own | rates | UNBOUNDED))  # type: ignore[arg-type]
        async with app.router.lifespan_context(app):
            gateway = Gateway(app, keys)
            async with gateway.http:
                yield Street(world, gateway)


async def _granted(world: World, side: Side) -> None:
    """Gives the side's staff the roles that organization's people would give them; its guide has hers."""
    _, manager, supervisor, operator = side.ids["staff"][:4]
    for staff, role, kind, scope in ((manager, 3, 4, side.store), (supervisor, 4, 3, side.unit), (operator, 5, 2, side.brand_id)):
        if side.brand == side.name or role != 5:
            granted = await world.write("ChartService.GrantRole", staff_id=staff, role=role, kind=kind, scope_id=scope)
            side.knows("grant", granted.grant.id)


def people(side: Side) -> list[Neighbour]:
    """Everybody of a side who may sign in. Of oak, only who works in it: its brand is ash's."""
    whole = side.brand == side.name
    guide, manager, supervisor, operator = side.ids["staff"][:4]
    who = {"GUIDE": guide, "STORE_MANAGER": manager, "SUPERVISOR": supervisor}
    who |= {"BRAND_OPERATOR": operator, "CONSUMER": side.consumer} if whole else {}
    return [Neighbour(f"{side.name}'s {kind}", subject, side) for kind, subject in who.items()]


def told(own: Own, body: dict[str, Any], asked: str) -> list[str]:
    """What of the target's own an answer says. What an error or a refusal repeats of the question is no news; anything in `data` is."""
    found = [text for text in scalars(body.get("data")) if _tells(own, text)]
    echoed = sorted(set(re.findall(r"[\w:.-]{4,}", asked)), key=len, reverse=True)
    for error in body.get("errors", ()):
        rest = error["message"]
        for echo in echoed:
            rest = rest.replace(echo, "")
        if _tells(own, rest):
            found.append(error["message"])
    return [str(each) for each in found]


def _tells(own: Own, value: Any) -> bool:
    if isinstance(value, str):
        minor = int(value.replace(".", "")) if AMOUNT.match(value) else 0
        return own.secret in value or not own.ids.isdisjoint(MADE.findall(value)) or minor in own.numbers
    return isinstance(value, int) and not isinstance(value, bool) and value in own.numbers


async def test_the_schema_is_asked_for_everything(street: Street) -> None:
    world = street.world
    sides = {"target": world.ash.ids}
    assert list(street.asking.queries(sides))
    assert list(street.asking.mutations(sides))
    assert list(street.asking.subscriptions(sides))
    assert not street.asking.unknown, "give the world ids for these (tests/services/worlds)"
    assert sorted(fields_of(street.asking.schema) - street.asking.reached) == []


async def test_what_is_public_was_looked_at(street: Street) -> None:
    nobody, answered = Neighbour("nobody", "", street.world.birch), set()
    for name, query in street.asking.queries({"target": street.world.ash.ids}):
        if any(value not in (None, []) for value in _values((await street.answer(nobody, query))["data"])):
            answered.add(name)
    assert answered == set(PUBLIC)


@pytest.mark.parametrize("attacker", ["birch", "oak"])
async def test_nobody_is_told_what_is_anothers(street: Street, attacker: str) -> None:
    world, side = street.world, getattr(street.world, attacker)
    own = await own_of(world.ash, side, world)
    neighbours = [Neighbour("nobody", "", side), *people(side)]
    problems = []
    for name, query in street.asking.queries(_sides(world, side)):
        for who, body in zip(neighbours, await street.answers(neighbours, query), strict=True):
            if found := told(own, body, query):
                problems.append(f"{name} tells {who.label} {found[:3]}: {query[:200]}")
    assert not problems, "\n".join([f"{len(problems)}", *problems[:30]])


@pytest.mark.parametrize("attacker", ["birch", "oak"])
async def test_nobody_changes_what_is_anothers(street: Street, attacker: str) -> None:
    world, side = street.world, getattr(street.world, attacker)
    own = await own_of(world.ash, side, world)
    watches = [Watch(service) for service in world.suite.running.values()]
    for watch in watches:
        await watch.look()
    problems = []
    for name, asked in groupby(street.asking.mutations(_sides(world, side)), key=itemgetter(0)):
        inputs = list(asked)
        for who in people(side):
            for _, query, given in inputs:
                if found := _told_of_a_change(own, await street.answer(who, query, {"input": given}), given):
                    problems.append(f"{name} tells {who.label} {found[:3]}: {given}")
            problems += [line async for line in _changed(street, watches, own, name, who)]
    await world.settled()
    for watch in watches:
        problems += [f"an event changed {change}" for change in await watch.look() if own.touched(watch.scopes, change)]
    assert not problems, "\n".join([f"{len(problems)}", *problems[:30]])


async def _changed(street: Street, watches: list[Watch], own: Own, name: str, who: Neighbour) -> AsyncIterator[str]:
    rpc = street.asking.schema.mutation_type.fields[name].extensions["strawberry-definition"].rpc.method  # type: ignore[union-attr]
    allowed = ALLOWED.get(f"{rpc.containing_service.name}.{rpc.name}", ())
    for watch in watches:
        for change in await watch.look():
            if own.touched(watch.scopes, change) and not any(one.allows(change, who.person, who.side) for one in allowed):
                yield f"{name} lets {who.label} change {change.collection}: {change.before} -> {change.after}"


def _told_of_a_change(own: Own, body: dict[str, Any], given: dict[str, Any]) -> list[str]:
    """The same of a mutation: what was given may come back, be it in what was made or in why it was not."""
    text = json.dumps(body, ensure_ascii=False)
    for echo in sorted({each for each in scalars(given) if isinstance(each, str) and len(each) > 3}, key=len, reverse=True):
        text = text.replace(echo, "")
    return told(own, json.loads(text), "")


async def test_whose_it_is_sees_and_changes_it(street: Street) -> None:
    """Or the tests above could not fail."""
    world = street.world
    own = await own_of(world.ash, world.birch, world)
    seen, done = defaultdict(bool), defaultdict(bool)
    for name, query in street.asking.queries({"target": world.ash.ids}):
        seen[name] |= any(told(own, body, query) for body in await street.answers(people(world.ash), query))
    unseen = {name for name, saw in seen.items() if not saw} - set(PUBLIC)
    assert unseen == set(SILENT)
    rightful = [*people(world.ash), Neighbour("the operator", "operator", world.ash)]
    for name, query, given in sorted(street.asking.rightful(world.ash.ids), key=lambda each: bool(BREAKING.match(each[0]))):
        for who in rightful:
            if not done[name]:
                body = await street.answer(who, query, {"input": given})
                done[name] = (body["data"][name] or {}).get("__typename") not in REFUSED_BY_THE_GATE
    assert {name for name, was in done.items() if not was} == set(), "nobody whose it is gets as far as the rule of these"


def _sides(world: World, side: Side) -> dict[str, Ids]:
    """Whose ids stand in what a neighbour asks: the target's, their own, and those of what both have a part in."""
    return {"target": world.ash.ids, "own": side.ids, "common": {**side.ids, **world.common}}


def _values(value: Any) -> Iterator[Any]:
    """What the objects of an answer hold, their type's name left out."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name != "__typename":
                yield from _values(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _values(inner)
    else:
        yield value
