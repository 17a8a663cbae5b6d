"""Bindings, the messages guides sent, and what the cap counts. `staff_view` is fed by StaffChanged and never written otherwise."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel, ReplaceOne

from quanyu.events.v1 import events_pb2
from quanyu.member.v1 import outreach_pb2
from services.kit.enums import ScopeKind
from services.kit.mongo.client import Document, Session
from services.kit.mongo.codec import as_document, as_struct
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.rpc.change_feed import ChangeFeed, feed_index
from services.kit.runtime.runtime import Runtime
from services.kit.transactions.unit_of_work import UnitOfWork
from services.member.full_documents import whole
from services.member.identity.repository import ConsumerRepository, People
from services.member.identity.rules import Served
from services.member.outreach import rules
from services.member.outreach.rules import Binding, Outreach, Sent, Staff

SCOPES: dict[ScopeKind, str | tuple[str, ...]] = {
    ScopeKind.CONSUMER: "consumer_id",
    ScopeKind.BRAND: "brand_id",
    ScopeKind.STORE: "store_id",
    ScopeKind.STAFF: "staff_id",
}
UNREAD_COUNTED_MAX = 1_000
FOLLOWED_MAX = 1_000


class BindingRepository:
    """Who looks after whom."""

    def __init__(self, runtime: Runtime, consumers: ConsumerRepository) -> None:
        self.consumers = consumers
        self.staff = ScopedCollection(
            runtime.database, "staff_view", noun="STAFF", struct=Staff, scopes={ScopeKind.STAFF: "_id", ScopeKind.BRAND: "brand_id"}
        )
        self.table = ScopedCollection(
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

    async def staff_changed(self, uow: UnitOfWork, event: events_pb2.Event) -> None:
        """Keeps what a StaffChanged says. Bindings stay with whom they were made until somebody hands them over."""
        told = event.staff_changed
        row = as_document(Staff(told.staff_id, told.brand_id, told.store_id, told.active))
        await self.staff.collection.replace_one({"_id": told.staff_id}, row, upsert=True, session=uow.session)

    async def staff_of(self, ids: Iterable[str], session: Session = None) -> dict[str, Staff]:
        """These members of staff, as far as they are known."""
        rows = self.staff.collection.find({"_id": {"$in": sorted(set(ids))}}, session=session)
        return {row["_id"]: as_struct(row, Staff) async for row in rows}

    async def active(self, consumer_ids: Iterable[str], brand_id: str, session: Session = None) -> list[Binding]:
        """The active bindings of these consumers for a brand, whatever the caller reaches."""
        query = {"consumer_id": {"$in": sorted(set(consumer_ids))}, "brand_id": brand_id, "active": True}
        return [as_struct(row, Binding) async for row in self.table.collection.find(query, session=session)]

    async def in_scope(self, consumer_ids: Iterable[str], brand_id: str) -> list[Binding]:
        """The active bindings of these consumers that the caller may read; `brand_id` may be empty."""
        query: Document = {"consumer_id": {"$in": sorted(set(consumer_ids))}, "active": True}
        if brand_id:
            query["brand_id"] = brand_id
        return [as_struct(row, Binding) async for row in self.table.collection.find(self.table.within(query))]

    async def write(self, uow: UnitOfWork, brand_id: str, new: Sequence[Binding], ended: Sequence[Binding]) -> None:
        """Ends and makes bindings, and shows the consumers to whoever looks after them now."""
        rows = [ReplaceOne({"_id": row.id}, as_document(row), upsert=True) for row in (*ended, *new)]
        if not rows:
            return
        # In order: the earlier binding of a consumer ends before the next one begins.
        await self.table.collection.bulk_write(rows, session=uow.session)
        served: dict[str, Sequence[Served]] = {row.consumer_id: [] for row in ended}
        served |= {row.consumer_id: [Served(brand_id, row.staff_id, row.store_id)] for row in new}
        await self.consumers.serve(uow, served, brand_id)


class OutreachRepository:
    """What guides wrote, and what came of it."""

    def __init__(self, runtime: Runtime, consumers: ConsumerRepository) -> None:
        self.consumers = consumers
        self.table = ScopedCollection(
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
            + [IndexModel([("consumer_id", ASCENDING), ("unread", ASCENDING)]), feed_index("consumer_id", births=True)],
            shard_key="consumer_id",
        )
        # Whoever may read somebody's inbox reads all of it; who that is changes with a link.
        self.inbox = ChangeFeed(
            runtime.change_streams, self.table.unscoped, keys=("consumer_id",), born_as="out", ids_of=consumers.ids_of, until=consumers.relinked
        )  # fmt: skip
        self.sent = ScopedCollection(runtime.database, "outreach_caps", noun="OUTREACH_CAP", struct=Sent, scopes={})

    async def sent_to(self, people: People, consumer_id: str, brand_id: str, session: Session) -> list[Sent]:
        """When the brand wrote to the person lately, under each of the ids."""
        ids = [_cap_id(id, brand_id) for id in people.ids_of(consumer_id)]
        rows = self.sent.collection.find({"_id": {"$in": ids}}, session=session)
        return [as_struct(row, Sent) async for row in rows]

    async def send(self, uow: UnitOfWork, people: People, outreach: Outreach, earlier: Sequence[Sent]) -> None:
        """Puts a message into the inbox and counts it: senders to one person meet in one row, so that the cap is exact."""
        id = _cap_id(people.person_of(outreach.consumer_id), outreach.brand_id)
        own = next((row for row in earlier if row.id == id), Sent(id))
        row = as_document(Sent(id, [*rules.within_cap(own.times, uow.at), outreach.sent_at], own.version + 1))
        await self.sent.collection.replace_one({"_id": id}, row, upsert=True, session=uow.session)
        await self.table.unscoped.insert(uow, outreach)

    async def ordered(self, uow: UnitOfWork, order: Mapping[str, object], consumer_ids: Sequence[str]) -> None:
        """Notes a paid order (an OrderSummary's fields) as the outcome of the messages it followed."""
        told = as_struct(dict(order), rules.Ordered)
        query: Document = {
            "consumer_id": {"$in": sorted(consumer_ids)},
            "sent_at": {"$gte": told.paid_at - rules.ORDERED_WITHIN, "$lte": told.paid_at},
        }
        rows = self.table.collection.find(query, session=uow.session).limit(FOLLOWED_MAX)
        found = [as_struct(row, Outreach) async for row in rows]
        brands = {line.brand_id for line in told.lines} | {told.seller_id}
        await self.replace(uow, rules.followed(found, brands, told.order_id, told.paid_at))

    async def sent_to_one(self, uow: UnitOfWork, ids: Sequence[str], consumer_ids: Sequence[str]) -> list[Outreach]:
        """Those of these messages that went to one person."""
        query = {"_id": {"$in": list(ids)}, "consumer_id": {"$in": list(consumer_ids)}}
        return [as_struct(row, Outreach) async for row in self.table.collection.find(query, session=uow.session)]

    async def replace(self, uow: UnitOfWork, changed: Sequence[Outreach]) -> None:
        """Writes messages whose outcome moved on."""
        rows = [ReplaceOne({"_id": row.id}, as_document(row)) for row in changed]
        if rows:
            await self.table.collection.bulk_write(rows, ordered=False, session=uow.session)

    async def follow(self, context: Any, after: str, consumer_id: str) -> AsyncGenerator[tuple[Outreach, str, int], None]:
        """Each message the person behind a consumer gets, with the cursor to go on from and how many are unread then."""
        async with aclosing(self.inbox.follow(context, after, "consumer_id", consumer_id)) as feed:
            async for several in feed:
                unread = await self.unread(await self.consumers.ids_of(consumer_id))
                cursors = {told.row["id"]: told.cursor for told in several}
                for outreach in await whole(self.table, [told.row for told in several]):
                    yield outreach, cursors[outreach.id], unread

    async def unread(self, consumer_ids: Sequence[str]) -> int:
        """How many messages these consumers have not read, counted up to UNREAD_COUNTED_MAX."""
        query = {"consumer_id": {"$in": sorted(consumer_ids)}, "unread": True}
        count: int = await self.table.collection.count_documents(query, limit=UNREAD_COUNTED_MAX)
        return count

    async def unread_each(self, queries: Mapping[str, Document]) -> dict[str, int]:
        """The same of the messages that each of several queries (at least one) finds, by its key; none without any."""
        branches: list[list[Document]] = [
            [
                {"$match": query | {"unread": True}},
                {"$limit": UNREAD_COUNTED_MAX},
                {"$group": {"_id": {"$literal": key}, "count": {"$sum": 1}}},
            ]
            for key, query in queries.items()
        ]
        return {row["_id"]: row["count"] async for row in await self.table.database.aggregate_each(self.table.name, branches)}


def _cap_id(consumer_id: str, brand_id: str) -> str:
    return f"{consumer_id}:{brand_id}"
