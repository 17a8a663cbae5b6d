"""The sender's side: a fact gets its sequence and a row for each listener in the transaction that causes it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

import msgspec
from pymongo import ASCENDING, IndexModel, ReturnDocument, UpdateOne

from quanyu.facts.v1 import facts_pb2
from services.kit import ids
from services.kit.documents import builtins
from services.kit.mongo import Database, Document, Session, ensure

DELIVERIES = "deliveries"
"""A row per fact and listener until it is applied there: {_id, listener, state, key, sequence, attempts, due_at, fact: bytes}."""
KEYS = "fact_keys"
"""The last sequence given out per key: {_id: key, sequence}."""

PENDING, WAITING, PARKED = "pending", "waiting", "parked"


class Outbox:
    """Writes the facts of one service (`source`). `heard_by` overrides the routes of the protos in the kit's own tests."""

    def __init__(self, database: Database, source: str, heard_by: Mapping[str, Sequence[str]] | None = None) -> None:
        self.database, self.source, self.heard_by = database, source, heard_by

    async def prepare(self) -> None:
        """The indexes the relay reads by."""
        await ensure(
            self.database[DELIVERIES],
            IndexModel([("listener", ASCENDING), ("state", ASCENDING), ("key", ASCENDING), ("sequence", ASCENDING)]),
        )

    async def write(self, session: Session, facts: Sequence[facts_pb2.Fact]) -> None:
        """Stores `facts` in order, numbered per key, a row for each listener. Facts nobody hears cost nothing."""
        heard = [(fact, self.listeners(fact)) for fact in facts]
        by_key: dict[str, list[tuple[facts_pb2.Fact, Sequence[str]]]] = defaultdict(list)
        for fact, listeners in heard:
            if listeners:
                by_key[fact.key].append((fact, listeners))
        if not by_key:
            return
        last = await self._advance(session, {key: len(items) for key, items in by_key.items()})
        rows: list[Document] = []
        for key, items in by_key.items():
            for sequence, (fact, listeners) in enumerate(items, last[key] - len(items) + 1):
                fact.sequence = sequence
                rows += [self._row(fact, listener) for listener in listeners]
        await self.database[DELIVERIES].insert_many(rows, session=session)

    async def _advance(self, session: Session, counts: Mapping[str, int]) -> dict[str, int]:
        """Reserves `count` sequences per key; the last one of each."""
        keys = self.database[KEYS]
        if len(counts) == 1:
            ((key, count),) = counts.items()
            row = await keys.find_one_and_update(
                {"_id": key}, {"$inc": {"sequence": count}}, upsert=True, return_document=ReturnDocument.AFTER, session=session
            )
            return {key: row["sequence"]}
        await keys.bulk_write(
            [UpdateOne({"_id": key}, {"$inc": {"sequence": count}}, upsert=True) for key, count in counts.items()], session=session
        )
        return {row["_id"]: row["sequence"] async for row in keys.find({"_id": {"$in": list(counts)}}, session=session)}

    def _row(self, fact: facts_pb2.Fact, listener: str) -> Document:
        return {
            "_id": f"{fact.id}:{listener}",
            "listener": listener,
            "state": PENDING,
            "key": fact.key,
            "sequence": fact.sequence,
            "kind": fact.WhichOneof("body"),
            "attempts": 0,
            "fact": fact.SerializeToString(),
        }

    def listeners(self, fact: facts_pb2.Fact) -> Sequence[str]:
        """The services that hear this kind of fact."""
        kind = fact.WhichOneof("body") or ""
        if self.heard_by is not None:
            return self.heard_by.get(kind, ())
        return route(kind).heard_by

    def fact(self, told: msgspec.Struct, at: datetime) -> facts_pb2.Fact:
        """A rule's fact as its message: the struct `OrderPaid` becomes the body `order_paid`, keyed as its route says."""
        kind = _kinds()[type(told).__name__]
        body = getattr(facts_pb2, type(told).__name__)(**{name: value for name, value in builtins(told).items() if value is not None})
        envelope: dict[str, Any] = {
            "id": ids.new("fct"),
            "key": getattr(body, route(kind).key),
            "at": at,
            "source": self.source,
            kind: body,
        }
        return facts_pb2.Fact(**envelope)


@cache
def route(kind: str) -> facts_pb2.Route:
    """How this kind of fact travels, as its message declares."""
    body: Any = facts_pb2.Fact.DESCRIPTOR.fields_by_name[kind].message_type
    declared: facts_pb2.Route = body.GetOptions().Extensions[facts_pb2.route]
    return declared


@cache
def _kinds() -> dict[str, str]:
    body: Any = facts_pb2.Fact.DESCRIPTOR.oneofs_by_name["body"]
    return {field.message_type.name: field.name for field in body.fields}
