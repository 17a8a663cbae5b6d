"""The collections of stores, stock and holds. Stock changes by group commit: many requests change one document at once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from msgspec import Struct
from pymongo import ASCENDING, DESCENDING, GEOSPHERE, IndexModel, UpdateOne

from quanyu.commerce.v1 import stock_pb2
from quanyu.common.v1.page_pb2 import PageRequest
from services.commerce.catalog.rules import Variant
from services.commerce.stock import rules
from services.commerce.stock.enums import HoldState, Reason
from services.commerce.stock.hold_quota import BY_HOLDER, HoldQuota
from services.commerce.stock.rules import LIVE, Hold, Promise, Stock, Store, stock_id
from services.kit import clock, ids
from services.kit.enums import ScopeKind
from services.kit.errors import Conflict, NotFound, Refusal
from services.kit.mongo.client import Database, Document, MessageDocument, Session
from services.kit.mongo.codec import to_document, to_struct
from services.kit.mongo.scoped_collection import Page, ScopedCollection
from services.kit.projections.persons import PersonProjection
from services.kit.transactions.group_commit import ChangeSet, DocumentRef, GroupCommit, Snapshot
from services.kit.transactions.idempotency import IdempotencyKey
from services.kit.transactions.unit_of_work import UnitOfWork

STORES = "store_view"
STOCK = "stock"
HOLDS = "holds"
LATEST_FIRST = [("held_at", -1)]
SWEPT_MAX = 500
"""One sweep expires at most this many holds."""
Answer = TypeVar("Answer", bound=Message)


class HoldChange(NamedTuple):
    """A changed hold, and what the change adds to its stock."""

    hold: Hold
    reserved: int = 0
    on_hand: int = 0


class StockRepository:
    """Reads and writes stores, their stock and the holds on it."""

    def __init__(self, database: Database, group_commit: GroupCommit, persons: PersonProjection) -> None:
        self.database, self.group_commit, self.persons = database, group_commit, persons
        # A projection of StoreChanged. A caller that reaches a store's document here may write its stock.
        self.stores = ScopedCollection(
            database, STORES, noun="STORE", struct=Store, scopes={ScopeKind.STORE: "_id", ScopeKind.BRAND: "brand_id"},
            indexes=[IndexModel([("active", ASCENDING), ("position", GEOSPHERE)])],
        )  # fmt: skip
        self.stocks = ScopedCollection(
            database, STOCK, noun="STOCK", struct=Stock, message=stock_pb2.Stock,
            scopes={ScopeKind.STORE: "store_id", ScopeKind.BRAND: "seller_id"},
            indexes=[
                IndexModel([("store_id", ASCENDING), ("variant_id", ASCENDING)]),
                IndexModel([("store_id", ASCENDING), ("_id", ASCENDING)]),
                IndexModel([("variant_id", ASCENDING), ("_id", ASCENDING)]),
            ],
            shard_key="variant_id",
        )  # fmt: skip
        self.holds = ScopedCollection(
            database, HOLDS, noun="HOLD", struct=Hold, message=stock_pb2.Hold,
            scopes={ScopeKind.CONSUMER: "consumer_id", ScopeKind.STORE: "store_id", ScopeKind.BRAND: "seller_id"},
            indexes=[
                IndexModel([("state", ASCENDING), ("sweep_at", ASCENDING)]),
                IndexModel([("stock_id", ASCENDING), ("state", ASCENDING), ("expires_at", ASCENDING)]),
                IndexModel([("consumer_id", ASCENDING), ("held_at", DESCENDING), ("_id", ASCENDING)]),
                IndexModel([("store_id", ASCENDING), ("held_at", DESCENDING), ("_id", ASCENDING)]),
                IndexModel(BY_HOLDER),
            ],
        )  # fmt: skip
        self.hold_quota = HoldQuota(database, group_commit, persons, self.stores, self.holds)

    @property
    def collections(self) -> tuple[ScopedCollection[Any], ...]:
        """The collections to prepare before the service starts."""
        return self.stores, self.stocks, self.holds

    # levels ----------------------------------------------------------------------------------------------------------

    async def set_level(self, key: IdempotencyKey, store: Store, variant: Variant, on_hand: int, safety: int) -> stock_pb2.SetStockResponse:
        """Sets the counted level of a store's stock of a variant, inserts it if it is missing, and returns it."""
        ref = DocumentRef(STOCK, stock_id(store.id, variant.id))
        command = SetLevel(ref, to_document(new_stock(store, variant, on_hand, safety)), self.stocks)
        return await self.group_commit.run(key, [ref], command, stock_pb2.SetStockResponse)

    async def adjust(self, key: IdempotencyKey, store_id: str, variant_id: str, change: int) -> stock_pb2.AdjustStockResponse:
        """Adds `change`, which may be negative, to the pieces on hand and returns the stock."""
        ref = DocumentRef(STOCK, stock_id(store_id, variant_id))
        return await self.group_commit.run(key, [ref], AdjustLevel(ref, change, self.stocks), stock_pb2.AdjustStockResponse)

    async def import_levels(self, uow: UnitOfWork, rows: Mapping[int, Stock]) -> dict[int, Refusal]:
        """Sets the levels of many stocks and keeps their holds. Returns the refusals of the rejected rows, by index."""
        query = {"_id": {"$in": [row.id for row in rows.values()]}}
        found = self.stocks.collection.find(query, {"reserved": 1}, session=uow.session)
        reserved = {document["_id"]: document["reserved"] for document in await found.to_list(None)}
        refused: dict[int, Refusal] = {}
        writes = []
        for index, row in rows.items():
            try:
                rules.check_level(row.on_hand, reserved.get(row.id, 0))
            except Refusal as refusal:
                refused[index] = refusal
                continue
            document = to_document(row)
            del document["_id"], document["version"], document["reserved"]
            writes.append(
                UpdateOne({"_id": row.id}, {"$set": document, "$setOnInsert": {"reserved": 0}, "$inc": {"version": 1}}, upsert=True)
            )
        if writes:
            await self.stocks.collection.bulk_write(writes, ordered=False, session=uow.session)
        return refused

    # holds -----------------------------------------------------------------------------------------------------------

    async def hold(
        self,
        key: IdempotencyKey,
        at: datetime,
        *,
        store_id: str,
        variant_id: str,
        quantity: int,
        consumer_id: str,
        answer: Callable[[MessageDocument], Answer],
        answer_type: type[Answer],
        needed_by: datetime | None = None,
        promise: Callable[[Stock], Promise] | None = None,
    ) -> Answer:
        """Holds goods and returns the answer. `promise` makes the hold's promise from the current stock.

        `Exhausted` if too few pieces are available or the holder's quota is used up. Exact under concurrency.
        """
        ref = DocumentRef(STOCK, stock_id(store_id, variant_id))
        id, until = ids.new("hld"), (await self.find_held_until([ref.id])).get(ref.id)
        holder = await self.hold_quota.find_holder(consumer_id, store_id)

        command = HoldGoods(
            ref, hold_id=id, consumer_id=consumer_id, staff_brand_id=holder.brand_id, quantity=quantity, at=at, needed_by=needed_by,
            held_until=until, promise=promise, answer=answer, holds=self.holds,
        )  # fmt: skip
        return await self.hold_quota.commit_hold(key, holder, at, [ref], command, answer_type)

    async def list_holds(self, criteria: Mapping[str, str], page: PageRequest) -> Page:
        """Returns a page of the holds that meet all criteria (consumer_id, store_id), latest first."""
        (query,) = await self.persons.build_filters([criteria])
        return await self.holds.page(query, page, order=LATEST_FIRST)

    async def list_first_holds(self, name: str, ids: Sequence[str], first: int) -> dict[str, Page]:
        """Returns the first page of `list_holds` for each id. `name` is the criterion: consumer_id or store_id."""
        queries = await self.persons.build_filters([{name: id} for id in ids])
        return await self.holds.first_pages(dict(zip(ids, queries, strict=True)), first, order=LATEST_FIRST)

    async def find_held_until(self, stock_ids: Sequence[str]) -> dict[str, datetime]:
        """Returns the earliest end of the live holds on each of these stocks, by stock id."""
        pipeline: list[Document] = [
            {"$match": {"stock_id": {"$in": list(stock_ids)}, "state": {"$in": list(LIVE)}}},
            {"$group": {"_id": "$stock_id", "until": {"$min": "$expires_at"}}},
        ]
        cursor = await self.database.aggregate(HOLDS, pipeline)
        return {document["_id"]: document["until"] async for document in cursor}

    async def release(self, key: IdempotencyKey | None, hold: Hold) -> stock_pb2.ReleaseHoldResponse:
        """Releases a hold and returns it. `Conflict` STATE_CHANGED if it changed since it was read."""
        after, freed = rules.release(hold)
        answer = stock_pb2.ReleaseHoldResponse(hold=self.holds.project(to_document(after)))
        changes = [HoldChange(after, reserved=-freed)] if after is not hold else []
        return await self.apply_hold_changes(key, changes, answer)

    async def apply_hold_changes(
        self,
        key: IdempotencyKey | None,
        changes: Sequence[HoldChange],
        answer: Answer,
        *,
        updates: Sequence[tuple[str, Document, Document]] = (),
        events: Sequence[Any] = (),
    ) -> Answer:
        """Commits changed holds with their stock, `updates` of other collections and `events`, and returns the answer.

        `Conflict` STATE_CHANGED if one of the documents changed since it was read.
        """
        sums: dict[DocumentRef, dict[str, int]] = {}
        for change in changes:
            increments = sums.setdefault(DocumentRef(STOCK, change.hold.stock_id), {"reserved": 0, "on_hand": 0})
            increments["reserved"] += change.reserved
            increments["on_hand"] += change.on_hand
        all_updates = [*((HOLDS, *self.holds.build_update(change.hold)) for change in changes), *updates]
        change_set = ChangeSet(increments=sums, updates=all_updates, events=events, answer=answer)
        return await self.group_commit.run(key, list(sums), FixedChanges(change_set), type(answer))

    async def sweep(self) -> int:
        """Expires the holds that are overdue by the machine's clock and returns how many. Concurrent sweepers expire each hold once."""
        real_at = clock.system_now()
        query = {"state": HoldState.HELD, "sweep_at": {"$lte": real_at}}
        documents = await self.holds.collection.find(query).sort("sweep_at", 1).limit(SWEPT_MAX).to_list(SWEPT_MAX)
        swept = 0
        for hold in (to_struct(document, Hold) for document in documents):
            after, freed = rules.expire(hold, real_at)
            try:
                await self.apply_hold_changes(None, [HoldChange(after, reserved=-freed)], Empty())
            except Conflict:
                continue  # the hold was released, ordered or expired since it was read
            swept += 1
        return swept

    # other use cases -------------------------------------------------------------------------------------------------

    async def save_store(self, session: Session, store: Store) -> None:
        """Saves a store, and gives its stock to the brand that owns it."""
        document = to_document(store)
        id = document.pop("_id")
        await self.stores.collection.replace_one({"_id": id}, document, upsert=True, session=session)
        other_seller = {"store_id": id, "seller_id": {"$ne": store.brand_id}}
        change = {"$set": {"seller_id": store.brand_id}, "$inc": {"version": 1}}
        await self.stocks.collection.update_many(other_seller, change, session=session)

    async def find_stores(self, ids: Iterable[str], *, scoped: bool = False, session: Session = None) -> dict[str, Store]:
        """Returns the existing ones of these stores, by id. With `scoped`, only those in the caller's scope."""
        query: Document = {"_id": {"$in": list(set(ids))}}
        found = self.stores.collection.find(self.stores.restrict(query) if scoped else query, session=session)
        return {document["_id"]: to_struct(document, Store) for document in await found.to_list(None)}

    async def find_miscounted(self) -> list[str]:
        """Returns the ids of the stocks whose `reserved` differs from the sum of their live holds: none, unless there is a defect.

        It reads the whole collection.
        """
        pipeline: list[Document] = [
            {"$lookup": {
                "from": HOLDS, "localField": "_id", "foreignField": "stock_id", "as": "live",
                "pipeline": [{"$match": {"state": {"$in": list(LIVE)}}}, {"$project": {"quantity": 1}}],
            }},
            {"$match": {"$expr": {"$ne": ["$reserved", {"$sum": "$live.quantity"}]}}},
            {"$project": {"_id": 1}},
        ]  # fmt: skip
        return [document["_id"] async for document in await self.database.aggregate(STOCK, pipeline)]

    def shown(self, document: Document) -> MessageDocument:
        """Returns a stored stock, shaped like its message."""
        return with_available(self.stocks.project(document))


def with_available(stock: MessageDocument) -> MessageDocument:
    """Returns a stock, shaped like its message, with the number of available pieces added."""
    return stock | {"available": stock["on_hand"] - stock["reserved"] - stock["safety"]}


def new_stock(store: Store, variant: Variant, on_hand: int, safety: int) -> Stock:
    """Returns the stock of a store that counted a variant for the first time: nothing is reserved."""
    return Stock(
        id=stock_id(store.id, variant.id),
        store_id=store.id,
        variant_id=variant.id,
        brand_id=variant.brand_id,
        seller_id=store.brand_id,
        on_hand=on_hand,
        safety=safety,
    )


def stock_not_found(store_id: str, variant_id: str) -> NotFound:
    """Returns the refusal for a store without stock of a variant."""
    message = "This store has no stock of this variant. Check `storeId` and `variantId`."
    return NotFound(Reason.STOCK_NOT_FOUND, message, store_id=store_id, variant_id=variant_id)


def row_in(state: Snapshot, ref: DocumentRef) -> Stock:
    """Returns the stock in a snapshot of the group commit. `NotFound` if it does not exist."""
    document = state[ref]
    if document is None:
        store_id, _, variant_id = ref.id.partition(":")
        raise stock_not_found(store_id, variant_id)
    return to_struct(document, Stock)


class SetLevel(Struct, frozen=True):
    """Sets the level of a stock document to that of `document`, or inserts `document`, which has no reservations."""

    ref: DocumentRef
    document: Document
    stocks: ScopedCollection[Stock]

    def __call__(self, snapshot: Snapshot) -> ChangeSet:
        after, increments = self.document, {}
        if snapshot[self.ref] is not None:
            stock = row_in(snapshot, self.ref)
            rules.check_level(after["on_hand"], stock.reserved)
            increments = {self.ref: {"on_hand": after["on_hand"] - stock.on_hand, "safety": after["safety"] - stock.safety}}
            after = after | {"reserved": stock.reserved}
        answer = stock_pb2.SetStockResponse(stock=with_available(self.stocks.project(after)))
        return ChangeSet(increments=increments, inserts=[] if increments else [(STOCK, after)], answer=answer)


class AdjustLevel(Struct, frozen=True):
    """Adds `change` to the goods on hand."""

    ref: DocumentRef
    change: int
    stocks: ScopedCollection[Stock]

    def __call__(self, snapshot: Snapshot) -> ChangeSet:
        stock = row_in(snapshot, self.ref)
        rules.check_level(stock.on_hand + self.change, stock.reserved)
        after = (snapshot[self.ref] or {}) | {"on_hand": stock.on_hand + self.change}
        answer = stock_pb2.AdjustStockResponse(stock=with_available(self.stocks.project(after)))
        return ChangeSet(increments={self.ref: {"on_hand": self.change}}, answer=answer)


class HoldGoods(Struct, frozen=True):
    """Holds a quantity of one stock document; `promise` derives the promise to the consumer from the stock."""

    ref: DocumentRef
    hold_id: str
    consumer_id: str
    staff_brand_id: str | None
    quantity: int
    at: datetime
    needed_by: datetime | None
    held_until: datetime | None
    promise: Callable[[Stock], Promise] | None
    answer: Callable[[MessageDocument], Message]
    holds: ScopedCollection[Hold]

    def __call__(self, snapshot: Snapshot) -> ChangeSet:
        stock = row_in(snapshot, self.ref)
        hold = rules.hold(
            stock, id=self.hold_id, consumer_id=self.consumer_id, staff_brand_id=self.staff_brand_id, quantity=self.quantity, at=self.at,
            real_at=clock.system_now(), needed_by=self.needed_by, promise=self.promise(stock) if self.promise else None,
            held_until=self.held_until,
        )  # fmt: skip
        document = to_document(hold)
        answer = self.answer(self.holds.project(document))
        return ChangeSet(increments={self.ref: {"reserved": self.quantity}}, inserts=[(HOLDS, document)], answer=answer)


class FixedChanges(Struct, frozen=True):
    """Makes changes that were decided before; the commit proves that the documents are still as they were read."""

    changes: ChangeSet

    def __call__(self, snapshot: Snapshot) -> ChangeSet:
        return self.changes
