"""The hold quota: an exact limit on the live holds of one holder, without a counter.

A holder is a person, or a brand whose staff hold goods for a person. Each new hold raises the version of its holder's document in its
own transaction. A request reads that version, then counts the live holds. The group commit accepts its decision only on the same
version; otherwise a concurrent hold was made, and the request counts again. The end of a hold changes no document here.
Linked consumer ids are one person as soon as the event of the link is applied. The existing holds under each id then count together,
even above the limit, and so do holds that are committed at that moment.
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
from services.kit.security.caller import current_caller
from services.kit.transactions.group_commit import ChangeSet, DocumentRef, GroupCommit, Snapshot
from services.kit.transactions.idempotency import IdempotencyKey

HOLDERS = "holders"
ATTEMPTS_MAX = 2 * HOLDS_MAX
"""A request counts at most this often while concurrent requests hold goods for the same holder. After HOLDS_MAX holds it is refused."""
HELD_MEANWHILE = "HELD_MEANWHILE"
"""The reason for counting again. It never leaves this module."""
BY_HOLDER = [(field, ASCENDING) for field in ("consumer_id", "state", "expires_at", "staff_brand_id")]
"""The index on holds that the count uses."""
Answer = TypeVar("Answer", bound=Message)
Decide = Callable[[Snapshot], ChangeSet]


class Holder(Struct, frozen=True):
    """The holder whose quota a hold counts against.

    Without `brand_id` it is the person, under any of their ids and in every brand's stores. With it, it is that brand, for the holds that
    its staff make for the person. So staff neither use up a consumer's own quota nor learn about their holds elsewhere.
    """

    person: Person
    brand_id: str | None = None

    @property
    def id(self) -> str:
        """The id of the holder's document."""
        return f"{self.person.id}:{self.brand_id}" if self.brand_id else self.person.id


class QuotaUsage(Struct, frozen=True):
    """A holder's use of the quota: the version of their document, the number of live holds, and the earliest end of one.

    `free_at` is None if the hold that ends first is outside the caller's scope.
    """

    ref: DocumentRef
    version: int
    holds: int
    free_at: datetime | None


class WithinQuota(Struct, frozen=True):
    """Runs `decide` if the holder's document is still that of `usage`; `Exhausted` TOO_MANY_HOLDS if the quota is used up."""

    usage: QuotaUsage
    decide: Decide

    def __call__(self, snapshot: Snapshot) -> ChangeSet:
        document = snapshot[self.usage.ref]
        if document is None or document["version"] != self.usage.version:
            raise Unavailable(HELD_MEANWHILE)
        rules.check_holds(self.usage.holds, self.usage.free_at)
        changes = self.decide(snapshot)
        return replace(changes, increments={**changes.increments, self.usage.ref: {}})


class HoldQuota:
    """Enforces the quota when goods are held."""

    def __init__(
        self,
        database: Database,
        group_commit: GroupCommit,
        persons: PersonProjection,
        stores: ScopedCollection[Store],
        holds: ScopedCollection[Hold],
    ) -> None:
        self.group_commit, self.persons, self.stores, self.holds = group_commit, persons, stores, holds
        self.collection = database[HOLDERS]

    async def find_holder(self, consumer_id: str, store_id: str) -> Holder:
        """Returns the holder for goods that the caller takes from a store: the consumer themself, or the store's brand for its staff.

        `NotFound` if the store does not exist.
        """
        person = await self.persons.find(consumer_id)
        # The caller's own ids only: an operator reaches every consumer and is none of them.
        if consumer_id in current_caller().reach.get(ScopeKind.CONSUMER, frozenset()):
            return Holder(person)
        store = await self.stores.collection.find_one({"_id": store_id}, {"brand_id": 1})
        if store is None:
            raise NotFound(Reason.STOCK_NOT_FOUND, "No such store. Check `storeId`.", store_id=store_id)
        return Holder(person, store["brand_id"])

    async def commit_hold(
        self, key: IdempotencyKey, holder: Holder, at: datetime, counters: Sequence[DocumentRef], decide: Decide, answer_type: type[Answer]
    ) -> Answer:
        """Commits a decision that holds goods and returns its answer. It counts as one of the holder's HOLDS_MAX as of `at`.

        `Exhausted` if the quota is used up, `Unavailable` if concurrent requests keep holding goods for the same holder.
        """
        for _ in range(ATTEMPTS_MAX):
            usage = await self.find_usage(holder, at)
            try:
                return await self.group_commit.run(key, [*counters, usage.ref], WithinQuota(usage, decide), answer_type)
            except Unavailable as refusal:
                if refusal.reason != HELD_MEANWHILE:
                    raise
        raise Unavailable("CONTENDED", "Concurrent requests hold goods for this consumer. Retry with the same `idempotencyKey`.")

    async def find_usage(self, holder: Holder, at: datetime) -> QuotaUsage:
        """Returns the holder's use of the quota as of `at`."""
        # The document is read before the holds: a hold that is made after this read raises its version.
        document: Document | None = await self.collection.find_one({"_id": holder.id})
        if document is None:
            fields = {"consumer_id": holder.person.id, "brand_id": holder.brand_id}
            await self.collection.update_one({"_id": holder.id}, {"$setOnInsert": {"version": 1, **fields}}, upsert=True)
            document = await self.collection.find_one({"_id": holder.id})
            assert document is not None
        # Without the hint, MongoDB may choose and cache the sweeper's index for several ids, and read the holds of all consumers.
        found = self.holds.collection.find(live_holds_filter(holder, at)).sort("expires_at", 1).hint(BY_HOLDER)
        live = await found.limit(HOLDS_MAX).to_list(HOLDS_MAX)
        free_at = live[0]["expires_at"] if live and self.holds.is_in_scope(live[0]) else None
        return QuotaUsage(DocumentRef(HOLDERS, holder.id), document["version"], len(live), free_at)


def live_holds_filter(holder: Holder, at: datetime) -> Document:
    """Returns the filter of the holds that count against a holder's quota as of `at`, including those of unpaid orders.

    Holds stored before `staff_brand_id` existed lack it and count for the consumer until they end, after 30 minutes at most.
    """
    return {
        "consumer_id": {"$in": sorted(holder.person.ids)},
        "staff_brand_id": holder.brand_id,
        "state": {"$in": list(LIVE)},
        "expires_at": {"$gt": at},
        "counted": {"$ne": False},
    }
