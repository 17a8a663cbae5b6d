"""How many holds stand for one consumer at a time: exact, though nothing counts them up or down.

Whatever holds goods raises the row of its consumer in its own transaction. Whoever holds reads that row and then the holds that stand;
the lane decides only on the same row, else somebody held for this consumer meanwhile and it is looked at again. What ends a hold need
not know.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

from google.protobuf.message import Message
from msgspec import Struct
from msgspec.structs import replace
from pymongo import ASCENDING, IndexModel

from services.commerce.stock import rules
from services.commerce.stock.rules import HOLDS_MAX, LIVE
from services.kit.errors import Unavailable
from services.kit.lane import Lane, Outcome, Ref, State
from services.kit.mongo import Database, Document
from services.kit.once import Once

HOLDERS = "holders"
ATTEMPTS_MAX = 2 * HOLDS_MAX
"""Looks at a consumer for whom others hold at the same moment; after HOLDS_MAX holds the answer is no."""
HELD_MEANWHILE = "HELD_MEANWHILE"
BY_HOLDER = IndexModel([("consumer_id", ASCENDING), ("state", ASCENDING), ("expires_at", ASCENDING)])
Answer = TypeVar("Answer", bound=Message)
Decide = Callable[[State], Outcome]


class Standing(Struct, frozen=True):
    """What stands for a consumer: the version of their row, and when their live holds end, the first first."""

    ref: Ref
    version: int
    ends: tuple[datetime, ...]

    def deciding(self, decide: Decide) -> Decide:
        """`decide` on no other row than this; `Exhausted` TOO_MANY_HOLDS when there are as many as may be."""

        def one_more(state: State) -> Outcome:
            row = state[self.ref]
            if row is None or row["version"] != self.version:
                raise Unavailable(HELD_MEANWHILE)
            rules.check_holds(self.ends)
            outcome = decide(state)
            return replace(outcome, increments={**outcome.increments, self.ref: {}})

        return one_more


class Holders:
    """The consumers' rows. `holds` is the collection of the holds themselves."""

    def __init__(self, database: Database, lane: Lane, holds: str) -> None:
        self.lane, self.rows, self.holds = lane, database[HOLDERS], database[holds]

    async def hold(
        self, once: Once, consumer_id: str, at: datetime, counters: Sequence[Ref], decide: Decide, answer_type: type[Answer]
    ) -> Answer:
        """What the lane answers to a decision that holds goods for this consumer, one call of HOLDS_MAX that stand as of `at`."""
        for _ in range(ATTEMPTS_MAX):
            standing = await self.standing(consumer_id, at)
            try:
                return await self.lane.run(once, [*counters, standing.ref], standing.deciding(decide), answer_type)
            except Unavailable as refused:
                if refused.reason != HELD_MEANWHILE:
                    raise
        raise Unavailable("CONTENDED", "others hold for this consumer at the same moment; make the same call again")

    async def standing(self, consumer_id: str, at: datetime) -> Standing:
        """The row first: what is held after it was read raises it."""
        row: Document | None = await self.rows.find_one({"_id": consumer_id})
        if row is None:
            await self.rows.update_one({"_id": consumer_id}, {"$setOnInsert": {"version": 1}}, upsert=True)
            row = await self.rows.find_one({"_id": consumer_id})
            assert row is not None
        live = self.holds.find(live_of(consumer_id, at), {"expires_at": 1, "_id": 0}).sort("expires_at", 1).limit(HOLDS_MAX)
        return Standing(Ref(HOLDERS, consumer_id), row["version"], tuple([hold["expires_at"] async for hold in live]))


def live_of(consumer_id: str, at: datetime) -> Document:
    """The holds that keep goods back for a consumer as of `at`, unpaid orders' among them, and count."""
    return {"consumer_id": consumer_id, "state": {"$in": list(LIVE)}, "expires_at": {"$gt": at}, "counted": {"$ne": False}}
