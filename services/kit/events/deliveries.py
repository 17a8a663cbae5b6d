"""The rows that wait for one subscriber (one shard of them), and how they change.

| state    | meaning                                             | becomes                                                        |
|----------|-----------------------------------------------------|----------------------------------------------------------------|
| pending  | to be sent                                          | deleted once applied; retrying, parked; waiting behind a held row |
| retrying | the first of its key; sent again when due           | deleted once applied; parked after too many failures           |
| parked   | the first of its key; a person must look at it      | retrying, when replayed                                        |
| waiting  | a later one of a key whose first is held (the two above) | pending, once that first one is applied                   |

Every change is conditional on what was read, so that two relays that both believe to hold the lease do work twice but nothing wrong.
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
ATTEMPTS_MAX = 10
"""`FAILED` answers after which a row is parked; with the waits below after about three minutes."""
RETRY = Backoff(first_seconds=0.5, cap_seconds=60.0)
REASON_LENGTH_MAX = 200
BATCH_BYTES_MAX = 1024 * 1024
"""The receiver applies a batch in one transaction, within the seconds of one call: large events go few at a time."""
FIELDS = {"key": 1, "sequence": 1, "state": 1, "attempts": 1, "delays": 1, "event": 1}


class Row(Struct, frozen=True):
    """One event on its way to one subscriber. `attempts` counts its failures, `delays` how often it was put off for whatever reason."""

    id: str
    key: str
    sequence: int
    state: str
    attempts: int
    delays: int
    event: bytes

    def message(self) -> events_pb2.Event:
        """The event as it is sent."""
        return events_pb2.Event.FromString(self.event)


class Deliveries:
    """One shard of what waits for one subscriber."""

    def __init__(
        self, database: Database, subscriber: str, shard: int, *, attempts_max: int = ATTEMPTS_MAX, retry: Backoff = RETRY
    ) -> None:
        self.database, self.subscriber, self.shard = database, subscriber, shard
        self.attempts_max, self.retry = attempts_max, retry
        self.rows: Any = database[DELIVERIES]
        self.part: Document = {"subscriber": subscriber, "shard": shard}

    async def due(self, at: datetime, limit: int) -> list[Row]:
        """Held rows that are to be tried again by now, at most `limit`, the longest due first."""
        return await self._read(
            self.rows.find({**self.part, "state": RETRYING, "due_at": {"$lte": at}}, FIELDS).sort("due_at", 1).limit(limit)
        )

    async def next_due(self) -> datetime | None:
        """When the next held row is to be tried again."""
        row = await self.rows.find_one({**self.part, "state": RETRYING, "due_at": {"$exists": True}}, {"due_at": 1}, sort=[("due_at", 1)])
        return row["due_at"] if row else None

    async def pending(self, after: str, limit: int) -> list[Row]:
        """At most `limit` pending rows, in order within each key: those of the keys behind `after` or, at the end, from the first key on.

        A key is always begun at its first pending row, since `after` is a key and never a place within one.
        """
        return await self._pending({"$gt": after}, limit) or (await self._pending({"$lte": after}, limit) if after else [])

    async def _pending(self, keys: Document, limit: int) -> list[Row]:
        query = {**self.part, "state": PENDING, "key": keys}
        return await self._read(self.rows.find(query, FIELDS).sort([("key", 1), ("sequence", 1)]).limit(limit).batch_size(limit))

    async def _read(self, cursor: Any) -> list[Row]:
        """The rows of a cursor, up to BATCH_BYTES_MAX and one row more."""
        rows: list[Row] = []
        room = BATCH_BYTES_MAX
        async for document in cursor:
            rows.append(Row(id=document.pop("_id"), delays=document.pop("delays", 0), **document))
            room -= len(rows[-1].event)
            if room <= 0:
                break
        await cursor.close()
        return rows

    async def held(self, keys: Iterable[str], session: Session = None) -> dict[str, str]:
        """Those of the keys that are held back, each with the id of the row that holds it."""
        query = {**self.part, "state": {"$in": HELD}, "key": {"$in": sorted(set(keys))}}
        return {row["key"]: row["_id"] async for row in self.rows.find(query, {"key": 1}, session=session)}

    async def put_behind(self, rows: Sequence[Row]) -> None:
        """Makes pending rows of held keys wait, so that the relay does not read them again and again.

        In one transaction with a mark on the rows that hold them: `applied` must not let go meanwhile, or these would wait forever.
        """

        async def body(session: Session) -> None:
            holding = await self.held((row.key for row in rows), session)
            behind = [row.id for row in rows if row.key in holding]
            await self.rows.update_many({"_id": {"$in": list(holding.values())}}, {"$inc": {"marks": 1}}, session=session)
            await self.rows.update_many({"_id": {"$in": behind}, "state": PENDING}, {"$set": {"state": WAITING}}, session=session)

        await self.database.transact(body)

    async def applied(self, rows: Sequence[Row]) -> None:
        """Forgets rows whose effect stands and lets go those that waited behind one of them."""
        if not rows:
            return
        ids = [row.id for row in rows]
        deleted = await self.rows.delete_many({"_id": {"$in": ids}, "state": PENDING})
        if deleted.deleted_count == len(ids):
            return
        async for holder in self.rows.find({"_id": {"$in": ids}}, {"key": 1, "marks": 1}):
            await self._let_go(holder)

    async def _let_go(self, holder: Document | None) -> None:
        # The mark tells whether others were put behind it between the two writes; then they are let go, too.
        while holder is not None:
            await self.rows.update_many({**self.part, "state": WAITING, "key": holder["key"]}, {"$set": {"state": PENDING}})
            gone = await self.rows.delete_one({"_id": holder["_id"], "marks": holder.get("marks")})
            if gone.deleted_count:
                return
            holder = await self.rows.find_one({"_id": holder["_id"]}, {"key": 1, "marks": 1})

    async def put_off(self, answers: Sequence[tuple[Row, str, bool]], at: datetime) -> list[Row]:
        """Holds rows back, each with the reason and whether this counts as a failure; answers those that are parked by it."""
        changes, parked = [], []
        for row, reason, counts in answers:
            attempts, delays = row.attempts + counts, row.delays + 1
            change: Document = {"state": RETRYING, "attempts": attempts, "delays": delays, "reason": reason[:REASON_LENGTH_MAX]}
            change["due_at"] = at + timedelta(seconds=self.retry.seconds(delays))
            if attempts >= self.attempts_max:
                change |= {"state": PARKED, "due_at": at}
                parked.append(row)
            changes.append(UpdateOne({"_id": row.id, "state": row.state, "attempts": row.attempts}, {"$set": change}))
        if changes:
            await self.rows.bulk_write(changes, ordered=False)
        return parked

    async def counts(self) -> tuple[int, int, datetime | None]:
        """How many rows wait, how many are parked, and when the oldest of them all was told."""
        parked = await self.rows.count_documents({**self.part, "state": PARKED})
        waiting = await self.rows.count_documents({**self.part, "state": {"$in": [PENDING, RETRYING, WAITING]}})
        prefix = f"{self.subscriber}:{self.shard}:"
        oldest = await self.rows.find_one({"_id": {"$gte": prefix, "$lt": prefix + "~"}}, {"_id": 1}, sort=[("_id", 1)])
        return waiting, parked, told_at(oldest["_id"]) if oldest else None


def told_at(row_id: str) -> datetime:
    """When the event of a row was told: the time its UUIDv7 begins with."""
    return datetime.fromtimestamp(int(row_id.rpartition("_")[2][:12], 16) / 1000, UTC)
