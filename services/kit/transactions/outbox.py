"""The sender's side: an event gets its sequence and a row for each subscriber in the transaction that causes it.

Why the order of a key can be trusted: the sequence comes from an update of the key's row inside the causing transaction. A second
transaction that tells of the same key meets a write conflict until the first one has ended. So a reader that sees event n + 1 of a key
can see event n, in any order in which the transactions began; no reader can pass a late commit by. Each subscriber's events
of a key are numbered 1, 2, 3 … without gaps, so that the subscriber itself can tell that one is missing.
"""

import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from msgspec.structs import fields
from pymongo import ASCENDING, IndexModel, ReturnDocument, UpdateOne

from quanyu.events.v1 import events_pb2
from services.kit import ids
from services.kit.mongo.client import Database, Document, Session, ensure
from services.kit.mongo.codec import builtins
from services.kit.values.event import Event

DELIVERIES = "deliveries"
"""A row per event and subscriber until it is applied there: {_id, subscriber, shard, state, key, sequence, kind, attempts, event: bytes}."""
KEYS = "event_keys"
"""The last sequence given out per key and subscriber: {_id: key, last: {subscriber: sequence}}."""
SHARDS = 2
"""A subscriber's events are relayed in this many parts at once, a key always in the same. It may grow, never shrink, while rows wait."""
EVENT_BYTES_MAX = 2 * 1024 * 1024

BODIES: Mapping[str, Any] = {field.name: field.message_type for field in events_pb2.Event.DESCRIPTOR.oneofs_by_name["body"].fields}
"""The message descriptor of each kind of event."""

PENDING, WAITING, RETRYING, PARKED = "pending", "waiting", "retrying", "parked"


class Outbox:
    """Writes the events of one service (`source`). `subscribers` overrides the routes of the protos in the kit's own tests."""

    def __init__(self, database: Database, source: str, subscribers: Mapping[str, Sequence[str]] | None = None) -> None:
        self.database, self.source, self.subscribers = database, source, subscribers

    async def prepare(self) -> None:
        """Creates the collections a transaction writes to and the indexes of the relay. ValueError if an event does not fit its message."""
        _check(Event.__subclasses__())
        part = [("subscriber", ASCENDING), ("shard", ASCENDING), ("state", ASCENDING)]
        await ensure(
            self.database[DELIVERIES],
            IndexModel([*part, ("key", ASCENDING), ("sequence", ASCENDING)]),
            # Only rows that failed once have a due time.
            IndexModel([*part, ("due_at", ASCENDING)], partialFilterExpression={"due_at": {"$exists": True}}),
        )

    async def write(self, session: Session, events: Sequence[events_pb2.Event]) -> None:
        """Stores `events` in order, numbered per key and subscriber, a row for each subscriber. Events without a subscriber cost nothing.

        ValueError when an event is larger than `EVENT_BYTES_MAX`.
        """
        counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        heard = [(event, subscriber) for event in events for subscriber in self.subscribers_of(event)]
        for event, subscriber in heard:
            counts[event.key][subscriber] += 1
        if not heard:
            return
        last = await self._advance(session, counts)
        given = {
            key: {subscriber: last[key][subscriber] - count for subscriber, count in several.items()} for key, several in counts.items()
        }
        rows: list[Document] = []
        woken = set[tuple[str, int]]()
        for event, subscriber in heard:
            given[event.key][subscriber] += 1
            rows.append(row(event, subscriber, given[event.key][subscriber]))
            if (pump := (subscriber, rows[-1]["shard"])) in woken:
                # One row of a transaction wakes its pump; each further event would only cost.
                rows[-1]["wakes"] = False
            woken.add(pump)
        await self.database[DELIVERIES].insert_many(rows, session=session)

    async def _advance(self, session: Session, counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
        """Reserves sequences for so many events per key and subscriber; the last one of each."""
        keys = self.database[KEYS]
        steps = {key: {"$inc": {f"last.{subscriber}": count for subscriber, count in several.items()}} for key, several in counts.items()}
        if len(steps) == 1:
            ((key, step),) = steps.items()
            found = await keys.find_one_and_update({"_id": key}, step, upsert=True, return_document=ReturnDocument.AFTER, session=session)
            return {key: found["last"]}
        await keys.bulk_write([UpdateOne({"_id": key}, step, upsert=True) for key, step in steps.items()], session=session)
        return {found["_id"]: found["last"] async for found in keys.find({"_id": {"$in": list(steps)}}, session=session)}

    def subscribers_of(self, event: events_pb2.Event) -> Sequence[str]:
        """The services that hear this kind of event."""
        kind = event.WhichOneof("body") or ""
        if self.subscribers is not None:
            return self.subscribers.get(kind, ())
        return route(kind).subscribers

    def event(self, told: Event, at: datetime) -> events_pb2.Event:
        """Converts a rule's event to its message, keyed as its route says."""
        body = {name: value for name, value in builtins(told).items() if value is not None}
        envelope: dict[str, Any] = {"id": ids.new("evt"), "at": at, "source": self.source, told.kind: body}
        event = events_pb2.Event(**envelope)
        event.key = getattr(getattr(event, told.kind), route(told.kind).key)
        return event


def row(event: events_pb2.Event, subscriber: str, sequence: int) -> Document:
    """What waits for the subscriber. Its id sorts by subscriber, shard and time of birth."""
    event.sequence = sequence
    content = event.SerializeToString()
    if len(content) > EVENT_BYTES_MAX:
        raise ValueError(f"a {event.WhichOneof('body')} of {len(content)} bytes; at most {EVENT_BYTES_MAX}: tell it in parts")
    shard = shard_of(event.key)
    return {
        "_id": f"{subscriber}:{shard}:{event.id}",
        "subscriber": subscriber,
        "shard": shard,
        "state": PENDING,
        "key": event.key,
        "sequence": sequence,
        "kind": event.WhichOneof("body"),
        "attempts": 0,
        "event": content,
    }


def shard_of(key: str) -> int:
    """The part of a subscriber's events that this key belongs to."""
    return zlib.crc32(key.encode()) % SHARDS


@cache
def route(kind: str) -> events_pb2.Route:
    """How this kind of event travels, as its message declares."""
    declared: events_pb2.Route = BODIES[kind].GetOptions().Extensions[events_pb2.route]
    return declared


def _check(events: Iterable[type[Event]]) -> None:
    """ValueError unless each event's kind and fields are those of a message."""
    for event in events:
        if event.kind not in BODIES:
            raise ValueError(f"{event.__qualname__}.kind must be one of {', '.join(BODIES)}; it is {event.kind}")
        if unknown := {field.encode_name for field in fields(event)} - set(BODIES[event.kind].fields_by_name):
            raise ValueError(f"{event.__qualname__} has fields that the message {event.kind} lacks: {', '.join(sorted(unknown))}")
