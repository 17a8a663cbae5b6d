"""The collections of stores, stock and holds. Stock moves in the group_commit only: many want the same row at once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
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
from services.kit.mongo.client import Database, Document, Session, Shaped
from services.kit.mongo.codec import as_document, as_struct
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
Answer = TypeVar("Answer", bound=Message)


class Move(NamedTuple):
    """A hold that changes, and what that adds to its stock row."""

    hold: Hold
    reserved: int = 0
    on_hand: int = 0


class StockRepository:
    """What every store has, and what is kept back of it."""

    def __init__(self, database: Database, group_commit: GroupCommit, persons: PersonProjection) -> None:
        self.database, self.group_commit, self.persons = database, group_commit, persons
        # Fed by StoreChanged; who may write a store's stock is who reaches its row here.
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
        self.holders = HoldQuota(database, group_commit, persons, self.stores, self.holds)

    @property
    def tables(self) -> tuple[ScopedCollection[Any], ...]:
        """What is prepared before the start."""
        return self.stores, self.stocks, self.holds

    # levels ----------------------------------------------------------------------------------------------------------

    async def set_level(self, key: IdempotencyKey, store: Store, variant: Variant, on_hand: int, safety: int) -> stock_pb2.SetStockResponse:
        """The row at a counted level, made if it is missing."""
        ref = DocumentRef(STOCK, stock_id(store.id, variant.id))
        fresh = as_document(row_of(store, variant, on_hand, safety))

        def decide(state: Snapshot) -> ChangeSet:
            if state[ref] is None:
                return ChangeSet(increments={}, inserts=[(STOCK, fresh)], answer=stock_pb2.SetStockResponse(stock=self.shown(fresh)))
            row = row_in(state, ref)
            rules.check_level(on_hand, row.reserved)
            change = {"on_hand": on_hand - row.on_hand, "safety": safety - row.safety}
            after = fresh | {"reserved": row.reserved}
            return ChangeSet(increments={ref: change}, answer=stock_pb2.SetStockResponse(stock=self.shown(after)))

        return await self.group_commit.run(key, [ref], decide, stock_pb2.SetStockResponse)

    async def adjust(self, key: IdempotencyKey, store_id: str, variant_id: str, change: int) -> stock_pb2.AdjustStockResponse:
        """The row with `change` more on hand."""
        ref = DocumentRef(STOCK, stock_id(store_id, variant_id))

        def decide(state: Snapshot) -> ChangeSet:
            row = row_in(state, ref)
            rules.check_level(row.on_hand + change, row.reserved)
            after = (state[ref] or {}) | {"on_hand": row.on_hand + change}
            return ChangeSet(increments={ref: {"on_hand": change}}, answer=stock_pb2.AdjustStockResponse(stock=self.shown(after)))

        return await self.group_commit.run(key, [ref], decide, stock_pb2.AdjustStockResponse)

    async def bring(self, uow: UnitOfWork, rows: Mapping[int, Stock]) -> dict[int, Refusal]:
        """Sets the levels of many rows; those left out, with why. Holds on them stay."""
        found = self.stocks.collection.find({"_id": {"$in": [row.id for row in rows.values()]}}, {"reserved": 1}, session=uow.session)
        reserved = {row["_id"]: row["reserved"] for row in await found.to_list(None)}
        refused: dict[int, Refusal] = {}
        writes = []
        for index, row in rows.items():
            try:
                rules.check_level(row.on_hand, reserved.get(row.id, 0))
            except Refusal as refusal:
                refused[index] = refusal
                continue
            document = as_document(row)
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
        answer: Callable[[Shaped], Answer],
        answer_type: type[Answer],
        needed_by: datetime | None = None,
        promise: Callable[[Stock], Promise] | None = None,
    ) -> Answer:
        """A hold on a row, with what `promise` says of that row as it stands, or `Exhausted`; exact however many come at once."""
        ref = DocumentRef(STOCK, stock_id(store_id, variant_id))
        id, until = ids.new("hld"), (await self.held_until([ref.id])).get(ref.id)
        holder = await self.holders.who(consumer_id, store_id)

        def decide(state: Snapshot) -> ChangeSet:
            row = row_in(state, ref)
            held = rules.hold(
                row, id=id, consumer_id=consumer_id, staff_brand_id=holder.brand_id, quantity=quantity, at=at, real_at=clock.real(),
                needed_by=needed_by, promise=promise(row) if promise else None, held_until=until,
            )  # fmt: skip
            document = as_document(held)
            increments = {ref: {"reserved": quantity}}
            return ChangeSet(increments=increments, inserts=[(HOLDS, document)], answer=answer(self.holds.answer(document)))

        return await self.holders.hold(key, holder, at, [ref], decide, answer_type)

    async def held(self, named: Mapping[str, str], page: PageRequest) -> Page:
        """The holds of all that is named (consumer_id, store_id), latest first."""
        (query,) = await self.persons.filters([named])
        return await self.holds.page(query, page, order=LATEST_FIRST)

    async def first_held(self, name: str, ids: Sequence[str], first: int) -> dict[str, Page]:
        """The first page of each of several consumers or stores (`name` says which), as `held` has it."""
        queries = await self.persons.filters([{name: id} for id in ids])
        return await self.holds.first_pages(dict(zip(ids, queries, strict=True)), first, order=LATEST_FIRST)

    async def held_until(self, stock_ids: Sequence[str]) -> dict[str, datetime]:
        """When the first of the live holds on each of these rows ends."""
        pipeline: list[Document] = [
            {"$match": {"stock_id": {"$in": list(stock_ids)}, "state": {"$in": list(LIVE)}}},
            {"$group": {"_id": "$stock_id", "until": {"$min": "$expires_at"}}},
        ]
        cursor = await self.database.aggregate(HOLDS, pipeline)
        return {row["_id"]: row["until"] async for row in cursor}

    async def release(self, key: IdempotencyKey | None, hold: Hold) -> stock_pb2.ReleaseHoldResponse:
        """The hold given back; `Conflict` STATE_CHANGED when it is not as it was read any more."""
        after, back = rules.release(hold)
        answer = stock_pb2.ReleaseHoldResponse(hold=self.holds.answer(as_document(after)))
        moves = [Move(after, reserved=-back)] if after is not hold else []
        return await self.move(key, moves, answer)

    async def move(
        self,
        key: IdempotencyKey | None,
        moves: Sequence[Move],
        answer: Answer,
        *,
        updates: Sequence[tuple[str, Document, Document]] = (),
        events: Sequence[Any] = (),
    ) -> Answer:
        """Changes holds together with their stock rows (and `updates` and `events`), if all are still as they were read."""
        sums: dict[DocumentRef, dict[str, int]] = {}
        for item in moves:
            row = sums.setdefault(DocumentRef(STOCK, item.hold.stock_id), {"reserved": 0, "on_hand": 0})
            row["reserved"] += item.reserved
            row["on_hand"] += item.on_hand
        changes = [*((HOLDS, *self.holds.change(item.hold)) for item in moves), *updates]
        outcome = ChangeSet(increments=sums, updates=changes, events=events, answer=answer)
        return await self.group_commit.run(key, list(sums), lambda _: outcome, type(answer))

    async def sweep(self) -> int:
        """Gives back the holds whose time is over by the machine's clock, each once however many sweep; how many it was."""
        real_at = clock.real()
        query = {"state": HoldState.HELD, "sweep_at": {"$lte": real_at}}
        rows = await self.holds.collection.find(query).sort("sweep_at", 1).limit(SWEPT_MAX).to_list(SWEPT_MAX)
        swept = 0
        for hold in (as_struct(row, Hold) for row in rows):
            after, back = rules.expire(hold, real_at)
            try:
                await self.move(None, [Move(after, reserved=-back)], Empty())
            except Conflict:
                continue  # somebody released or ordered it, or another sweeper was faster
            swept += 1
        return swept

    # other use cases -------------------------------------------------------------------------------------------------

    async def keep_store(self, session: Session, store: Store) -> None:
        """What StoreChanged says; its stock rows follow to its owner."""
        document = as_document(store)
        id = document.pop("_id")
        await self.stores.collection.replace_one({"_id": id}, document, upsert=True, session=session)
        stale = {"store_id": id, "seller_id": {"$ne": store.brand_id}}
        owned = {"$set": {"seller_id": store.brand_id}, "$inc": {"version": 1}}
        await self.stocks.collection.update_many(stale, owned, session=session)

    async def known_stores(self, ids: Iterable[str], *, scoped: bool = False, session: Session = None) -> dict[str, Store]:
        """Those of these stores that exist (`scoped`: and that the caller reaches), by id."""
        query: Document = {"_id": {"$in": list(set(ids))}}
        rows = self.stores.collection.find(self.stores.within(query) if scoped else query, session=session)
        return {row["_id"]: as_struct(row, Store) for row in await rows.to_list(None)}

    async def uncounted(self) -> list[str]:
        """The rows whose `reserved` is not the sum of their live holds: none, or something is wrong. Reads everything."""
        pipeline: list[Document] = [
            {"$lookup": {
                "from": HOLDS, "localField": "_id", "foreignField": "stock_id", "as": "live",
                "pipeline": [{"$match": {"state": {"$in": list(LIVE)}}}, {"$project": {"quantity": 1}}],
            }},
            {"$match": {"$expr": {"$ne": ["$reserved", {"$sum": "$live.quantity"}]}}},
            {"$project": {"_id": 1}},
        ]  # fmt: skip
        return [row["_id"] async for row in await self.database.aggregate(STOCK, pipeline)]

    def shown(self, document: Document) -> Shaped:
        """A stored row as its message."""
        return with_available(self.stocks.answer(document))


def with_available(row: Shaped) -> Shaped:
    """A row shaped like its message, with what is available of it."""
    return row | {"available": row["on_hand"] - row["reserved"] - row["safety"]}


def row_of(store: Store, variant: Variant, on_hand: int, safety: int) -> Stock:
    """A stock row that nothing is reserved of."""
    return Stock(
        id=stock_id(store.id, variant.id),
        store_id=store.id,
        variant_id=variant.id,
        brand_id=variant.brand_id,
        seller_id=store.brand_id,
        on_hand=on_hand,
        safety=safety,
    )


def missing(store_id: str, variant_id: str) -> NotFound:
    """The refusal where a store keeps no row of a variant."""
    return NotFound(Reason.STOCK_NOT_FOUND, "this store does not keep it", store_id=store_id, variant_id=variant_id)


def row_in(state: Snapshot, ref: DocumentRef) -> Stock:
    """The row as the group_commit shows it; `NotFound` when there is none."""
    document = state[ref]
    if document is None:
        store_id, _, variant_id = ref.id.partition(":")
        raise missing(store_id, variant_id)
    return as_struct(document, Stock)
