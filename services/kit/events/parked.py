"""Parked events: those that failed too often, with their reasons. Operators replay them after they have fixed the cause."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from msgspec import Struct

from services.kit.clock import Clock, now
from services.kit.mongo.client import Database, Document
from services.kit.transactions.outbox import DELIVERIES, PARKED, RETRYING

PAGE_MAX = 500
"""A list of parked events has at most this many entries."""


class ParkedEvent(Struct, frozen=True):
    """An event that a subscriber refused too often. `reason` is that of the last refusal; later events of `key` wait behind it."""

    id: str
    subscriber: str
    key: str
    sequence: int
    kind: str
    attempts: int
    reason: str
    parked_at: datetime


class ParkedEvents:
    """The parked events of one publisher."""

    def __init__(self, database: Database, clock: Clock = now) -> None:
        self.database, self.clock = database, clock

    async def list(self, subscriber: str = "", *, after: str = "", limit: int = PAGE_MAX) -> list[ParkedEvent]:
        """Returns at most `limit` (and PAGE_MAX) parked events after the id `after`, of one subscriber or all, in order of their ids."""
        query = _parked_filter(subscriber) | {"_id": {"$gt": after}}
        documents = await self.database[DELIVERIES].find(query).sort("_id", 1).limit(min(limit, PAGE_MAX)).to_list(None)
        return [
            msgspec.convert({**document, "id": document["_id"], "parked_at": document["due_at"]}, ParkedEvent) for document in documents
        ]

    async def replay(self, ids: Sequence[str] | None = None, subscriber: str = "") -> int:
        """Makes parked events (all, or those with these ids) retry at once, without their failure counts; returns how many.

        The relay sends the events that wait behind one in their order, once that one is applied.
        """
        query = _parked_filter(subscriber) | ({} if ids is None else {"_id": {"$in": list(ids)}})
        reset = {"state": RETRYING, "due_at": self.clock(), "attempts": 0, "delays": 0}
        replayed = await self.database[DELIVERIES].update_many(query, {"$set": reset})
        modified: int = replayed.modified_count
        return modified


def _parked_filter(subscriber: str) -> Document:
    query: Document = {"state": PARKED, "due_at": {"$exists": True}}
    return query | ({"subscriber": subscriber} if subscriber else {})
