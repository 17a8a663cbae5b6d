"""Collections of bindings, messages of guides, and frequency caps; `staff_view` is written by StaffChanged events only."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel, ReplaceOne

from quanyu.events.v1 import events_pb2
from quanyu.member.v1 import outreach_pb2
from services.kit.enums import ScopeKind
from services.kit.mongo.client import Document, Session
from services.kit.mongo.codec import to_document, to_struct
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.rpc.change_feed import ChangeFeed, feed_index
from services.kit.runtime.runtime import Runtime
from services.kit.transactions.unit_of_work import UnitOfWork
from services.member.full_documents import find_full
from services.member.identity.repository import ConsumerRepository, People
from services.member.identity.rules import BoundGuide
from services.member.outreach import rules
from services.member.outreach.rules import Binding, Outreach, OutreachCap, Staff

SCOPES: dict[ScopeKind, str | tuple[str, ...]] = {
    ScopeKind.CONSUMER: "consumer_id",
    ScopeKind.BRAND: "brand_id",
    ScopeKind.STORE: "store_id",
    ScopeKind.STAFF: "staff_id",
}
UNREAD_COUNTED_MAX = 1_000
"""Unread messages are counted up to this number."""
CREDITED_MAX = 1_000
"""At most this many recent messages are considered as the cause of one order."""


class BindingRepository:
    """The bindings of consumers to guides."""

    def __init__(self, runtime: Runtime, consumers: ConsumerRepository) -> None:
        self.consumers = consumers
        self.staff = ScopedCollection(
            runtime.database, "staff_view", noun="STAFF", struct=Staff, scopes={ScopeKind.STAFF: "_id", ScopeKind.BRAND: "brand_id"}
        )
        self.bindings = ScopedCollection(
            runtime.database,
            "bindings",
            noun="BINDING",
            struct=Binding,
            message=outreach_pb2.Binding,
            scopes=SCOPES,
            indexes=[
                IndexModel([("consumer_id", ASCENDING), ("brand_id", ASCENDING)], unique=True, partialFilterExpression={"active": True}),
                IndexModel([("staff_id", ASCENDING), ("active", ASCENDING), ("bound_at", DESCENDING), ("_id", ASCENDING)]),
            ],
            shard_key="consumer_id",
        )

    async def apply_staff_changed(self, uow: UnitOfWork, event: events_pb2.Event) -> None:
        """Saves the state of a StaffChanged event. Bindings stay as they were made until a handover."""
        staff = event.staff_changed
        document = to_document(Staff(staff.staff_id, staff.brand_id, staff.store_id, staff.active))
        await self.staff.collection.replace_one({"_id": staff.staff_id}, document, upsert=True, session=uow.session)

    async def find_staff(self, ids: Iterable[str], session: Session = None) -> dict[str, Staff]:
        """Returns the known members of staff among these ids, by id."""
        cursor = self.staff.collection.find({"_id": {"$in": sorted(set(ids))}}, session=session)
        return {document["_id"]: to_struct(document, Staff) async for document in cursor}

    async def find_active(self, consumer_ids: Iterable[str], brand_id: str, session: Session = None) -> list[Binding]:
        """Returns the active bindings of these consumers to a brand, regardless of the caller's scope."""
        query = {"consumer_id": {"$in": sorted(set(consumer_ids))}, "brand_id": brand_id, "active": True}
        return [to_struct(document, Binding) async for document in self.bindings.collection.find(query, session=session)]

    async def find_active_in_scope(self, consumer_ids: Iterable[str], brand_id: str) -> list[Binding]:
        """Returns the active bindings of these consumers within the caller's scope; an empty `brand_id` means all brands."""
        query: Document = {"consumer_id": {"$in": sorted(set(consumer_ids))}, "active": True}
        if brand_id:
            query["brand_id"] = brand_id
        return [to_struct(document, Binding) async for document in self.bindings.collection.find(self.bindings.restrict(query))]

    async def save(self, uow: UnitOfWork, brand_id: str, new: Sequence[Binding], ended: Sequence[Binding]) -> None:
        """Saves ended and new bindings, and the consumers' guides that follow from them."""
        operations = [ReplaceOne({"_id": binding.id}, to_document(binding), upsert=True) for binding in (*ended, *new)]
        if not operations:
            return
        # In order: the earlier binding of a consumer ends before the next one begins.
        await self.bindings.collection.bulk_write(operations, session=uow.session)
        guides: dict[str, Sequence[BoundGuide]] = {binding.consumer_id: [] for binding in ended}
        guides |= {binding.consumer_id: [BoundGuide(brand_id, binding.staff_id, binding.store_id)] for binding in new}
        await self.consumers.save_guides(uow, guides, brand_id)


class OutreachRepository:
    """The messages of guides and their outcomes."""

    def __init__(self, runtime: Runtime, consumers: ConsumerRepository) -> None:
        self.consumers = consumers
        self.outreaches = ScopedCollection(
            runtime.database,
            "outreaches",
            noun="OUTREACH",
            struct=Outreach,
            message=outreach_pb2.Outreach,
            scopes=SCOPES,
            indexes=[
                IndexModel([(field, ASCENDING), ("sent_at", DESCENDING), ("_id", ASCENDING)])
                for field in ("consumer_id", "staff_id", "store_id", "brand_id")
            ]
            + [IndexModel([("consumer_id", ASCENDING), ("unread", ASCENDING)]), feed_index("consumer_id", inserts_only=True)],
            shard_key="consumer_id",
        )
        # Each reader of an inbox may read all of it; the consumer ids that belong to it change with a link.
        self.inbox = ChangeFeed(
            runtime.change_streams,
            self.outreaches.unscoped,
            keys=("consumer_id",),
            inserted_prefix="out",
            ids_of=consumers.list_consumer_ids,
            until=consumers.link_changes,
        )
        self.caps = ScopedCollection(runtime.database, "outreach_caps", noun="OUTREACH_CAP", struct=OutreachCap, scopes={})

    async def find_caps(self, people: People, consumer_id: str, brand_id: str, session: Session) -> list[OutreachCap]:
        """Returns the recent messages of a brand to a person, under each consumer id of the person."""
        ids = [_build_cap_id(id, brand_id) for id in people.list_consumer_ids(consumer_id)]
        cursor = self.caps.collection.find({"_id": {"$in": ids}}, session=session)
        return [to_struct(document, OutreachCap) async for document in cursor]

    async def send(self, uow: UnitOfWork, people: People, outreach: Outreach, earlier: Sequence[OutreachCap]) -> None:
        """Saves a message and counts it; concurrent senders to a person conflict in one document, so that the cap is exact."""
        id = _build_cap_id(people.find_person(outreach.consumer_id), outreach.brand_id)
        own = next((cap for cap in earlier if cap.id == id), OutreachCap(id))
        document = to_document(OutreachCap(id, [*rules.select_recent(own.times, uow.at), outreach.sent_at], own.version + 1))
        await self.caps.collection.replace_one({"_id": id}, document, upsert=True, session=uow.session)
        await self.outreaches.unscoped.insert(uow, outreach)

    async def record_order(self, uow: UnitOfWork, fields: Mapping[str, object], consumer_ids: Sequence[str]) -> None:
        """Records a paid order, given as the fields of an OrderSummary, as the outcome of the messages before it."""
        order = to_struct(dict(fields), rules.PaidOrder)
        query: Document = {
            "consumer_id": {"$in": sorted(consumer_ids)},
            "sent_at": {"$gte": order.paid_at - rules.CREDIT_WINDOW, "$lte": order.paid_at},
        }
        cursor = self.outreaches.collection.find(query, session=uow.session).limit(CREDITED_MAX)
        recent = [to_struct(document, Outreach) async for document in cursor]
        brands = {line.brand_id for line in order.lines} | {order.seller_id}
        await self.save_outcomes(uow, rules.credit_order(recent, brands, order.order_id, order.paid_at))

    async def find_received(self, uow: UnitOfWork, ids: Sequence[str], consumer_ids: Sequence[str]) -> list[Outreach]:
        """Returns those of these messages that were sent to the person with these consumer ids."""
        query = {"_id": {"$in": list(ids)}, "consumer_id": {"$in": list(consumer_ids)}}
        return [to_struct(document, Outreach) async for document in self.outreaches.collection.find(query, session=uow.session)]

    async def save_outcomes(self, uow: UnitOfWork, changed: Sequence[Outreach]) -> None:
        """Saves messages with a changed outcome."""
        operations = [ReplaceOne({"_id": outreach.id}, to_document(outreach)) for outreach in changed]
        if operations:
            await self.outreaches.collection.bulk_write(operations, ordered=False, session=uow.session)

    async def follow(self, context: Any, after: str, consumer_id: str) -> AsyncGenerator[tuple[Outreach, str, int], None]:
        """Yields each new message to a consumer's person, with its cursor and the number of unread messages."""
        async with aclosing(self.inbox.follow(context, after, "consumer_id", consumer_id)) as feed:
            async for batch in feed:
                unread = await self.count_unread(await self.consumers.list_consumer_ids(consumer_id))
                cursors = {change.document["id"]: change.cursor for change in batch}
                for outreach in await find_full(self.outreaches, [change.document for change in batch]):
                    yield outreach, cursors[outreach.id], unread

    async def count_unread(self, consumer_ids: Sequence[str]) -> int:
        """Returns the number of unread messages of these consumers, counted up to UNREAD_COUNTED_MAX."""
        query = {"consumer_id": {"$in": sorted(consumer_ids)}, "unread": True}
        count: int = await self.outreaches.collection.count_documents(query, limit=UNREAD_COUNTED_MAX)
        return count

    async def count_unread_by_key(self, queries: Mapping[str, Document]) -> dict[str, int]:
        """Returns the number of unread messages that each query (at least one) finds, by its key; zeros are left out."""
        branches: list[list[Document]] = [
            [
                {"$match": query | {"unread": True}},
                {"$limit": UNREAD_COUNTED_MAX},
                {"$group": {"_id": {"$literal": key}, "count": {"$sum": 1}}},
            ]
            for key, query in queries.items()
        ]
        counts = await self.outreaches.database.aggregate_union(self.outreaches.name, branches)
        return {document["_id"]: document["count"] async for document in counts}


def _build_cap_id(consumer_id: str, brand_id: str) -> str:
    return f"{consumer_id}:{brand_id}"
