"""The sender's side: a fact gets its sequence and a row for each listener in the transaction that causes it.

Why the order of a key can be trusted: the sequence comes from an update of the key's row inside the causing transaction. A second
transaction that tells of the same key meets a write conflict until the first one has ended. So a reader that sees fact n + 1 of a key
can see fact n, in any order in which the transactions began; no reader can pass a late commit by. Each listener's facts
of a key are numbered 1, 2, 3 … without gaps, so that the listener itself can tell that one is missing.
"""

import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from msgspec.structs import fields
from pymongo import ASCENDING, IndexModel, ReturnDocument, UpdateOne

from quanyu.facts.v1 import facts_pb2
from services.kit import ids
from services.kit.mongo.client import Database, Document, Session, ensure
from services.kit.mongo.codec import builtins
from services.kit.values.event import Fact

DELIVERIES = "deliveries"
"""A row per fact and listener until it is applied there: {_id, listener, shard, state, key, sequence, kind, attempts, fact: bytes}."""
KEYS = "fact_keys"
"""The last sequence given out per key and listener: {_id: key, last: {listener: sequence}}."""
SHARDS = 2
"""A listener's facts are relayed in this many parts at once, a key always in the same. It may grow, never shrink, while rows wait."""
FACT_BYTES_MAX = 2 * 1024 * 1024

BODIES: Mapping[str, Any] = {field.name: field.message_type for field in facts_pb2.Fact.DESCRIPTOR.oneofs_by_name["body"].fields}
"""The message descriptor of each kind of fact."""

PENDING, WAITING, RETRYING, PARKED = "pending", "waiting", "retrying", "parked"


class Outbox:
    """Writes the facts of one service (`source`). `heard_by` overrides the routes of the protos in the kit's own tests."""

    def __init__(self, database: Database, source: str, heard_by: Mapping[str, Sequence[str]] | None = None) -> None:
        self.database, self.source, self.heard_by = database, source, heard_by

    async def prepare(self) -> None:
        """Creates the collections a transaction writes to and the indexes of the relay. ValueError if a fact does not fit its message."""
        _check(Fact.__subclasses__())
        part = [("listener", ASCENDING), ("shard", ASCENDING), ("state", ASCENDING)]
        await ensure(
            self.database[DELIVERIES],
            IndexModel([*part, ("key", ASCENDING), ("sequence", ASCENDING)]),
            # Only rows that failed once have a due time.
            IndexModel([*part, ("due_at", ASCENDING)], partialFilterExpression={"due_at": {"$exists": True}}),
        )

    async def write(self, session: Session, facts: Sequence[facts_pb2.Fact]) -> None:
        """Stores `facts` in order, numbered per key and listener, a row for each listener. Facts without a listener cost nothing.

        ValueError when a fact is larger than `FACT_BYTES_MAX`.
        """
        counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        heard = [(fact, listener) for fact in facts for listener in self.listeners(fact)]
        for fact, listener in heard:
            counts[fact.key][listener] += 1
        if not heard:
            return
        last = await self._advance(session, counts)
        given = {key: {listener: last[key][listener] - count for listener, count in several.items()} for key, several in counts.items()}
        rows: list[Document] = []
        woken = set[tuple[str, int]]()
        for fact, listener in heard:
            given[fact.key][listener] += 1
            rows.append(row(fact, listener, given[fact.key][listener]))
            if (pump := (listener, rows[-1]["shard"])) in woken:
                # One row of a transaction wakes its pump; each further event would only cost.
                rows[-1]["wakes"] = False
            woken.add(pump)
        await self.database[DELIVERIES].insert_many(rows, session=session)

    async def _advance(self, session: Session, counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
        """Reserves sequences for so many facts per key and listener; the last one of each."""
        keys = self.database[KEYS]
        steps = {key: {"$inc": {f"last.{listener}": count for listener, count in several.items()}} for key, several in counts.items()}
        if len(steps) == 1:
            ((key, step),) = steps.items()
            found = await keys.find_one_and_update({"_id": key}, step, upsert=True, return_document=ReturnDocument.AFTER, session=session)
            return {key: found["last"]}
        await keys.bulk_write([UpdateOne({"_id": key}, step, upsert=True) for key, step in steps.items()], session=session)
        return {found["_id"]: found["last"] async for found in keys.find({"_id": {"$in": list(steps)}}, session=session)}

    def listeners(self, fact: facts_pb2.Fact) -> Sequence[str]:
        """The services that hear this kind of fact."""
        kind = fact.WhichOneof("body") or ""
        if self.heard_by is not None:
            return self.heard_by.get(kind, ())
        return route(kind).heard_by

    def fact(self, told: Fact, at: datetime) -> facts_pb2.Fact:
        """Converts a rule's fact to its message, keyed as its route says."""
        body = {name: value for name, value in builtins(told).items() if value is not None}
        envelope: dict[str, Any] = {"id": ids.new("fct"), "at": at, "source": self.source, told.kind: body}
        fact = facts_pb2.Fact(**envelope)
        fact.key = getattr(getattr(fact, told.kind), route(told.kind).key)
        return fact


def row(fact: facts_pb2.Fact, listener: str, sequence: int) -> Document:
    """What waits for the listener. Its id sorts by listener, shard and time of birth."""
    fact.sequence = sequence
    content = fact.SerializeToString()
    if len(content) > FACT_BYTES_MAX:
        raise ValueError(f"a {fact.WhichOneof('body')} of {len(content)} bytes; at most {FACT_BYTES_MAX}: tell it in parts")
    shard = shard_of(fact.key)
    return {
        "_id": f"{listener}:{shard}:{fact.id}",
        "listener": listener,
        "shard": shard,
        "state": PENDING,
        "key": fact.key,
        "sequence": sequence,
        "kind": fact.WhichOneof("body"),
        "attempts": 0,
        "fact": content,
    }


def shard_of(key: str) -> int:
    """The part of a listener's facts that this key belongs to."""
    return zlib.crc32(key.encode()) % SHARDS


@cache
def route(kind: str) -> facts_pb2.Route:
    """How this kind of fact travels, as its message declares."""
    declared: facts_pb2.Route = BODIES[kind].GetOptions().Extensions[facts_pb2.route]
    return declared


def _check(facts: Iterable[type[Fact]]) -> None:
    """ValueError unless each fact's kind and fields are those of a message."""
    for fact in facts:
        if fact.kind not in BODIES:
            raise ValueError(f"{fact.__qualname__}.kind must be one of {', '.join(BODIES)}; it is {fact.kind}")
        if unknown := {field.encode_name for field in fields(fact)} - set(BODIES[fact.kind].fields_by_name):
            raise ValueError(f"{fact.__qualname__} has fields that the message {fact.kind} lacks: {', '.join(sorted(unknown))}")
