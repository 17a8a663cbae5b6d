"""Projection `affinity_view`: the purchases of each consumer id per brand, incremented by events without a read.

It has a document per consumer id: {_id, brands: {brand_id: {weight, orders, last_at}}}. Reads sum over the consumer ids of a person, so
that links change nothing here.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC

from pymongo import UpdateOne

from quanyu.events.v1 import events_pb2
from services.district.matching import rules
from services.district.matching.rules import Affinity, Purchase
from services.kit.errors import Invalid
from services.kit.mongo.client import Database, Document, Session
from services.kit.mongo.codec import to_struct
from services.kit.transactions.unit_of_work import UnitOfWork

COLLECTION = "affinity_view"
"""The name of the collection."""


class AffinityRepository:
    """The affinities of consumers for brands, written by OrderPaid and OrdersImported events only."""

    def __init__(self, database: Database) -> None:
        self.collection = database[COLLECTION]

    async def find_affinities(self, consumer_ids: Collection[str], brand_ids: Collection[str]) -> dict[str, Affinity]:
        """Returns the affinities of the person with these consumer ids for these brands; unknown brands are left out."""
        projection = {f"brands.{_field_name(brand_id)}": 1 for brand_id in brand_ids}
        documents = await self.collection.find({"_id": {"$in": sorted(consumer_ids)}}, projection or {"_id": 1}).to_list(None)
        return rules.combine(
            {brand: to_struct(values, Affinity) for brand, values in document.get("brands", {}).items()} for document in documents
        )

    async def apply_order_paid(self, uow: UnitOfWork, event: events_pb2.Event) -> None:
        """Adds the purchase of an OrderPaid event."""
        await self.add([_build_purchase(event.order_paid.order)], uow.session)

    async def apply_orders_imported(self, uow: UnitOfWork, event: events_pb2.Event) -> None:
        """Adds the purchases of an OrdersImported event."""
        await self.add(map(_build_purchase, event.orders_imported.orders), uow.session)

    async def add(self, purchases: Iterable[Purchase], session: Session) -> None:
        """Adds purchases, with one bulk write for all consumers."""
        operations = [
            UpdateOne({"_id": consumer_id}, _build_update(added), upsert=True)
            for consumer_id, added in rules.sum_by_consumer(purchases).items()
            if added
        ]
        if operations:
            await self.collection.bulk_write(operations, ordered=False, session=session)


def _build_update(added: Mapping[str, Affinity]) -> Document:
    """Returns the update that adds affinities to a consumer's document."""
    sums: Document = {}
    times: Document = {}
    for brand_id, affinity in added.items():
        path = f"brands.{_field_name(brand_id)}"
        sums |= {f"{path}.weight": affinity.weight, f"{path}.orders": affinity.orders}
        times[f"{path}.last_at"] = affinity.last_at
    return {"$inc": sums, "$max": times}


def _field_name(brand_id: str) -> str:
    """Returns a brand id as a field name; raises `Invalid` for an id that MongoDB would read as a path."""
    if not brand_id or "." in brand_id or "$" in brand_id:
        raise Invalid("INVALID_FIELD", "`brandId` must not contain `.` or `$`. Check the id.", field="brand_id")
    return brand_id


def _build_purchase(order: events_pb2.OrderSummary) -> Purchase:
    return Purchase(order.consumer_id, order.paid_at.ToDatetime(tzinfo=UTC), frozenset(line.brand_id for line in order.lines))
