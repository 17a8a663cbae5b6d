"""Events that kept failing: shown with their reasons, and replayed once what was wrong is put right."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from msgspec import Struct

from services.kit.clock import Clock, now
from services.kit.mongo.client import Database, Document
from services.kit.transactions.outbox import DELIVERIES, PARKED, RETRYING

PAGE_MAX = 500


class ParkedEvent(Struct, frozen=True):
    """An event that a subscriber refused too often. `reason` is the last one; later events of `key` wait behind it."""

    id: str
    subscriber: str
    key: str
    sequence: int
    kind: str
    attempts: int
    reason: str
    parked_at: datetime


class Parked:
    """The parked events of one sender, for all subscribers or one."""

    def __init__(self, database: Database, clock: Clock = now) -> None:
        self.database, self.clock = database, clock

    async def list(self, subscriber: str = "", *, after: str = "", limit: int = PAGE_MAX) -> list[ParkedEvent]:
        """At most `limit` (and PAGE_MAX) parked events by id, those behind `after`."""
        query = _parked(subscriber) | {"_id": {"$gt": after}}
        rows = await self.database[DELIVERIES].find(query).sort("_id", 1).limit(min(limit, PAGE_MAX)).to_list(None)
        return [msgspec.convert({**row, "id": row["_id"], "parked_at": row["due_at"]}, ParkedEvent) for row in rows]

    async def replay(self, ids: Sequence[str] | None = None, subscriber: str = "") -> int:
        """Sends parked events again, all or those with these ids, as if they had never failed; how many.

        Events waiting behind one follow it in their order once it is applied; the relay sees to that.
        """
        query = _parked(subscriber) | ({} if ids is None else {"_id": {"$in": list(ids)}})
        fresh = {"state": RETRYING, "due_at": self.clock(), "attempts": 0, "delays": 0}
        replayed = await self.database[DELIVERIES].update_many(query, {"$set": fresh})
        modified: int = replayed.modified_count
        return modified


def _parked(subscriber: str) -> Document:
    query: Document = {"state": PARKED, "due_at": {"$exists": True}}
    return query | ({"subscriber": subscriber} if subscriber else {})
