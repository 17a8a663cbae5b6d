"""Delivery queue: the documents that wait for one shard of one subscriber, and their state transitions.

| state    | meaning                                          | next state                                                            |
|----------|--------------------------------------------------|-----------------------------------------------------------------------|
| pending  | to be sent                                       | deleted when applied; retrying; parked; waiting behind a held document |
| retrying | the first of its key; sent again at its due time | deleted when applied; parked after too many failures                  |
| parked   | the first of its key; an operator must act       | retrying when replayed                                                |
| waiting  | a later one of a key whose first is held         | pending when that first one is applied                                |

A document is held while it is retrying or parked. Each update is conditional on the state that was read. So two relays that both believe
to hold the lease repeat work, but corrupt nothing.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import Struct
from pymongo import UpdateOne

from quanyu.events.v1 import events_pb2
from services.kit.backoff import Backoff
from services.kit.mongo.client import Database, Document, Session
from services.kit.transactions.outbox import DELIVERIES, PARKED, PENDING, RETRYING, WAITING

HELD = (RETRYING, PARKED)
"""In these states an event holds back the later events of its key."""
ATTEMPTS_MAX = 10
"""An event is parked after this many FAILED results; with the waits of RETRY this takes about three minutes."""
RETRY = Backoff(first_seconds=0.5, cap_seconds=60.0)
"""The wait before an event is sent again."""
REASON_LENGTH_MAX = 200
"""A stored reason has at most this many characters."""
BATCH_BYTES_MAX = 1024 * 1024
"""A batch with more bytes than this is sent at once: the subscriber applies it in one transaction, within the deadline of one call."""
PROJECTION = {"key": 1, "sequence": 1, "state": 1, "attempts": 1, "delays": 1, "event": 1}


class QueuedEvent(Struct, frozen=True):
    """An event to deliver to one subscriber. `attempts` counts its failures, `delays` all postponements."""

    id: str
    key: str
    sequence: int
    state: str
    attempts: int
    delays: int
    event: bytes

    def to_message(self) -> events_pb2.Event:
        """Parses the event."""
        return events_pb2.Event.FromString(self.event)


class DeliveryQueue:
    """One shard of the events for one subscriber."""

    def __init__(
        self, database: Database, subscriber: str, shard: int, *, attempts_max: int = ATTEMPTS_MAX, retry: Backoff = RETRY
    ) -> None:
        self.database, self.subscriber, self.shard = database, subscriber, shard
        self.attempts_max, self.retry = attempts_max, retry
        self.collection: Any = database[DELIVERIES]
        self.shard_filter: Document = {"subscriber": subscriber, "shard": shard}

    async def find_due(self, at: datetime, limit: int) -> list[QueuedEvent]:
        """Returns at most `limit` retrying events whose due time has come, earliest first."""
        query = {**self.shard_filter, "state": RETRYING, "due_at": {"$lte": at}}
        return await self._read(self.collection.find(query, PROJECTION).sort("due_at", 1).limit(limit))

    async def find_next_due_time(self) -> datetime | None:
        """Returns the earliest due time of the retrying events; None without such events."""
        query = {**self.shard_filter, "state": RETRYING, "due_at": {"$exists": True}}
        document = await self.collection.find_one(query, {"due_at": 1}, sort=[("due_at", 1)])
        return document["due_at"] if document else None

    async def find_pending(self, after: str, limit: int) -> list[QueuedEvent]:
        """Returns at most `limit` pending events of the keys after `after`, or from the first key on if there are no later keys.

        Events are in order within each key. A key always starts with its first pending event, since `after` is a key and never a
        position within one.
        """
        return await self._find_pending({"$gt": after}, limit) or (await self._find_pending({"$lte": after}, limit) if after else [])

    async def _find_pending(self, keys: Document, limit: int) -> list[QueuedEvent]:
        query = {**self.shard_filter, "state": PENDING, "key": keys}
        order = [("key", 1), ("sequence", 1)]
        return await self._read(self.collection.find(query, PROJECTION).sort(order).limit(limit).batch_size(limit))

    async def _read(self, cursor: Any) -> list[QueuedEvent]:
        """Reads events from a cursor until they have BATCH_BYTES_MAX bytes or more."""
        events: list[QueuedEvent] = []
        bytes_left = BATCH_BYTES_MAX
        async for document in cursor:
            events.append(QueuedEvent(id=document.pop("_id"), delays=document.pop("delays", 0), **document))
            bytes_left -= len(events[-1].event)
            if bytes_left <= 0:
                break
        await cursor.close()
        return events

    async def find_held_keys(self, keys: Iterable[str], session: Session = None) -> dict[str, str]:
        """Returns those of the keys that are held, each with the id of the event that holds it."""
        query = {**self.shard_filter, "state": {"$in": HELD}, "key": {"$in": sorted(set(keys))}}
        return {document["key"]: document["_id"] async for document in self.collection.find(query, {"key": 1}, session=session)}

    async def mark_waiting(self, events: Sequence[QueuedEvent]) -> None:
        """Marks pending events of held keys as waiting, so that the relay does not read them again and again.

        The same transaction increments `marks` of the events that hold them. So `delete_applied`, which may run at the same time, notices
        the new waiting events and releases them; without the mark they would wait forever.
        """

        async def mark(session: Session) -> None:
            holders = await self.find_held_keys((event.key for event in events), session)
            waiting = [event.id for event in events if event.key in holders]
            await self.collection.update_many({"_id": {"$in": list(holders.values())}}, {"$inc": {"marks": 1}}, session=session)
            await self.collection.update_many({"_id": {"$in": waiting}, "state": PENDING}, {"$set": {"state": WAITING}}, session=session)

        await self.database.transact(mark)

    async def delete_applied(self, events: Sequence[QueuedEvent]) -> None:
        """Deletes events that the subscriber has applied, and releases those that waited behind one of them."""
        if not events:
            return
        ids = [event.id for event in events]
        deleted = await self.collection.delete_many({"_id": {"$in": ids}, "state": PENDING})
        if deleted.deleted_count == len(ids):
            return
        async for holder in self.collection.find({"_id": {"$in": ids}}, {"key": 1, "marks": 1}):
            await self._release(holder)

    async def _release(self, holder: Document | None) -> None:
        # If `marks` has changed between the two writes, more events wait behind the holder: release these as well.
        while holder is not None:
            await self.collection.update_many({**self.shard_filter, "state": WAITING, "key": holder["key"]}, {"$set": {"state": PENDING}})
            deleted = await self.collection.delete_one({"_id": holder["_id"], "marks": holder.get("marks")})
            if deleted.deleted_count:
                return
            holder = await self.collection.find_one({"_id": holder["_id"]}, {"key": 1, "marks": 1})

    async def postpone(self, results: Sequence[tuple[QueuedEvent, str, bool]], at: datetime) -> list[QueuedEvent]:
        """Holds events back, each with its reason and whether it counts as a failure; returns those that are parked now."""
        updates, parked = [], []
        for event, reason, is_failure in results:
            attempts, delays = event.attempts + is_failure, event.delays + 1
            change: Document = {"state": RETRYING, "attempts": attempts, "delays": delays, "reason": reason[:REASON_LENGTH_MAX]}
            change["due_at"] = at + timedelta(seconds=self.retry.seconds(delays))
            if attempts >= self.attempts_max:
                change |= {"state": PARKED, "due_at": at}
                parked.append(event)
            updates.append(UpdateOne({"_id": event.id, "state": event.state, "attempts": event.attempts}, {"$set": change}))
        if updates:
            await self.collection.bulk_write(updates, ordered=False)
        return parked

    async def count(self) -> tuple[int, int, datetime | None]:
        """Returns the numbers of unparked and of parked events, and when the oldest of all was published."""
        parked = await self.collection.count_documents({**self.shard_filter, "state": PARKED})
        unparked = await self.collection.count_documents({**self.shard_filter, "state": {"$in": [PENDING, RETRYING, WAITING]}})
        prefix = f"{self.subscriber}:{self.shard}:"
        oldest = await self.collection.find_one({"_id": {"$gte": prefix, "$lt": prefix + "~"}}, {"_id": 1}, sort=[("_id", 1)])
        return unparked, parked, published_at(oldest["_id"]) if oldest else None


def published_at(delivery_id: str) -> datetime:
    """Returns when an event was published: the time at the start of the UUIDv7 in the id of its delivery."""
    return datetime.fromtimestamp(int(delivery_id.rpartition("_")[2][:12], 16) / 1000, UTC)
