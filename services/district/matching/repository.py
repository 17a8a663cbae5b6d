"""`affinity_view`: what each consumer id bought of each brand, grown by events without reading.

A document per consumer id: {_id, brands: {brand_id: {weight, orders, last_at}}}. Whoever asks sums over a person's ids, so that
linking and unlinking move nothing here.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC

from pymongo import UpdateOne

from quanyu.events.v1 import events_pb2
from services.district.matching import rules
from services.district.matching.rules import Interest, Purchase
from services.kit.errors import Invalid
from services.kit.mongo.client import Database, Document, Session
from services.kit.mongo.codec import as_struct
from services.kit.transactions.unit_of_work import UnitOfWork

COLLECTION = "affinity_view"


class AffinityRepository:
    """What persons bought, for scoring; kept by the events OrderPaid and OrdersImported."""

    def __init__(self, database: Database) -> None:
        self.collection = database[COLLECTION]

    async def interests(self, consumer_ids: Collection[str], brand_ids: Collection[str]) -> dict[str, Interest]:
        """What a person bought of these brands, over all of the person's ids."""
        wanted = {f"brands.{_path(brand_id)}": 1 for brand_id in brand_ids}
        rows = await self.collection.find({"_id": {"$in": sorted(consumer_ids)}}, wanted or {"_id": 1}).to_list(None)
        return rules.combine({brand: as_struct(found, Interest) for brand, found in row.get("brands", {}).items()} for row in rows)

    async def order_paid(self, uow: UnitOfWork, event: events_pb2.Event) -> None:
        """The handler of OrderPaid."""
        await self.add([_purchase(event.order_paid.order)], uow.session)

    async def orders_imported(self, uow: UnitOfWork, event: events_pb2.Event) -> None:
        """The handler of OrdersImported."""
        await self.add(map(_purchase, event.orders_imported.orders), uow.session)

    async def add(self, purchases: Iterable[Purchase], session: Session) -> None:
        """Counts purchases in, all consumers in one write."""
        writes = [
            UpdateOne({"_id": consumer_id}, _growth(added), upsert=True) for consumer_id, added in rules.gather(purchases).items() if added
        ]
        if writes:
            await self.collection.bulk_write(writes, ordered=False, session=session)


def _growth(added: Mapping[str, Interest]) -> Document:
    sums: Document = {}
    lasts: Document = {}
    for brand_id, interest in added.items():
        path = f"brands.{_path(brand_id)}"
        sums |= {f"{path}.weight": interest.weight, f"{path}.orders": interest.orders}
        lasts[f"{path}.last_at"] = interest.last_at
    return {"$inc": sums, "$max": lasts}


def _path(brand_id: str) -> str:
    """A brand's id as a part of a path; `Invalid` for one that would be read as several."""
    if not brand_id or "." in brand_id or "$" in brand_id:
        raise Invalid("INVALID_FIELD", "a brand's id has no dots and no dollars", field="brand_id")
    return brand_id


def _purchase(order: events_pb2.OrderSummary) -> Purchase:
    return Purchase(order.consumer_id, order.paid_at.ToDatetime(tzinfo=UTC), frozenset(line.brand_id for line in order.lines))
