"""What is a side's own, told from the rows that the seeding left, and whether an answer or a write touched it."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from google.protobuf.message import Message
from msgspec import Struct

from services.kit.enums import ScopeKind
from services.kit.mongo.client import Database
from tests.services.conftest import Running
from tests.services.worlds.rpcs import Outcome
from tests.services.worlds.seeding import World
from tests.services.worlds.sides import Side

KIT = frozenset({"idempotency_records", "inbox", "deliveries", "leases"})
"""Collections that hold no rows of anybody: what they do is seen in those that do. `event_keys` is looked at: an event told about somebody
is counted there under their key."""
MADE = re.compile(r"\b[a-z]{3}_[0-9a-f]{32}\b")
"""Ids that the services made."""

Row = Mapping[str, Any]
Rows = dict[tuple[str, str], Row]


def scalars(value: Any) -> Iterator[Any]:
    """Every value in a document, keys included."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from scalars(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from scalars(item)
    else:
        yield value


def said(message: Message) -> Iterator[Any]:
    """Every value in a message."""
    for field, value in message.ListFields():
        items = value.values() if field.message_type is not None and field.message_type.GetOptions().map_entry else value
        for item in items if field.is_repeated else [value]:
            if isinstance(item, Message):
                yield from said(item)
            else:
                yield item


Scopes = Mapping[str, Mapping[ScopeKind, frozenset[str]]]
"""Collection -> kind -> the paths at which a row names whom it belongs to, as the service's tables declare them."""


class Own(Struct, frozen=True):
    """What is a target's own as far as an attacker is concerned.

    `marks` and `others` find texts about the target and about the attacker or what both have a part in; `secret` is in texts that only
    the target may see; `reach` is what belongs to it.
    """

    marks: re.Pattern[str]
    others: re.Pattern[str]
    secret: str
    numbers: frozenset[int]
    ids: frozenset[str]
    reach: Mapping[ScopeKind, frozenset[str]]

    def about(self, value: Any) -> bool:
        """Whether a row, or a part of one, is about the target."""
        return any(
            isinstance(text, str) and (self.marks.search(text) or not self.ids.isdisjoint(MADE.findall(text))) for text in scalars(value)
        )

    def about_others(self, value: Any) -> bool:
        """Whether a row, or a part of one, is about the attacker or what both have a part in."""
        return any(isinstance(text, str) and self.others.search(text) for text in scalars(value))

    def holds(self, scopes: Scopes, collection: str, row: Row | None) -> bool:
        """Whether a row belongs to the target: as its table says, or where nothing says so, when it is about it."""
        if row is None:
            return False
        declared = scopes.get(collection)
        if not declared:
            return self.about(row)
        return any(self.reach.get(kind, frozenset()) & set(at(row, path)) for kind, paths in declared.items() for path in paths)

    def part_of(self, row: Row) -> Any:
        """The target's part of a row: all of it unless others have a part in it too. Versions count everybody's changes."""
        whole = {name: value for name, value in row.items() if name != "version"}
        if not self.about_others(whole):
            return whole
        return {name: part for name, value in whole.items() if (part := self._part(value)) is not None}

    def _part(self, value: Any) -> Any:
        if not isinstance(value, Mapping | list | tuple) or (self.about(value) and not self.about_others(value)):
            return value
        if not self.about(value):
            return None
        if isinstance(value, Mapping):
            # A sum or a state in it is everybody's.
            return {name: self._part(item) for name, item in value.items() if self.about({name: item})}
        return [self._part(item) for item in value if self.about(item)]

    def touched(self, scopes: Scopes, change: "Change") -> bool:
        """Whether a change is one of what belongs to the target."""
        if not self.holds(scopes, change.collection, change.before) and not self.holds(scopes, change.collection, change.after):
            return False
        if change.before is None or change.after is None:
            return True
        return bool(self.part_of(change.before) != self.part_of(change.after))

    def publisher(self, outcome: Outcome, request: Message) -> list[str]:
        """What of the target's own an outcome tells, beyond the ids the request brought along."""
        echoed = sorted({value for value in said(request) if isinstance(value, str) and len(value) > 3}, key=len, reverse=True)
        values: list[Any] = [value for answer in outcome.answers for value in said(answer)]
        if outcome.refusal is not None:
            values += [outcome.refusal.message, *outcome.refusal.metadata.values()]
        told = []
        for value in values:
            if isinstance(value, str):
                rest = value
                for echo in echoed:
                    rest = rest.replace(echo, "")
                if self.secret in rest or not self.ids.isdisjoint(MADE.findall(rest)):
                    told.append(value)
                values += [int(number) for number in re.findall(r"\d+", rest) if outcome.refusal and len(number) < 19]
            elif isinstance(value, int) and not isinstance(value, bool) and value in self.numbers:
                told.append(str(value))
        return told


async def own_of(target: Side, attacker: Side, world: World) -> Own:
    """What `attacker` must not see of `target`: found in the rows of every service, public tables left out."""
    shared = {id for ids in world.common.values() for id in ids}
    within = target.brand == attacker.brand
    marks = re.compile(rf"str_{target.name}(?![a-z])|{target.secret}" if within else rf"_{target.name}(?![a-z])|{target.secret}")
    others = re.compile(rf"_{attacker.name}(?![a-z])|{attacker.secret}|_common|_elm")
    found: dict[str, bool] = {}
    mentioned: dict[str, bool] = {}
    for service in world.suite.running.values():
        public = {table.name for table in service.definition.collections if table.public}
        for (collection, id), row in (await rows_of(service.database)).items():
            if collection in public:
                continue
            texts = [value for value in scalars(row) if isinstance(value, str)]
            alien = any(re.search(rf"_{attacker.name}(?![a-z])|{attacker.secret}", text) for text in texts)
            mine = any(marks.search(text) for text in texts) and not alien
            for made in MADE.findall(id):
                found[made] = mine and found.get(made, True)
            for text in texts:
                for made in MADE.findall(text):
                    mentioned[made] = mine and mentioned.get(made, True)
    nouns = {
        ScopeKind.BRAND: "brand",
        ScopeKind.STORE: "store",
        ScopeKind.ORG_UNIT: "org_unit",
        ScopeKind.DISTRICT: "district",
        ScopeKind.CONSUMER: "consumer",
        ScopeKind.STAFF: "staff",
    }
    reach = {kind: frozenset(target.ids[noun]) - frozenset(attacker.ids[noun]) for kind, noun in nouns.items()}
    reach[ScopeKind.CONSUMER] |= frozenset(target.ids["linked_consumer"])
    return Own(
        marks=marks,
        others=others,
        secret=target.secret,
        numbers=frozenset(target.numbers),
        ids=frozenset(id for id, mine in (mentioned | found).items() if mine) - shared,
        reach=reach,
    )


def scopes_of(service: Running) -> Scopes:
    """Whom the rows of each collection belong to, as its tables say; several tables over one collection together."""
    found: dict[str, dict[ScopeKind, frozenset[str]]] = {}
    for table in service.definition.collections:
        declared = found.setdefault(table.name, {})
        for kind, paths in table.scopes.items():
            declared[kind] = declared.get(kind, frozenset()) | frozenset(paths)
    return found


def at(value: Any, path: str) -> Iterator[str]:
    """The texts at a dotted path, through lists."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from at(item, path)
    elif isinstance(value, Mapping) and path:
        head, _, rest = path.partition(".")
        yield from at(value.get(head), rest)
    elif isinstance(value, str) and not path:
        yield value


async def rows_of(database: Database, only: frozenset[str] | None = None) -> Rows:
    """All rows of a service, or of some of its collections."""
    names = set(await database.raw.list_collection_names()) - KIT if only is None else only
    return {(name, str(row["_id"])): row for name in sorted(names) for row in await database[name].find({}).to_list(None)}


class Change(NamedTuple):
    """A row that is new, changed or gone."""

    collection: str
    before: Row | None
    after: Row | None


def changes(before: Rows, after: Rows) -> list[Change]:
    """What is different between two looks."""
    keys = sorted(before.keys() | after.keys())
    return [Change(key[0], before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)]


class Watch:
    """What changed in one service since the last look."""

    def __init__(self, service: Running) -> None:
        self.database, self.scopes = service.database, scopes_of(service)
        self.rows: Rows = {}
        self.hashes: dict[str, str] = {}

    async def look(self) -> list[Change]:
        """The changes since the last look; only collections whose hash moved are read."""
        hashes = (await self.database.raw.command("dbHash"))["collections"]
        moved = frozenset(name for name in hashes.keys() - KIT if hashes[name] != self.hashes.get(name))
        if not moved:
            return []
        now = await rows_of(self.database, moved)
        before = {key: row for key, row in self.rows.items() if key[0] in moved}
        self.hashes = hashes
        self.rows = {key: row for key, row in self.rows.items() if key[0] not in moved} | now
        return changes(before, now)
