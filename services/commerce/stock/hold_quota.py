"""How many holds stand for one holder at a time: exact, though nothing counts them up or down.

A holder is a person, or a brand whose staff hold for a person. Whatever holds goods raises the row of its holder in
its own transaction. Whoever holds reads that row and then the holds that stand; the group_commit decides only on the same row, else one more was
held there meanwhile and it is looked at again. What ends a hold need not know.
Ids that are linked are one person from the moment that is heard: what stands under each of them counts on, though together it be more
than may stand; so does what is being held at that very moment.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

from google.protobuf.message import Message
from msgspec import Struct
from msgspec.structs import replace
from pymongo import ASCENDING

from services.commerce.stock import rules
from services.commerce.stock.enums import Reason
from services.commerce.stock.rules import HOLDS_MAX, LIVE, Hold, Store
from services.kit.enums import ScopeKind
from services.kit.errors import NotFound, Unavailable
from services.kit.mongo.client import Database, Document
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.projections.persons import Person, PersonProjection
from services.kit.security.authorization import caller
from services.kit.transactions.group_commit import ChangeSet, DocumentRef, GroupCommit, Snapshot
from services.kit.transactions.idempotency import IdempotencyKey

HOLDERS = "holders"
ATTEMPTS_MAX = 2 * HOLDS_MAX
"""Looks at a holder for whom others hold at the same moment; after HOLDS_MAX holds the answer is no."""
HELD_MEANWHILE = "HELD_MEANWHILE"
BY_HOLDER = [(field, ASCENDING) for field in ("consumer_id", "state", "expires_at", "staff_brand_id")]
Answer = TypeVar("Answer", bound=Message)
Decide = Callable[[Snapshot], ChangeSet]


class Holder(Struct, frozen=True):
    """Among whose holds one counts: the person's own, under any of their ids (in every brand's stores), or, with `brand_id`, those that
    this brand's staff made for them. So staff neither use up what a consumer may hold nor learn what they hold elsewhere."""

    person: Person
    brand_id: str | None = None

    @property
    def id(self) -> str:
        """One id for each."""
        return f"{self.person.id}:{self.brand_id}" if self.brand_id else self.person.id


class Standing(Struct, frozen=True):
    """What stands for a holder: the version of their row, how many live holds, and when the first ends, if the caller reaches that one."""

    ref: DocumentRef
    version: int
    holds: int
    free_at: datetime | None

    def deciding(self, decide: Decide) -> Decide:
        """`decide` on no other row than this; `Exhausted` TOO_MANY_HOLDS when there are as many as may be."""

        def one_more(state: Snapshot) -> ChangeSet:
            row = state[self.ref]
            if row is None or row["version"] != self.version:
                raise Unavailable(HELD_MEANWHILE)
            rules.check_holds(self.holds, self.free_at)
            outcome = decide(state)
            return replace(outcome, increments={**outcome.increments, self.ref: {}})

        return one_more


class HoldQuota:
    """The holders' rows."""

    def __init__(
        self,
        database: Database,
        group_commit: GroupCommit,
        persons: PersonProjection,
        stores: ScopedCollection[Store],
        holds: ScopedCollection[Hold],
    ) -> None:
        self.group_commit, self.rows, self.persons, self.stores, self.holds = group_commit, database[HOLDERS], persons, stores, holds

    async def who(self, consumer_id: str, store_id: str) -> Holder:
        """The holder of what the caller takes from a store: the person behind that id, if it is the caller's, else for
        them the brand that runs it."""
        person = await self.persons.of(consumer_id)
        # By their own reach: whoever reaches everything is nobody's consumer.
        if consumer_id in caller().reach.get(ScopeKind.CONSUMER, frozenset()):
            return Holder(person)
        store = await self.stores.collection.find_one({"_id": store_id}, {"brand_id": 1})
        if store is None:
            raise NotFound(Reason.STOCK_NOT_FOUND, "there is no such store", store_id=store_id)
        return Holder(person, store["brand_id"])

    async def hold(
        self, key: IdempotencyKey, holder: Holder, at: datetime, counters: Sequence[DocumentRef], decide: Decide, answer_type: type[Answer]
    ) -> Answer:
        """What the group_commit answers to a decision that holds goods for this holder, one call of HOLDS_MAX that stand as of `at`."""
        for _ in range(ATTEMPTS_MAX):
            standing = await self.standing(holder, at)
            try:
                return await self.group_commit.run(key, [*counters, standing.ref], standing.deciding(decide), answer_type)
            except Unavailable as refused:
                if refused.reason != HELD_MEANWHILE:
                    raise
        raise Unavailable("CONTENDED", "others hold for this consumer at the same moment; make the same call again")

    async def standing(self, holder: Holder, at: datetime) -> Standing:
        """The row first: what is held after it was read raises it."""
        row: Document | None = await self.rows.find_one({"_id": holder.id})
        if row is None:
            whose = {"consumer_id": holder.person.id, "brand_id": holder.brand_id}
            await self.rows.update_one({"_id": holder.id}, {"$setOnInsert": {"version": 1, **whose}}, upsert=True)
            row = await self.rows.find_one({"_id": holder.id})
            assert row is not None
        # Of several ids' holds it would else be a guess which index is best, and kept: that of the sweeper goes through everybody's.
        found = self.holds.collection.find(live_of(holder, at)).sort("expires_at", 1).hint(BY_HOLDER)
        live = await found.limit(HOLDS_MAX).to_list(HOLDS_MAX)
        free_at = live[0]["expires_at"] if live and self.holds.owns(live[0]) else None
        return Standing(DocumentRef(HOLDERS, holder.id), row["version"], len(live), free_at)


def live_of(holder: Holder, at: datetime) -> Document:
    """The holds that keep goods back for a holder as of `at`, unpaid orders' among them, and count.

    Those from before holds kept `staff_brand_id` have none and count for the consumer, whoever made them, as they did then; none outlives
    the half hour in which an order is paid.
    """
    return {
        "consumer_id": {"$in": sorted(holder.person.ids)},
        "staff_brand_id": holder.brand_id,
        "state": {"$in": list(LIVE)},
        "expires_at": {"$gt": at},
        "counted": {"$ne": False},
    }
