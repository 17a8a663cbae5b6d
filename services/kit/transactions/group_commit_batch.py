"""Batch of a group commit: reads the documents of its commands, decides each command on the state after the earlier ones, writes once.

The transaction has the same effect as the same commands one after the other, with any concurrent writers. It reads one snapshot, MongoDB
does not commit over a document that has changed since, and each document is written only at the version that was read.
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
    """The name of a document: `DocumentRef("stock", "var_1:str_1")`."""

    collection: str
    id: str


Snapshot = Mapping[DocumentRef, Document | None]
"""The documents that a decision sees; None if a document does not exist. The decision must not change them."""


class ChangeSet(Struct, frozen=True, kw_only=True):
    """The changes of a decision. All of them are committed, or none.

    - `increments`: `$inc` paths ("reserved", "days.2026-11-23") of documents in the command's `refs`. They also increment `version`. An
      empty mapping increments only `version`, so that the commit proves that the document is as the decision saw it.
    - `inserts`: documents of any collection, with `_id`; if one exists, the command is refused with Conflict ALREADY_EXISTS.
    - `updates`: (collection, filter with an `_id`, update) for documents that are not in `refs`. If a filter does not match, the command is
      decided again alone, and then refused with Conflict STATE_CHANGED.
    - `events`: events for the outbox, in this order.
    - `answer`: the response of the command.
    """

    increments: Mapping[DocumentRef, Mapping[str, int]]
    inserts: Sequence[tuple[str, Document]] = ()
    updates: Sequence[tuple[str, Document, Document]] = ()
    events: Sequence[Event] = ()
    answer: Message


class Command(Struct, eq=False):
    """One request in the queue. `context` and `at` are those of its submission; `future` gets the result."""

    key: IdempotencyKey | None
    refs: Sequence[DocumentRef]
    decide: Callable[[Snapshot], ChangeSet]
    answer_type: type[Message]
    at: datetime
    context: Context
    future: "Future[Any]"


class OverlappingUpdate(Exception):
    """An update of one command writes a document in the `refs` of another: the commands need separate transactions."""


class Batch:
    """One attempt of one transaction. `run` returns the answer or the exception of each command, in order."""

    def __init__(self, database: Database, outbox: Outbox, commands: Sequence[Command]) -> None:
        self.database, self.outbox, self.commands = database, outbox, commands
        self.documents: dict[DocumentRef, Document | None] = {ref: None for command in commands for ref in command.refs}
        self.guard = IdempotencyGuard(database)
        self.versions: dict[DocumentRef, Any] = {}
        self.sums: dict[DocumentRef, dict[str, int]] = {}
        self.inserts: dict[DocumentRef, Document] = {}
        self.updates: list[tuple[str, UpdateOne]] = []
        self.events: list[events_pb2.Event] = []

    async def run(self, session: Session) -> list[Message | Exception]:
        """Runs all commands. An exception aborts the transaction, and no command takes effect."""
        await self._read(session)
        results = [self._decide(command) for command in self.commands]
        await self._write(session)
        return results

    async def _read(self, session: Session) -> None:
        self.guard = await IdempotencyGuard.read(self.database, [command.key for command in self.commands if command.key], session)
        for collection, refs in _by_collection((ref.collection, ref.id) for ref in self.documents):
            found = self.database[collection].find({"_id": {"$in": refs}}, session=session, batch_size=len(refs) + 1)
            self.documents.update({DocumentRef(collection, document["_id"]): document for document in await found.to_list(None)})

    def _decide(self, command: Command) -> Message | Exception:
        key = command.key
        try:
            if key and (first := self.guard.replay(key, command.answer_type)) is not None:
                return first
            try:
                changes = command.context.run(command.decide, {ref: self.documents[ref] for ref in command.refs})
                events = [self.outbox.to_message(event, command.at) for event in changes.events]
                self._apply(command, changes)
            except Refusal as refusal:
                if key:
                    self.guard.record(key, command.at, refusal)
                return refusal
        except OverlappingUpdate:
            raise
        except Exception as error:  # a bug in a decision: nothing of it was applied, and only its caller gets the exception
            return error
        self.events += events
        if key:
            self.guard.record(key, command.at, changes.answer)
        return changes.answer

    def _apply(self, command: Command, changes: ChangeSet) -> None:
        """Adds the change set to the batch; if it raises, nothing has been added."""
        inserted: dict[DocumentRef, Document] = {}
        for collection, document in changes.inserts:
            ref = DocumentRef(collection, document["_id"])
            if ref in inserted or ref in self.inserts or self.documents.get(ref) is not None:
                raise _already_exists()
            inserted[ref] = document
        updates = [self._build_update(command, *update) for update in changes.updates]
        changed: dict[DocumentRef, Document] = {}
        for ref, increments in changes.increments.items():
            current = inserted.get(ref) or self.documents.get(ref)
            if ref not in command.refs or current is None:
                raise ValueError(f"{ref} is incremented, but does not exist or is not in the refs of the command. Add it to refs.")
            for path, by in increments.items():
                current = _increment(current, path, by)
            changed[ref] = _increment(current, "version", 1)
        self.updates += updates
        for ref, document in inserted.items():
            self._insert(ref, document)
        for ref, document in changed.items():
            self._change(ref, document, changes.increments[ref])

    def _build_update(self, command: Command, collection: str, where: Document, update: Document) -> tuple[str, UpdateOne]:
        ref = DocumentRef(collection, where["_id"])
        if ref in command.refs:
            raise ValueError(f"{ref} is in the refs of the command. Use increments instead of updates.")
        if ref in self.documents:
            raise OverlappingUpdate
        return collection, UpdateOne(where, update)

    def _insert(self, ref: DocumentRef, document: Document) -> None:
        self.inserts[ref] = document
        if ref in self.documents:
            self.documents[ref] = document

    def _change(self, ref: DocumentRef, document: Document, increments: Mapping[str, int]) -> None:
        if ref in self.inserts:
            self._insert(ref, document)
            return
        if ref not in self.sums:
            self.versions[ref] = (self.documents[ref] or {}).get("version", {"$exists": False})
            self.sums[ref] = {}
        self.documents[ref] = document
        sums = self.sums[ref]
        for path, by in increments.items():
            sums[path] = sums.get(path, 0) + by
        sums["version"] = sums.get("version", 0) + 1

    async def _write(self, session: Session) -> None:
        increments = [
            (ref.collection, UpdateOne({"_id": ref.id, "version": self.versions[ref]}, {"$inc": sums})) for ref, sums in self.sums.items()
        ]
        await self._write_updates(increments, session)
        for collection, documents in _by_collection((ref.collection, document) for ref, document in self.inserts.items()):
            try:
                await self.database[collection].insert_many(documents, session=session)
            except BulkWriteError as error:
                if any(failed["code"] != DUPLICATE_KEY for failed in error.details["writeErrors"]):
                    raise
                raise _already_exists() from error
        await self._write_updates(self.updates, session)
        if self.events:
            await self.outbox.write(session, self.events)
        await self.guard.write(session)

    async def _write_updates(self, updates: Iterable[tuple[str, UpdateOne]], session: Session) -> None:
        for collection, operations in _by_collection(updates):
            result = await self.database[collection].bulk_write(operations, session=session)
            if result.matched_count != len(operations):
                raise Conflict("STATE_CHANGED", "This has changed since it was read. Read it again.")


def _by_collection(items: Iterable[tuple[str, Item]]) -> list[tuple[str, list[Item]]]:
    grouped: dict[str, list[Item]] = {}
    for collection, item in items:
        grouped.setdefault(collection, []).append(item)
    return list(grouped.items())


def _increment(document: Document, path: str, by: int) -> Document:
    """Returns a copy after `$inc`; the document that a decision has seen does not change."""
    head, _, rest = path.partition(".")
    if rest:
        return {**document, head: _increment(document.get(head, {}), rest, by)}
    return {**document, head: document.get(head, 0) + by}


def _already_exists() -> Conflict:
    return Conflict("ALREADY_EXISTS", "This already exists. Use the existing one.")
