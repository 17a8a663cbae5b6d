"""One rpc against everybody who has no business with it, and the same rpc for those who have."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum

from google.protobuf.message import Message
from msgspec import Struct

from services.kit.errors import Conflict, Exhausted
from services.kit.security.authorization import rule_of
from tests.services.worlds import requests
from tests.services.worlds.requests import Choice
from tests.services.worlds.rpcs import Outcome, Person, is_read, roles_of, rpcs
from tests.services.worlds.seeding import World, once
from tests.services.worlds.sides import NOBODY, OPERATOR, STRANGER, SYSTEM, Side
from tests.services.worlds.watching import Change, Own, Watch, said

AT_ONCE_MAX = 16
GRANTS_OF_ONE_MAX = 2
"""A person of one role has at most this many grants."""


class Right(IntEnum):
    """How much a rightful caller got: nothing, a refusal by a rule of the use case, an answer, an answer with something of their own."""

    REFUSED, BY_A_RULE, DONE, TOLD = range(4)


class Allowed(Struct, frozen=True, kw_only=True):
    """What an attacker's call may do to rows of the target, and why that is right.

    `who` begins the labels of those who may (empty: all); `new` and `changed` name the collections; `by` the fields of such a row of
    which one must hold an id of the attacker's own.
    """

    why: str
    who: tuple[str, ...] = ("",)
    new: frozenset[str] = frozenset()
    changed: frozenset[str] = frozenset()
    by: tuple[str, ...] = ()

    def allows(self, change: Change, person: Person, side: Side) -> bool:
        if change.after is None or change.collection not in (self.new if change.before is None else self.changed):
            return False
        own = {id for ids in side.ids.values() for id in ids}
        return person.label.startswith(self.who) and (not self.by or any(change.after.get(field) in own for field in self.by))


class Attacker(Struct, frozen=True):
    """A side whose people try what they can, and what of the target they must neither see nor change."""

    side: Side
    roles: Sequence[str]
    own: Own

    def people(self, name: str) -> Iterable[Person]:
        """Those whom an rpc's rule may let through: each role alone, and one person who is all of them."""
        named = [role for role in roles_of(name) if role in self.roles]
        # A machine client of the brand reaches what its operator does; one of them is enough.
        alone = [role for role in named if role != "ROLE_SERVICE" or "ROLE_BRAND_OPERATOR" not in named]
        yield from (self.side.people[role] for role in alone)
        if len(alone) != 1:
            yield self.side.everybody(self.roles)


class Trial:
    """The rpcs of one process, tried against a target; `problems` says what was seen or changed."""

    def __init__(self, world: World, process: str, target: Side, allowed: Mapping[str, Sequence[Allowed]]) -> None:
        self.world, self.process, self.target, self.allowed = world, process, target, allowed
        self.watch = Watch(world.suite.running[process])
        self.elsewhere = {name: Watch(service) for name, service in world.suite.running.items() if name != process}
        self.problems: list[str] = []
        self.calls = 0

    async def begin(self) -> None:
        """Looks at everything as it is."""
        for watch in (self.watch, *self.elsewhere.values()):
            await watch.look()

    # those who may not --------------------------------------------------------------------------------------------------

    async def gate(self, name: str) -> None:
        """Nobody, a stranger, and everybody of the target's own whose role the rule does not name: none is let through."""
        rule = rule_of(rpcs()[name])
        if rule.public:
            return
        asked = requests.request(name, requests.whole(name, self.target.ids), self.world.at, once())
        named = roles_of(name)
        unnamed = [person for role, person in self.target.people.items() if role not in named]
        unnamed += [person for role, person in (("ROLE_OPERATOR", OPERATOR), ("ROLE_SERVICE", SYSTEM)) if role not in named]
        expected = {NOBODY: "UNAUTHENTICATED", STRANGER: "NOT_PERMITTED"} | dict.fromkeys(unnamed, "NOT_PERMITTED")
        if rule.installation:
            expected |= {self.target.people[role]: "NOT_PERMITTED" for role in named if role in self.target.people}
        for person, outcome in zip(expected, await self._together(name, [(person, asked) for person in expected]), strict=True):
            if outcome.told != expected[person]:
                self.problems.append(f"{name} lets {person.label} through: {outcome.told}")

    async def attack(self, name: str, attacker: Attacker) -> None:
        """The attacker's people, with the target's ids beside their own in every way: nothing of the target is told or changed."""
        rule = rule_of(rpcs()[name])
        if rule.installation:  # the gate lets none of them through, whatever they ask
            return
        people = [NOBODY, attacker.side.everybody(attacker.roles)] if rule.public else list(attacker.people(name))
        ids = (self.target.ids, attacker.side.ids, self.world.common)
        for person in people:
            # Who is everything at once reaches what each reaches alone: what is asked with fields left empty was tried by those.
            asked = self._different(name, requests.choices(name, *ids, filled=len(person.grants) > GRANTS_OF_ONE_MAX))
            if is_read(name):
                outcomes = await self._together(name, [(person, one) for one in asked])
            else:
                outcomes = [await self._call(name, person, one) for one in asked]
            for request, outcome in zip(asked, outcomes, strict=True):
                if outcome.broken:
                    self.problems.append(f"{name} breaks for {person.label}: {outcome.broken} on {_short(request)}")
                if told := attacker.own.publisher(outcome, request):
                    self.problems.append(f"{name} tells {person.label} {told[:3]} ({outcome.told}) on {_short(request)}")
            await self._unchanged(name, person, attacker)

    async def others_heard_nothing(self, attacker: Attacker) -> None:
        """The events that came of the attack change nothing of the target in any other service."""
        await self.world.settled()
        for name, watch in self.elsewhere.items():
            touched = [change for change in await watch.look() if attacker.own.touched(watch.scopes, change)]
            self.problems += [f"{name} heard of {attacker.side.name}: {change}" for change in touched]

    async def _unchanged(self, name: str, person: Person, attacker: Attacker) -> None:
        for change in await self.watch.look():
            allowed = any(one.allows(change, person, attacker.side) for one in self.allowed.get(name, ()))
            if attacker.own.touched(self.watch.scopes, change) and not allowed:
                self.problems.append(f"{name} lets {person.label} change {change.collection}: {change.before} -> {change.after}")

    async def mixed(self, name: str, side: Side) -> None:
        """One list of the target's ids and their own answers what their own alone do; one of the people at least gets something."""
        if rule_of(rpcs()[name]).public:
            return
        nouns = requests.id_fields(name)
        whole = requests.whole(name, side.ids)
        lists = [path for path in nouns if path[-1].endswith("ids")]
        rest = {path: ids for path, ids in whole.items() if path not in lists}
        for path in lists:  # where there are several, one of them says whose things are meant
            own, both = whole[path], [*self.target.ids[nouns[path]], *whole[path]]
            pair = [requests.request(name, rest | {path: ids}, self.world.at, "") for ids in (own, both)]
            got = 0
            for person in (side.people[role] for role in roles_of(name) if role in side.people):
                alone, among = await self._together(name, [(person, request) for request in pair])
                got = max(got, len(_items(alone)))
                if _items(alone) != _items(among):
                    self.problems.append(f"{name} answers {person.label} otherwise beside others' ids: {alone.told} {among.told}")
            if not got:
                self.problems.append(f"{name} answers {side.name} nothing of its own {path[-1]}")

    def _different(self, name: str, choices: Iterable[Choice]) -> list[Message]:
        """The requests that these choices come to, each once; of a stream from before the beginning, where there is a cursor for that."""
        found: dict[bytes, Message] = {}
        for choice in choices:
            request = requests.request(name, choice, self.world.at, "")
            found.setdefault(request.SerializeToString(deterministic=True), request)
        for body, request in found.items():
            if "request_id" in request.DESCRIPTOR.fields_by_name:
                request.request_id = once()  # type: ignore[attr-defined]
            if cursor := self.world.begun.get((name, body)):
                request.after = cursor  # type: ignore[attr-defined]
        return list(found.values())

    async def _call(self, name: str, person: Person, request: Message) -> Outcome:
        self.calls += 1
        return await self.world.suite.call(name, person, request, self.process)

    async def _together(self, name: str, asked: Sequence[tuple[Person, Message]]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for start in range(0, len(asked), AT_ONCE_MAX):
            some = asked[start : start + AT_ONCE_MAX]
            outcomes += await asyncio.gather(*(self._call(name, person, request) for person, request in some))
        return outcomes

    # those who may ------------------------------------------------------------------------------------------------------

    async def rightful(self, name: str, own: Own) -> Right:
        """The best that the target's own people get of the same requests: told something of their own, done, or refused by a rule."""
        best = Right.REFUSED
        people = [self.target.people[role] for role in roles_of(name) if role in self.target.people]
        people += [person for role, person in (("ROLE_OPERATOR", OPERATOR), ("ROLE_SERVICE", SYSTEM)) if role in roles_of(name)]
        for request in self._different(name, requests.positive(name, self.target.ids)):
            for person in people or [NOBODY]:
                outcome = await self._call(name, person, request)
                if outcome.broken:
                    self.problems.append(f"{name} breaks for {person.label}: {outcome.broken} on {_short(request)}")
                best = max(best, _right(outcome, request, own))
                if best == Right.TOLD or (best == Right.DONE and not is_read(name)):
                    return best
        return best


def _right(outcome: Outcome, request: Message, own: Own) -> Right:
    if outcome.done:
        return Right.TOLD if own.publisher(outcome, type(request)()) else Right.DONE
    return Right.BY_A_RULE if isinstance(outcome.refusal, Conflict | Exhausted) else Right.REFUSED


def _items(outcome: Outcome) -> list[str]:
    """The texts of an answer, whatever their order. Numbers may follow the clock."""
    return sorted(value for answer in outcome.answers for value in said(answer) if isinstance(value, str))


def _short(request: Message) -> str:
    return " ".join(str(request).split())[:300]
