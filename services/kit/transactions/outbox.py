"""Transactional outbox, the publisher's side: the causing transaction numbers an event and writes a delivery for each subscriber.

Why the order of a key can be trusted: the sequence comes from an update of the key's document inside the causing transaction. A second
transaction that publishes an event of the same key meets a write conflict until the first one has ended. So a reader that sees event
n + 1 of a key also sees event n, in whatever order the transactions began; no late commit can be skipped. The events of a key are
numbered 1, 2, 3 … for each subscriber without gaps, so that the subscriber notices a missing one.
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
from services.kit.mongo.client import Database, Document, Session, ensure_indexes
from services.kit.mongo.codec import to_builtins
from services.kit.values.event import Event

DELIVERIES = "deliveries"
"""A delivery is one event for one subscriber, until it is applied there.

The document is {_id, subscriber, shard, state, key, sequence, kind, attempts, event: bytes}.
"""
KEYS = "event_keys"
"""The last sequence of each key and subscriber is {_id: key, last: {subscriber: sequence}}."""
SHARDS = 2
"""The deliveries for a subscriber have this many shards, relayed concurrently; a key is always in the same shard.

The number may grow, but must not shrink while deliveries wait.
"""
EVENT_BYTES_MAX = 2 * 1024 * 1024
"""An event has at most this many bytes."""

BODIES: Mapping[str, Any] = {field.name: field.message_type for field in events_pb2.Event.DESCRIPTOR.oneofs_by_name["body"].fields}
"""The message descriptor of each kind of event."""

PENDING, WAITING, RETRYING, PARKED = "pending", "waiting", "retrying", "parked"
"""The states of a delivery; `events/deliveries.py` describes them."""


class Outbox:
    """Writes the events of one service (`source`). Tests of the kit override the routes of the protos with `subscribers`."""

    def __init__(self, database: Database, source: str, subscribers: Mapping[str, Sequence[str]] | None = None) -> None:
        self.database, self.source, self.subscribers = database, source, subscribers

    async def prepare(self) -> None:
        """Creates the collections that a transaction writes to and their indexes. ValueError if an event class does not fit its message."""
        _check_events(Event.__subclasses__())
        shard = [("subscriber", ASCENDING), ("shard", ASCENDING), ("state", ASCENDING)]
        await ensure_indexes(
            self.database[DELIVERIES],
            IndexModel([*shard, ("key", ASCENDING), ("sequence", ASCENDING)]),
            # Only deliveries that have failed have a due time.
            IndexModel([*shard, ("due_at", ASCENDING)], partialFilterExpression={"due_at": {"$exists": True}}),
        )

    async def write(self, session: Session, events: Sequence[events_pb2.Event]) -> None:
        """Writes a delivery of each event for each of its subscribers, numbered by key and subscriber in the order of `events`.

        Events without a subscriber cost nothing. ValueError if an event is larger than EVENT_BYTES_MAX.
        """
        counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        addressed = [(event, subscriber) for event in events for subscriber in self.subscribers_of(event)]
        for event, subscriber in addressed:
            counts[event.key][subscriber] += 1
        if not addressed:
            return
        last = await self._reserve_sequences(session, counts)
        sequences = {
            key: {subscriber: last[key][subscriber] - count for subscriber, count in by_subscriber.items()}
            for key, by_subscriber in counts.items()
        }
        deliveries: list[Document] = []
        woken = set[tuple[str, int]]()
        for event, subscriber in addressed:
            sequences[event.key][subscriber] += 1
            deliveries.append(delivery_document(event, subscriber, sequences[event.key][subscriber]))
            if (shard := (subscriber, deliveries[-1]["shard"])) in woken:
                # One delivery of a transaction wakes the relay of its shard; more wake-ups would only cost.
                deliveries[-1]["wakes"] = False
            woken.add(shard)
        await self.database[DELIVERIES].insert_many(deliveries, session=session)

    async def _reserve_sequences(self, session: Session, counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
        """Reserves this many sequences for each key and subscriber; returns the last one of each."""
        keys = self.database[KEYS]
        updates = {
            key: {"$inc": {f"last.{subscriber}": count for subscriber, count in by_subscriber.items()}}
            for key, by_subscriber in counts.items()
        }
        if len(updates) == 1:
            ((key, update),) = updates.items()
            document = await keys.find_one_and_update(
                {"_id": key}, update, upsert=True, return_document=ReturnDocument.AFTER, session=session
            )
            return {key: document["last"]}
        await keys.bulk_write([UpdateOne({"_id": key}, update, upsert=True) for key, update in updates.items()], session=session)
        found = keys.find({"_id": {"$in": list(updates)}}, session=session)
        return {document["_id"]: document["last"] async for document in found}

    def subscribers_of(self, event: events_pb2.Event) -> Sequence[str]:
        """Returns the services that subscribe to this kind of event."""
        kind = event.WhichOneof("body") or ""
        if self.subscribers is not None:
            return self.subscribers.get(kind, ())
        return route_of(kind).subscribers

    def to_message(self, event: Event, at: datetime) -> events_pb2.Event:
        """Converts an event of a rule to its message; the route of its kind names the field that is its key."""
        body = {name: value for name, value in to_builtins(event).items() if value is not None}
        envelope: dict[str, Any] = {"id": ids.new("evt"), "at": at, "source": self.source, event.kind: body}
        message = events_pb2.Event(**envelope)
        message.key = getattr(getattr(message, event.kind), route_of(event.kind).key)
        return message


def delivery_document(event: events_pb2.Event, subscriber: str, sequence: int) -> Document:
    """Returns the delivery of an event for a subscriber. Its id sorts by subscriber, shard and time of creation."""
    event.sequence = sequence
    content = event.SerializeToString()
    if len(content) > EVENT_BYTES_MAX:
        kind = event.WhichOneof("body")
        raise ValueError(f"An event of kind {kind} has {len(content)} bytes, more than {EVENT_BYTES_MAX}. Split it into several events.")
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
    """Returns the shard of a key."""
    return zlib.crc32(key.encode()) % SHARDS


@cache
def route_of(kind: str) -> events_pb2.Route:
    """Returns the route that the message of this kind of event declares: its publisher, subscribers and key."""
    declared: events_pb2.Route = BODIES[kind].GetOptions().Extensions[events_pb2.route]
    return declared


def _check_events(events: Iterable[type[Event]]) -> None:
    """Raises ValueError unless the kind and the fields of each event class are those of a message."""
    for event in events:
        if event.kind not in BODIES:
            raise ValueError(f"{event.__qualname__}.kind is {event.kind}. It must be one of {', '.join(BODIES)}.")
        if unknown := {field.encode_name for field in fields(event)} - set(BODIES[event.kind].fields_by_name):
            raise ValueError(
                f"{event.__qualname__} has fields that the message {event.kind} lacks: {', '.join(sorted(unknown))}. Remove them."
            )
