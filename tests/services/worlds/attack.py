"""Access trial: calls an rpc as attackers, who must not reach the target's data, and as rightful callers, who must."""

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
from tests.services.worlds.seeding import World, new_request_id
from tests.services.worlds.sides import ANONYMOUS, OPERATOR, SYSTEM, WITHOUT_GRANTS, Side
from tests.services.worlds.watching import Change, ChangeWatcher, OwnData, message_values

CONCURRENT_CALLS_MAX = 16
GRANTS_OF_ROLE_MAX = 2
"""A person of one role has at most this many grants."""


class Result(IntEnum):
    """The result of a rightful call: refused, refused by a rule of the use case, answered, or answered with the caller's own data."""

    REFUSED, REFUSED_BY_RULE, ANSWERED, OWN_DATA = range(4)


class Allowed(Struct, frozen=True, kw_only=True):
    """A change that an attacker may make to the target's documents, and why.

    - `who` are the prefixes of the labels of the permitted people; empty permits all.
    - `new` and `changed` name the collections of inserted and of changed documents.
    - `by` names fields of such a document; one of them must have an id of the attacker.
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
    """A side whose people attack, and the target's data that they must neither read nor change."""

    side: Side
    roles: Sequence[str]
    own: OwnData

    def people(self, name: str) -> Iterable[Person]:
        """Yields the people that the rule of an rpc may admit: each role alone, and one person with all roles."""
        allowed = [role for role in roles_of(name) if role in self.roles]
        # A machine client of the brand has the reach of its operator; one of them is enough.
        tested = [role for role in allowed if role != "ROLE_SERVICE" or "ROLE_BRAND_OPERATOR" not in allowed]
        yield from (self.side.people[role] for role in tested)
        if len(tested) != 1:
            yield self.side.combine_people(self.roles)


class AccessTrial:
    """Calls the rpcs of one process as attackers of a target; `problems` lists what they have read or changed."""

    def __init__(self, world: World, process: str, target: Side, allowed: Mapping[str, Sequence[Allowed]]) -> None:
        self.world, self.process, self.target, self.allowed = world, process, target, allowed
        self.watcher = ChangeWatcher(world.suite.services[process])
        self.other_watchers = {name: ChangeWatcher(service) for name, service in world.suite.services.items() if name != process}
        self.problems: list[str] = []
        self.calls = 0

    async def take_snapshot(self) -> None:
        """Reads the current documents of all services."""
        for watcher in (self.watcher, *self.other_watchers.values()):
            await watcher.find_changes()

    # attackers ---------------------------------------------------------------------------------------------------------

    async def check_rule(self, name: str) -> None:
        """Asserts that the rule denies anonymous callers, those without grants, and the target's people with other roles."""
        rule = rule_of(rpcs()[name])
        if rule.public:
            return
        request = requests.build_request(name, requests.full_choice(name, self.target.ids), self.world.at, new_request_id())
        allowed = roles_of(name)
        others = [person for role, person in self.target.people.items() if role not in allowed]
        others += [person for role, person in (("ROLE_OPERATOR", OPERATOR), ("ROLE_SERVICE", SYSTEM)) if role not in allowed]
        expected = {ANONYMOUS: "UNAUTHENTICATED", WITHOUT_GRANTS: "NOT_PERMITTED"} | dict.fromkeys(others, "NOT_PERMITTED")
        if rule.installation:
            expected |= {self.target.people[role]: "NOT_PERMITTED" for role in allowed if role in self.target.people}
        for person, outcome in zip(expected, await self._call_all(name, [(person, request) for person in expected]), strict=True):
            if outcome.label != expected[person]:
                self.problems.append(f"{name} admits {person.label}: {outcome.label}")

    async def attack(self, name: str, attacker: Attacker) -> None:
        """Calls as the attacker's people with combinations of the target's and their own ids; records leaks and changes."""
        rule = rule_of(rpcs()[name])
        if rule.installation:  # the rule denies all of them any request
            return
        people = [ANONYMOUS, attacker.side.combine_people(attacker.roles)] if rule.public else list(attacker.people(name))
        ids = (self.target.ids, attacker.side.ids, self.world.common)
        for person in people:
            # A person with all roles reaches what each role reaches; requests with empty fields were tried by those.
            attempts = self._distinct_requests(name, requests.attack_choices(name, *ids, filled=len(person.grants) > GRANTS_OF_ROLE_MAX))
            if is_read(name):
                outcomes = await self._call_all(name, [(person, one) for one in attempts])
            else:
                outcomes = [await self._call(name, person, one) for one in attempts]
            for request, outcome in zip(attempts, outcomes, strict=True):
                if outcome.broken:
                    self.problems.append(f"{name} fails for {person.label}: {outcome.broken} on {_shorten(request)}")
                if leaks := attacker.own.find_leaks(outcome, request):
                    self.problems.append(f"{name} leaks to {person.label} {leaks[:3]} ({outcome.label}) on {_shorten(request)}")
            await self._check_changes(name, person, attacker)

    async def check_other_services(self, attacker: Attacker) -> None:
        """Asserts that the events of the attack change none of the target's data in other services."""
        await self.world.wait_for_events()
        for name, watcher in self.other_watchers.items():
            leaked = [change for change in await watcher.find_changes() if attacker.own.is_changed_by(watcher.scopes, change)]
            self.problems += [f"{name} changed by events of {attacker.side.name}: {change}" for change in leaked]

    async def _check_changes(self, name: str, person: Person, attacker: Attacker) -> None:
        for change in await self.watcher.find_changes():
            allowed = any(one.allows(change, person, attacker.side) for one in self.allowed.get(name, ()))
            if attacker.own.is_changed_by(self.watcher.scopes, change) and not allowed:
                self.problems.append(f"{name} lets {person.label} change {change.collection}: {change.before} -> {change.after}")

    async def check_mixed_list(self, name: str, side: Side) -> None:
        """Asserts that a list of the target's and own ids returns the same as the own ids alone, and something for one person."""
        if rule_of(rpcs()[name]).public:
            return
        nouns = requests.id_fields(name)
        whole = requests.full_choice(name, side.ids)
        lists = [path for path in nouns if path[-1].endswith("ids")]
        rest = {path: ids for path, ids in whole.items() if path not in lists}
        for path in lists:  # with several lists, one of them decides which items are meant
            own, both = whole[path], [*self.target.ids[nouns[path]], *whole[path]]
            pair = [requests.build_request(name, rest | {path: ids}, self.world.at, "") for ids in (own, both)]
            count = 0
            for person in (side.people[role] for role in roles_of(name) if role in side.people):
                own_only, mixed = await self._call_all(name, [(person, request) for request in pair])
                count = max(count, len(_texts(own_only)))
                if _texts(own_only) != _texts(mixed):
                    self.problems.append(f"{name} returns {person.label} other items with others' ids: {own_only.label} {mixed.label}")
            if not count:
                self.problems.append(f"{name} returns {side.name} nothing for its own {path[-1]}")

    def _distinct_requests(self, name: str, choices: Iterable[Choice]) -> list[Message]:
        """Builds the distinct requests of these choices; a stream starts at the cursor from before the seeding, if there is one."""
        found: dict[bytes, Message] = {}
        for choice in choices:
            request = requests.build_request(name, choice, self.world.at, "")
            found.setdefault(request.SerializeToString(deterministic=True), request)
        for body, request in found.items():
            if "request_id" in request.DESCRIPTOR.fields_by_name:
                request.request_id = new_request_id()  # type: ignore[attr-defined]
            if cursor := self.world.start_cursors.get((name, body)):
                request.after = cursor  # type: ignore[attr-defined]
        return list(found.values())

    async def _call(self, name: str, person: Person, request: Message) -> Outcome:
        self.calls += 1
        return await self.world.suite.call(name, person, request, self.process)

    async def _call_all(self, name: str, calls: Sequence[tuple[Person, Message]]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for start in range(0, len(calls), CONCURRENT_CALLS_MAX):
            batch = calls[start : start + CONCURRENT_CALLS_MAX]
            outcomes += await asyncio.gather(*(self._call(name, person, request) for person, request in batch))
        return outcomes

    # rightful callers ---------------------------------------------------------------------------------------------------

    async def best_result(self, name: str, own: OwnData) -> Result:
        """Returns the best result of the target's own people for the rightful requests."""
        best = Result.REFUSED
        people = [self.target.people[role] for role in roles_of(name) if role in self.target.people]
        people += [person for role, person in (("ROLE_OPERATOR", OPERATOR), ("ROLE_SERVICE", SYSTEM)) if role in roles_of(name)]
        for request in self._distinct_requests(name, requests.rightful_choices(name, self.target.ids)):
            for person in people or [ANONYMOUS]:
                outcome = await self._call(name, person, request)
                if outcome.broken:
                    self.problems.append(f"{name} fails for {person.label}: {outcome.broken} on {_shorten(request)}")
                best = max(best, _result_of(outcome, request, own))
                if best == Result.OWN_DATA or (best == Result.ANSWERED and not is_read(name)):
                    return best
        return best


def _result_of(outcome: Outcome, request: Message, own: OwnData) -> Result:
    if outcome.done:
        return Result.OWN_DATA if own.find_leaks(outcome, type(request)()) else Result.ANSWERED
    return Result.REFUSED_BY_RULE if isinstance(outcome.refusal, Conflict | Exhausted) else Result.REFUSED


def _texts(outcome: Outcome) -> list[str]:
    """Returns the texts of all answers, sorted. Numbers may depend on the clock."""
    return sorted(value for answer in outcome.answers for value in message_values(answer) if isinstance(value, str))


def _shorten(request: Message) -> str:
    return " ".join(str(request).split())[:300]
