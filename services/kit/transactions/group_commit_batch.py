"""Commands of one transaction: read their counters, decide each in order on the state the earlier ones left, write it all at once.

What the transaction holds is what the same commands would have left one after the other, whoever else writes meanwhile: it reads
one snapshot, MongoDB refuses to commit over a document changed since, and each counter is written only at the version that was read.
"""

from asyncio import Future
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import Context
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import Message
from msgspec import Struct
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from quanyu.events.v1 import events_pb2
from services.kit.errors import Conflict, Refusal
from services.kit.mongo.client import Database, Document, Session
from services.kit.transactions.idempotency import IdempotencyGuard, IdempotencyKey
from services.kit.transactions.outbox import Outbox
from services.kit.values.event import Event

DUPLICATE_KEY = 11000
Item = TypeVar("Item")


class DocumentRef(NamedTuple):
    """One counter document: `DocumentRef("stock", "var_1:str_1")`."""

    collection: str
    id: str


Snapshot = Mapping[DocumentRef, Document | None]
"""The counters a decision sees; None where there is no such document. Not to be changed by the decision."""


class ChangeSet(Struct, frozen=True, kw_only=True):
    """What a decision asks for. All of it happens, or none.

    `increments`: `$inc` paths ("reserved", "days.2026-11-23") of the command's own counters. Each also raises the counter's `version`
    by one; an empty mapping does only that, which holds the decision to the counter as it was read.
    `inserts`: documents of any collection, with their `_id`; one that exists refuses the command with Conflict ALREADY_EXISTS.
    `updates`: (collection, filter with an `_id`, update) of documents that are not counters; each must match its document, else the
    command is decided again alone and then refused with Conflict STATE_CHANGED.
    `events`: events for the outbox, in this order.
    """

    increments: Mapping[DocumentRef, Mapping[str, int]]
    inserts: Sequence[tuple[str, Document]] = ()
    updates: Sequence[tuple[str, Document, Document]] = ()
    events: Sequence[Event] = ()
    answer: Message


class Command(Struct, eq=False):
    """One caller's request in the group_commit; `context` and `at` are those of its submission."""

    key: IdempotencyKey | None
    counters: Sequence[DocumentRef]
    decide: Callable[[Snapshot], ChangeSet]
    answer_type: type[Message]
    at: datetime
    context: Context
    heard: "Future[Any]"


class Entangled(Exception):
    """An update touches a counter of another command of the batch: they need transactions of their own."""


class Batch:
    """One attempt at one transaction. `run` answers each command, in order, with its message or what it failed with."""

    def __init__(self, database: Database, outbox: Outbox, commands: Sequence[Command]) -> None:
        self.database, self.outbox, self.commands = database, outbox, commands
        self.state: dict[DocumentRef, Document | None] = {ref: None for command in commands for ref in command.counters}
        self.guard = IdempotencyGuard(database)
        self.versions: dict[DocumentRef, Any] = {}
        self.sums: dict[DocumentRef, dict[str, int]] = {}
        self.inserts: dict[DocumentRef, Document] = {}
        self.updates: list[tuple[str, UpdateOne]] = []
        self.events: list[events_pb2.Event] = []

    async def run(self, session: Session) -> list[Message | Exception]:
        """Whatever it raises aborts the transaction; none of the commands has happened then."""
        await self._read(session)
        verdicts = [self._judge(command) for command in self.commands]
        await self._write(session)
        return verdicts

    async def _read(self, session: Session) -> None:
        self.guard = await IdempotencyGuard.read(self.database, [command.key for command in self.commands if command.key], session)
        for collection, refs in _by_collection((ref.collection, ref.id) for ref in self.state):
            found = self.database[collection].find({"_id": {"$in": refs}}, session=session, batch_size=len(refs) + 1)
            self.state.update({DocumentRef(collection, document["_id"]): document for document in await found.to_list(None)})

    def _judge(self, command: Command) -> Message | Exception:
        key = command.key
        try:
            if key and (first := self.guard.replay(key, command.answer_type)) is not None:
                return first
            try:
                outcome = command.context.run(command.decide, {ref: self.state[ref] for ref in command.counters})
                events = [self.outbox.event(told, command.at) for told in outcome.events]
                self._accept(command, outcome)
            except Refusal as refusal:
                if key:
                    self.guard.record(key, command.at, refusal)
                return refusal
        except Entangled:
            raise
        except Exception as error:  # a decision with a bug: nothing of it was taken over, its caller alone hears it
            return error
        self.events += events
        if key:
            self.guard.record(key, command.at, outcome.answer)
        return outcome.answer

    def _accept(self, command: Command, outcome: ChangeSet) -> None:
        """Takes the outcome over as a whole; raises before anything is changed."""
        fresh: dict[DocumentRef, Document] = {}
        for collection, document in outcome.inserts:
            ref = DocumentRef(collection, document["_id"])
            if ref in fresh or ref in self.inserts or self.state.get(ref) is not None:
                raise _already_exists()
            fresh[ref] = document
        updates = [self._update(command, *update) for update in outcome.updates]
        changed: dict[DocumentRef, Document] = {}
        for ref, increments in outcome.increments.items():
            document_now = fresh.get(ref) or self.state.get(ref)
            if ref not in command.counters or document_now is None:
                raise ValueError(f"{ref} is incremented, but is not a counter of the command or does not exist")
            for path, by in increments.items():
                document_now = _increased(document_now, path, by)
            changed[ref] = _increased(document_now, "version", 1)
        self.updates += updates
        for ref, document in fresh.items():
            self._insert(ref, document)
        for ref, document in changed.items():
            self._change(ref, document, outcome.increments[ref])

    def _update(self, command: Command, collection: str, where: Document, update: Document) -> tuple[str, UpdateOne]:
        ref = DocumentRef(collection, where["_id"])
        if ref in command.counters:
            raise ValueError(f"{ref} is a counter of the command: say increments")
        if ref in self.state:
            raise Entangled
        return collection, UpdateOne(where, update)

    def _insert(self, ref: DocumentRef, document: Document) -> None:
        self.inserts[ref] = document
        if ref in self.state:
            self.state[ref] = document

    def _change(self, ref: DocumentRef, document: Document, increments: Mapping[str, int]) -> None:
        if ref in self.inserts:
            self._insert(ref, document)
            return
        if ref not in self.sums:
            self.versions[ref] = (self.state[ref] or {}).get("version", {"$exists": False})
            self.sums[ref] = {}
        self.state[ref] = document
        sums = self.sums[ref]
        for path, by in increments.items():
            sums[path] = sums.get(path, 0) + by
        sums["version"] = sums.get("version", 0) + 1

    async def _write(self, session: Session) -> None:
        increments = [
            (ref.collection, UpdateOne({"_id": ref.id, "version": self.versions[ref]}, {"$inc": sums})) for ref, sums in self.sums.items()
        ]
        await self._each_matches(increments, session)
        for collection, documents in _by_collection((ref.collection, document) for ref, document in self.inserts.items()):
            try:
                await self.database[collection].insert_many(documents, session=session)
            except BulkWriteError as error:
                if any(failed["code"] != DUPLICATE_KEY for failed in error.details["writeErrors"]):
                    raise
                raise _already_exists() from error
        await self._each_matches(self.updates, session)
        if self.events:
            await self.outbox.write(session, self.events)
        await self.guard.write(session)

    async def _each_matches(self, updates: Iterable[tuple[str, UpdateOne]], session: Session) -> None:
        for collection, operations in _by_collection(updates):
            result = await self.database[collection].bulk_write(operations, session=session)
            if result.matched_count != len(operations):
                raise Conflict("STATE_CHANGED", "what this was decided on has changed meanwhile; look again")


def _by_collection(items: Iterable[tuple[str, Item]]) -> list[tuple[str, list[Item]]]:
    grouped: dict[str, list[Item]] = {}
    for collection, item in items:
        grouped.setdefault(collection, []).append(item)
    return list(grouped.items())


def _increased(document: Document, path: str, by: int) -> Document:
    """A copy after `$inc`; what a decision was shown stays as it was."""
    head, _, rest = path.partition(".")
    if rest:
        return {**document, head: _increased(document.get(head, {}), rest, by)}
    return {**document, head: document.get(head, 0) + by}


def _already_exists() -> Conflict:
    return Conflict("ALREADY_EXISTS", "there is one already")
