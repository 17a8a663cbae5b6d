"""The collections of orders and of the projection of consumers' visits."""

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
from services.commerce.orders.visibility import redact
from services.kit.enums import ScopeKind
from services.kit.errors import Invalid
from services.kit.mongo import pagination
from services.kit.mongo.change_streams import ChangeStreamHub, WatchedCollection
from services.kit.mongo.client import Database, Document, MessageDocument, Session
from services.kit.mongo.codec import to_document, to_documents, to_struct
from services.kit.mongo.scoped_collection import Page, ScopedCollection
from services.kit.projections.persons import Person, PersonProjection
from services.kit.security.caller import current_caller
from services.kit.transactions.unit_of_work import UnitOfWork

ORDERS = "orders"
LATEST_FIRST = [("placed_at", -1)]
LISTED_BY = ("consumer_id", "store_id", "brand_ids", "seller_id")
"""Lists of orders filter by these fields. Each has an index."""
SWEPT_MAX = 200
"""One sweep handles at most this many orders."""
COALESCED_MAX = 100
"""A watch reads an order once for at most this many changes."""
WATCH_CURSOR = "orders:followed"
"""The name of the order of a watch's cursors, which are stored by clients."""


class OrderRepository:
    """Reads and writes orders, and the visits from which their scenario is derived."""

    def __init__(self, database: Database, change_streams: ChangeStreamHub, persons: PersonProjection) -> None:
        self.change_streams, self.persons = change_streams, persons
        change_streams.add(WatchedCollection(ORDERS, keys=("_id",), kinds=("update", "replace")))
        lists = [IndexModel([(field, ASCENDING), ("placed_at", DESCENDING), ("_id", ASCENDING)]) for field in LISTED_BY]
        self.orders = ScopedCollection(
            database, ORDERS, noun="ORDER", struct=Order, message=orders_pb2.Order,
            scopes={ScopeKind.CONSUMER: "consumer_id", ScopeKind.STORE: "store_id", ScopeKind.BRAND: ("seller_id", "brand_ids")},
            indexes=[
                *lists,
                # Only unfinished orders have `sweep_at`, or `rollback` as true.
                IndexModel([("sweep_at", ASCENDING)], partialFilterExpression={"sweep_at": {"$exists": True}}),
                IndexModel([("rollback", ASCENDING), ("_id", ASCENDING)], partialFilterExpression={"rollback": True}),
            ],
        )  # fmt: skip
        # A brand with goods in an order sees its part. Only the consumer, the store and its owner may change it or see its destination.
        self.owned = ScopedCollection(
            database, ORDERS, noun="ORDER", struct=Order, message=orders_pb2.Order,
            scopes={ScopeKind.CONSUMER: "consumer_id", ScopeKind.STORE: "store_id", ScopeKind.BRAND: "seller_id"},
        )  # fmt: skip
        self.visits = ScopedCollection(database, "visit_view", noun="VISIT", struct=Visit, scopes={})

    @property
    def collections(self) -> tuple[ScopedCollection[Any], ...]:
        """The collections to prepare before the service starts."""
        return self.orders, self.visits

    # reading ---------------------------------------------------------------------------------------------------------

    async def get(self, id: str) -> MessageDocument:
        """Returns the part of one order that the caller may see. `NotFound` outside the caller's scope."""
        return self._redact(await self.orders.get(id))

    async def watch(self, id: str, after: str) -> AsyncGenerator[tuple[MessageDocument, str], None]:
        """Streams the part of one order that the caller may see, with cursors: its current state, then each change.

        The current state is left out if `after` is its cursor. `NotFound` ends the stream if the order leaves the caller's scope.
        """
        sent_version = _cursor_version(after, id) if after else 0
        projection = (self.orders.projection or {}) | {"_version": "$version"}
        part: MessageDocument = None
        async with self.change_streams.subscribe(ORDERS, keys=[id]) as changes:
            at = changes.after
            while True:
                async with self.orders.database.session(after=at) as session:
                    found = await self.orders.find({"_id": id}, limit=1, session=session, projection=projection)
                if not found:
                    raise self.orders.not_found(id)
                version, previous, part = found[0].pop("_version"), part, self._redact(found[0])
                if version != sent_version and part != previous:  # the change may concern a part that this caller may not see
                    yield part, pagination.encode_cursor(WATCH_CURSOR, [id, version])
                sent_version = version
                at = (await changes.next_batch(COALESCED_MAX))[-1].at

    async def batch(self, ids: Sequence[str]) -> list[MessageDocument]:
        """Returns the parts that the caller may see of the orders in scope."""
        return [self._redact(order) for order in await self.orders.batch(ids)]

    async def find_destinations(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Returns the encrypted destinations of the delivered orders among these, by id, for callers that may see all of an order."""
        found = await self.owned.batch(ids, projection={"destination": 1})
        return {document["_id"]: document["destination"] for document in found if document.get("destination")}

    async def list_page(self, criteria: Mapping[str, str], page: PageRequest) -> Page:
        """Returns a page of the orders that meet all criteria (consumer_id, store_id, brand_id), latest first, redacted."""
        (query,) = await self._queries([criteria])
        orders, info = await self.orders.page(query, page, order=LATEST_FIRST)
        return [self._redact(order) for order in orders], info

    async def list_first_pages(self, name: str, ids: Iterable[str], first: int) -> dict[str, Page]:
        """Returns the first page of `list_page` for each id. `name` is the criterion: consumer_id, store_id or brand_id."""
        keys = list(ids)
        queries = await self._queries([{name: key} for key in keys])
        found = await self.orders.first_pages(dict(zip(keys, queries, strict=True)), first, order=LATEST_FIRST)
        return {key: ([self._redact(order) for order in orders], info) for key, (orders, info) in found.items()}

    async def find_visit_of(self, person: Person, session: Session = None) -> Visit | None:
        """Returns a person's last visit, merged from all their consumer ids, or None."""
        found = self.visits.collection.find({"_id": {"$in": sorted(person.ids)}}, session=session)
        return scenario.merge_visits([to_struct(document, Visit) for document in await found.to_list(len(person.ids))])

    async def load_visit(self, consumer_id: str, session: Session) -> Visit:
        """Returns the last visit under one consumer id, empty if there is none."""
        document: Document | None = await self.visits.collection.find_one({"_id": consumer_id}, session=session)
        return to_struct(document, Visit) if document else Visit(consumer_id)

    async def list_to_sweep(self, real_at: datetime) -> list[Order]:
        """Returns the orders that are due for the sweeper by the machine's clock: unpaid for too long, or paid but not finished."""
        found = self.orders.collection.find({"sweep_at": {"$lte": real_at}}).sort("sweep_at", 1).limit(SWEPT_MAX)
        return [to_struct(document, Order) for document in await found.to_list(SWEPT_MAX)]

    async def list_to_roll_back(self) -> list[str]:
        """Returns the ids of cancelled orders whose coupons are not freed yet."""
        found = self.orders.collection.find({"rollback": True}, {"_id": 1}).limit(SWEPT_MAX)
        return [document["_id"] for document in await found.to_list(SWEPT_MAX)]

    # writing ---------------------------------------------------------------------------------------------------------

    async def mark_rolled_back(self, id: str) -> None:
        """Records that the order's coupons are freed."""
        change = {"$set": {"rollback": False}, "$inc": {"version": 1}}
        await self.orders.collection.update_one({"_id": id, "rollback": True}, change)

    async def postpone_sweep(self, order: Order, real_at: datetime) -> None:
        """Postpones the order's sweep, unless the order changed since it was read."""
        query = {"_id": order.id, "version": order.version, "sweep_at": {"$exists": True}}
        await self.orders.collection.update_one(query, {"$set": {"sweep_at": real_at}, "$inc": {"version": 1}})

    async def import_orders(self, uow: UnitOfWork, batch_id: str, orders: Mapping[str, Order]) -> int:
        """Inserts the paid orders of a batch that do not exist yet, publishes them in one event, and returns their number."""
        found = self.orders.collection.find({"_id": {"$in": list(orders)}}, {"_id": 1}, session=uow.session)
        existing_ids = {document["_id"] for document in await found.to_list(None)}
        new_orders = [order for id, order in orders.items() if id not in existing_ids]
        if new_orders:
            await self.orders.collection.insert_many(to_documents(new_orders), ordered=False, session=uow.session)
            uow.publish(OrdersImported(batch_id, tuple(rules.summarize(order) for order in new_orders)))
        return len(new_orders)

    async def save_visit(self, session: Session, visit: Visit) -> None:
        """Saves the last visit under one consumer id."""
        document = to_document(visit)
        await self.visits.collection.replace_one({"_id": document.pop("_id")}, document, upsert=True, session=session)

    async def _queries(self, criteria: Sequence[Mapping[str, str]]) -> list[Document]:
        """Returns the filter of each list. A brand's orders are those with its goods and those that its stores serve."""
        queries = await self.persons.build_filters(criteria)
        for query in queries:
            if brand_id := query.pop("brand_id", None):
                query["$or"] = [{"brand_ids": brand_id}, {"seller_id": brand_id}]
        return queries

    def _redact(self, order: MessageDocument) -> MessageDocument:
        current = current_caller()
        return redact(order, current.reach, everywhere=current.is_unrestricted)


def _cursor_version(cursor: str, id: str) -> int:
    """Returns the version of an order that a cursor names. `Invalid` if the cursor belongs to another order."""
    order_id, version = pagination.decode_cursor(WATCH_CURSOR, [("_id", 1), ("version", 1)], cursor)
    if order_id != id or not isinstance(version, int):
        raise Invalid("INVALID_CURSOR", "This cursor does not belong to this order. Start without `after`.", field="after")
    return version
