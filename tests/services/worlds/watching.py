"""Leak detection: finds the own data of a side in the seeded documents, and checks responses and changes for it."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from google.protobuf.message import Message
from msgspec import Struct

from services.kit.enums import ScopeKind
from services.kit.mongo.client import Database
from tests.services.conftest import ServiceHarness
from tests.services.worlds.rpcs import Outcome
from tests.services.worlds.seeding import World
from tests.services.worlds.sides import Side

KIT_COLLECTIONS = frozenset({"idempotency_records", "inbox", "deliveries", "leases"})
"""These collections have no data of a side. `event_keys` is not one of them, since it counts the events of each key."""
GENERATED_ID = re.compile(r"\b[a-z]{3}_[0-9a-f]{32}\b")
"""The pattern of ids that services generate."""

StoredDocument = Mapping[str, Any]
StoredDocuments = dict[tuple[str, str], StoredDocument]


def document_values(value: Any) -> Iterator[Any]:
    """Yields all values in a document, including keys."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from document_values(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from document_values(item)
    else:
        yield value


def message_values(message: Message) -> Iterator[Any]:
    """Yields all values in a message."""
    for field, value in message.ListFields():
        items = value.values() if field.message_type is not None and field.message_type.GetOptions().map_entry else value
        for item in items if field.is_repeated else [value]:
            if isinstance(item, Message):
                yield from message_values(item)
            else:
                yield item


Scopes = Mapping[str, Mapping[ScopeKind, frozenset[str]]]
"""By collection and kind of scope: the paths of the ids that a document belongs to, as the service declares them."""


class OwnData(Struct, frozen=True):
    """The data of a target that an attacker must not see.

    - `marks` finds texts about the target; `others` finds texts about the attacker or shared things.
    - `secret` is part of the texts that only the target may see.
    - `reach` has the ids that belong to the target.
    """

    marks: re.Pattern[str]
    others: re.Pattern[str]
    secret: str
    numbers: frozenset[int]
    ids: frozenset[str]
    reach: Mapping[ScopeKind, frozenset[str]]

    def is_about_target(self, value: Any) -> bool:
        """True if a document or a part of one is about the target."""
        return any(
            isinstance(text, str) and (self.marks.search(text) or not self.ids.isdisjoint(GENERATED_ID.findall(text)))
            for text in document_values(value)
        )

    def is_about_others(self, value: Any) -> bool:
        """True if a document or a part of one is about the attacker or shared things."""
        return any(isinstance(text, str) and self.others.search(text) for text in document_values(value))

    def owns(self, scopes: Scopes, collection: str, document: StoredDocument | None) -> bool:
        """True if a document belongs to the target by its scopes or, in a collection without scopes, by its texts."""
        if document is None:
            return False
        declared = scopes.get(collection)
        if not declared:
            return self.is_about_target(document)
        return any(self.reach.get(kind, frozenset()) & set(texts_at(document, path)) for kind, paths in declared.items() for path in paths)

    def own_part(self, document: StoredDocument) -> Any:
        """Returns the target's part of a document: all of it, unless others share it. The version counts the changes of all."""
        whole = {name: value for name, value in document.items() if name != "version"}
        if not self.is_about_others(whole):
            return whole
        return {name: part for name, value in whole.items() if (part := self._part(value)) is not None}

    def _part(self, value: Any) -> Any:
        if not isinstance(value, Mapping | list | tuple) or (self.is_about_target(value) and not self.is_about_others(value)):
            return value
        if not self.is_about_target(value):
            return None
        if isinstance(value, Mapping):
            # Sums and states in a shared mapping belong to all.
            return {name: self._part(item) for name, item in value.items() if self.is_about_target({name: item})}
        return [self._part(item) for item in value if self.is_about_target(item)]

    def is_changed_by(self, scopes: Scopes, change: "Change") -> bool:
        """True if a change affects data of the target."""
        if not self.owns(scopes, change.collection, change.before) and not self.owns(scopes, change.collection, change.after):
            return False
        if change.before is None or change.after is None:
            return True
        return bool(self.own_part(change.before) != self.own_part(change.after))

    def find_leaks(self, outcome: Outcome, request: Message) -> list[str]:
        """Returns the target's own data in an outcome, without the values that the request itself contains."""
        echoed = sorted({value for value in message_values(request) if isinstance(value, str) and len(value) > 3}, key=len, reverse=True)
        values: list[Any] = [value for answer in outcome.answers for value in message_values(answer)]
        if outcome.refusal is not None:
            values += [outcome.refusal.message, *outcome.refusal.metadata.values()]
        leaks = []
        for value in values:
            if isinstance(value, str):
                rest = value
                for echo in echoed:
                    rest = rest.replace(echo, "")
                if self.secret in rest or not self.ids.isdisjoint(GENERATED_ID.findall(rest)):
                    leaks.append(value)
                values += [int(number) for number in re.findall(r"\d+", rest) if outcome.refusal and len(number) < 19]
            elif isinstance(value, int) and not isinstance(value, bool) and value in self.numbers:
                leaks.append(str(value))
        return leaks


async def find_own_data(target: Side, attacker: Side, world: World) -> OwnData:
    """Finds the data of `target` that `attacker` must not see, in the documents of all services except public collections."""
    shared = {id for ids in world.common.values() for id in ids}
    within = target.brand == attacker.brand
    marks = re.compile(rf"str_{target.name}(?![a-z])|{target.secret}" if within else rf"_{target.name}(?![a-z])|{target.secret}")
    others = re.compile(rf"_{attacker.name}(?![a-z])|{attacker.secret}|_common|_elm")
    found: dict[str, bool] = {}
    mentioned: dict[str, bool] = {}
    for service in world.suite.services.values():
        public = {each.name for each in service.definition.collections if each.public}
        for (collection, id), document in (await read_documents(service.database)).items():
            if collection in public:
                continue
            texts = [value for value in document_values(document) if isinstance(value, str)]
            foreign = any(re.search(rf"_{attacker.name}(?![a-z])|{attacker.secret}", text) for text in texts)
            mine = any(marks.search(text) for text in texts) and not foreign
            for made in GENERATED_ID.findall(id):
                found[made] = mine and found.get(made, True)
            for text in texts:
                for made in GENERATED_ID.findall(text):
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
    return OwnData(
        marks=marks,
        others=others,
        secret=target.secret,
        numbers=frozenset(target.numbers),
        ids=frozenset(id for id, mine in (mentioned | found).items() if mine) - shared,
        reach=reach,
    )


def scopes_of(service: ServiceHarness) -> Scopes:
    """Returns the scopes of each collection, merged over all scoped collections with its name."""
    found: dict[str, dict[ScopeKind, frozenset[str]]] = {}
    for collection in service.definition.collections:
        declared = found.setdefault(collection.name, {})
        for kind, paths in collection.scopes.items():
            declared[kind] = declared.get(kind, frozenset()) | frozenset(paths)
    return found


def texts_at(value: Any, path: str) -> Iterator[str]:
    """Yields the texts at a dotted path, through lists."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from texts_at(item, path)
    elif isinstance(value, Mapping) and path:
        head, _, rest = path.partition(".")
        yield from texts_at(value.get(head), rest)
    elif isinstance(value, str) and not path:
        yield value


async def read_documents(database: Database, only: frozenset[str] | None = None) -> StoredDocuments:
    """Reads all documents of a service, or those of some of its collections."""
    names = set(await database.raw.list_collection_names()) - KIT_COLLECTIONS if only is None else only
    return {(name, str(document["_id"])): document for name in sorted(names) for document in await database[name].find({}).to_list(None)}


class Change(NamedTuple):
    """An inserted, changed or deleted document."""

    collection: str
    before: StoredDocument | None
    after: StoredDocument | None


def compare(before: StoredDocuments, after: StoredDocuments) -> list[Change]:
    """Returns the changes between two states of documents."""
    keys = sorted(before.keys() | after.keys())
    return [Change(key[0], before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)]


class ChangeWatcher:
    """Finds the changes in one service since the previous call."""

    def __init__(self, service: ServiceHarness) -> None:
        self.database, self.scopes = service.database, scopes_of(service)
        self.documents: StoredDocuments = {}
        self.hashes: dict[str, str] = {}

    async def find_changes(self) -> list[Change]:
        """Returns the changes since the previous call. It reads only collections whose hash has changed."""
        hashes = (await self.database.raw.command("dbHash"))["collections"]
        changed = frozenset(name for name in hashes.keys() - KIT_COLLECTIONS if hashes[name] != self.hashes.get(name))
        if not changed:
            return []
        now = await read_documents(self.database, changed)
        before = {key: document for key, document in self.documents.items() if key[0] in changed}
        self.hashes = hashes
        self.documents = {key: document for key, document in self.documents.items() if key[0] not in changed} | now
        return compare(before, now)
