"""The collections of orders and of what is known of consumers' visits."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel

from quanyu.commerce.v1 import orders_pb2
from quanyu.common.v1.page_pb2 import PageRequest
from services.commerce.orders import rules, scenario
from services.commerce.orders.import_rules import OrdersImported
from services.commerce.orders.model import Order
from services.commerce.orders.scenario import Visit
from services.commerce.orders.visibility import visible_to
from services.kit.enums import ScopeKind
from services.kit.errors import Invalid
from services.kit.mongo import pagination
from services.kit.mongo.change_streams import ChangeStreamHub, WatchedCollection
from services.kit.mongo.client import Database, Document, Session, Shaped
from services.kit.mongo.codec import as_document, as_documents, as_struct
from services.kit.mongo.scoped_collection import Page, ScopedCollection
from services.kit.projections.persons import Person, PersonProjection
from services.kit.security.authorization import caller
from services.kit.transactions.unit_of_work import UnitOfWork

ORDERS = "orders"
LATEST_FIRST = [("placed_at", -1)]
SWEPT_MAX = 200
COALESCED_MAX = 100
"""Changes of one order after which it is read once."""
FOLLOWED = "orders:followed"


class OrderRepository:
    """Orders, and the visits their scenario is derived from."""

    def __init__(self, database: Database, watch: ChangeStreamHub, persons: PersonProjection) -> None:
        self.watch, self.persons = watch, persons
        watch.add(WatchedCollection(ORDERS, keys=("_id",), kinds=("update", "replace")))
        lists = [IndexModel([(field, ASCENDING), ("placed_at", DESCENDING), ("_id", ASCENDING)]) for field in LISTED_BY]
        self.orders = ScopedCollection(
            database, ORDERS, noun="ORDER", struct=Order, message=orders_pb2.Order,
            scopes={ScopeKind.CONSUMER: "consumer_id", ScopeKind.STORE: "store_id", ScopeKind.BRAND: ("seller_id", "brand_ids")},
            indexes=[
                *lists,
                # Only orders that something is still to be done for have `sweep_at`, or `rollback` as true.
                IndexModel([("sweep_at", ASCENDING)], partialFilterExpression={"sweep_at": {"$exists": True}}),
                IndexModel([("rollback", ASCENDING), ("_id", ASCENDING)], partialFilterExpression={"rollback": True}),
            ],
        )  # fmt: skip
        # A brand whose goods are in an order sees its part of it; who may change it is the consumer, the store and who runs the store.
        self.own = ScopedCollection(
            database, ORDERS, noun="ORDER", struct=Order, message=orders_pb2.Order,
            scopes={ScopeKind.CONSUMER: "consumer_id", ScopeKind.STORE: "store_id", ScopeKind.BRAND: "seller_id"},
        )  # fmt: skip
        self.visits = ScopedCollection(database, "visit_view", noun="VISIT", struct=Visit, scopes={})

    @property
    def tables(self) -> tuple[ScopedCollection[Any], ...]:
        """What is prepared before the start."""
        return self.orders, self.visits

    # reading ---------------------------------------------------------------------------------------------------------

    async def get(self, id: str) -> Shaped:
        """One order as the caller may see it."""
        return self._seen(await self.orders.get(id))

    async def follow(self, id: str, after: str) -> AsyncGenerator[tuple[Shaped, str], None]:
        """One order as the caller may see it, now (unless `after` names just this state) and each time it changed, with its cursor."""
        told = _version(after, id) if after else 0
        projection = (self.orders.projection or {}) | {"_version": "$version"}
        seen: Shaped = None
        async with self.watch.subscribe(ORDERS, keys=[id]) as changes:
            at = changes.after
            while True:
                async with self.orders.database.session(after=at) as session:
                    rows = await self.orders.find({"_id": id}, limit=1, session=session, projection=projection)
                if not rows:
                    raise self.orders.missing(id)
                version, before, seen = rows[0].pop("_version"), seen, self._seen(rows[0])
                if version != told and seen != before:  # a change may lie in what this caller does not see
                    yield seen, pagination.cursor(FOLLOWED, [id, version])
                told = version
                at = (await changes.some(COALESCED_MAX))[-1].at

    async def batch(self, ids: Sequence[str]) -> list[Shaped]:
        """Those of these orders that are in scope, as the caller may see them."""
        return [self._seen(order) for order in await self.orders.batch(ids)]

    async def destinations(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Where those of these orders go that are the caller's own and are delivered, encrypted as it was kept."""
        rows = await self.own.batch(ids, projection={"destination": 1})
        return {row["_id"]: row["destination"] for row in rows if row.get("destination")}

    async def page(self, named: Mapping[str, str], page: PageRequest) -> Page:
        """The orders of all that is named (consumer_id, store_id, brand_id), latest first, as the caller may see them."""
        (query,) = await self._queries([named])
        rows, info = await self.orders.page(query, page, order=LATEST_FIRST)
        return [self._seen(order) for order in rows], info

    async def first_pages(self, name: str, ids: Iterable[str], first: int) -> dict[str, Page]:
        """The first page of each of several consumers, stores or brands (`name` says which), as `page` has it."""
        asked = list(ids)
        queries = await self._queries([{name: id} for id in asked])
        found = await self.orders.first_pages(dict(zip(asked, queries, strict=True)), first, order=LATEST_FIRST)
        return {id: ([self._seen(order) for order in rows], info) for id, (rows, info) in found.items()}

    async def visit_of(self, person: Person, session: Session = None) -> Visit | None:
        """What is known of a person's last visit."""
        rows = await self.visits.collection.find({"_id": {"$in": sorted(person.ids)}}, session=session).to_list(len(person.ids))
        return scenario.together([as_struct(row, Visit) for row in rows])

    async def visit_under(self, consumer_id: str, session: Session) -> Visit:
        """What was told of visits under one consumer id, whoever the person is."""
        row: Document | None = await self.visits.collection.find_one({"_id": consumer_id}, session=session)
        return as_struct(row, Visit) if row else Visit(consumer_id)

    async def to_sweep(self, real_at: datetime) -> list[Order]:
        """The orders that wait for the sweeper by the machine's clock: overdue, or paid for and not finished."""
        query = {"sweep_at": {"$lte": real_at}}
        rows = await self.orders.collection.find(query).sort("sweep_at", 1).limit(SWEPT_MAX).to_list(SWEPT_MAX)
        return [as_struct(row, Order) for row in rows]

    async def to_roll_back(self) -> list[str]:
        """The cancelled orders whose coupons are still to be freed."""
        rows = await self.orders.collection.find({"rollback": True}, {"_id": 1}).limit(SWEPT_MAX).to_list(SWEPT_MAX)
        return [row["_id"] for row in rows]

    # writing ---------------------------------------------------------------------------------------------------------

    async def rolled_back(self, id: str) -> None:
        """The order's coupons are free."""
        await self.orders.collection.update_one({"_id": id, "rollback": True}, {"$set": {"rollback": False}, "$inc": {"version": 1}})

    async def put_off(self, order: Order, real_at: datetime) -> None:
        """The sweeper looks after the order later, unless something happened to it meanwhile."""
        where = {"_id": order.id, "version": order.version, "sweep_at": {"$exists": True}}
        await self.orders.collection.update_one(where, {"$set": {"sweep_at": real_at}, "$inc": {"version": 1}})

    async def bring(self, uow: UnitOfWork, batch_id: str, orders: Mapping[str, Order]) -> int:
        """Adds the paid orders of a batch (by id, bounds checked) that do not stand yet, and tells them; how many there were."""
        found = self.orders.collection.find({"_id": {"$in": list(orders)}}, {"_id": 1}, session=uow.session)
        standing = {row["_id"] for row in await found.to_list(None)}
        fresh = [order for id, order in orders.items() if id not in standing]
        if fresh:
            await self.orders.collection.insert_many(as_documents(fresh), ordered=False, session=uow.session)
            uow.publish(OrdersImported(batch_id, tuple(rules.summary(order) for order in fresh)))
        return len(fresh)

    async def keep_visit(self, session: Session, visit: Visit) -> None:
        """Writes what was told of visits under one consumer id."""
        document = as_document(visit)
        await self.visits.collection.replace_one({"_id": document.pop("_id")}, document, upsert=True, session=session)

    async def _queries(self, asked: Sequence[Mapping[str, str]]) -> list[Document]:
        """The filter of each list that is asked for. A brand's are those with its goods and those that its stores serve."""
        queries = await self.persons.filters(asked)
        for query in queries:
            if brand_id := query.pop("brand_id", None):
                query["$or"] = [{"brand_ids": brand_id}, {"seller_id": brand_id}]
        return queries

    def _seen(self, order: Shaped) -> Shaped:
        who = caller()
        return visible_to(order, who.reach, everywhere=who.everywhere)


def _version(cursor: str, id: str) -> int:
    """The version of an order that a cursor names; `Invalid` for one that is not of this order."""
    named, version = pagination.values(FOLLOWED, [("_id", 1), ("version", 1)], cursor)
    if named != id or not isinstance(version, int):
        raise Invalid("INVALID_CURSOR", "this cursor is not one of this order; begin without one", field="after")
    return version


LISTED_BY = ("consumer_id", "store_id", "brand_ids", "seller_id")
