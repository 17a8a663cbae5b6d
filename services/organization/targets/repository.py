"""Repository of targets: credits, the counter documents of scorecards, and monthly targets.

`scorecards` has the counter documents: {_id: "<subject>:<bucket>", cells}; see `scorecards.py`.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from msgspec.structs import replace
from pymongo import ASCENDING, DESCENDING, IndexModel, UpdateOne

from quanyu.common.v1.touch_pb2 import Scenario, Touchpoint
from quanyu.events.v1 import events_pb2
from quanyu.organization.v1 import targets_pb2
from services.kit.enums import ScopeKind
from services.kit.errors import NotFound
from services.kit.events.inbox import EventInUnit
from services.kit.mongo import codec
from services.kit.mongo.client import MessageDocument, Session
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.projections.persons import Person, PersonProjection
from services.kit.runtime.runtime import Runtime
from services.kit.security.caller import current_caller
from services.kit.transactions.unit_of_work import UnitOfWork
from services.organization.chart.enums import Reason
from services.organization.chart.repository import ChartRepository, StaffScopedCollection
from services.organization.chart.rules import store_org_unit_id
from services.organization.targets import rules, scorecards
from services.organization.targets.guide_projection import GuideProjection
from services.organization.targets.rules import Credit, Line, Order, Seller, Target

READ_BATCH_SIZE = 500
"""A recount reads this many credits at a time."""
TARGETS_PER_ORG_UNIT_MAX = 13 * 8
"""A read returns at most this many targets of an org unit: 13 months in 8 scenarios."""


class TargetRepository:
    """Credits of orders, the counters of scorecards, and targets."""

    def __init__(self, runtime: Runtime, chart: ChartRepository, persons: PersonProjection) -> None:
        database, self.chart, self.persons = runtime.database, chart, persons
        self.database = database
        latest = [("paid_at", DESCENDING), ("_id", ASCENDING)]
        self.credits = StaffScopedCollection(
            database, "credits", noun="CREDIT", struct=Credit, message=targets_pb2.Credit,
            scopes={ScopeKind.BRAND: "brand_id", ScopeKind.STORE: "store_id", ScopeKind.STAFF: "staff_id"},
            indexes=[
                IndexModel([("store_id", ASCENDING), *latest]),
                IndexModel([("staff_id", ASCENDING), *latest], partialFilterExpression={"staff_id": {"$exists": True}}),
            ],
        )  # fmt: skip
        self.targets = ScopedCollection(
            database, "targets", noun="TARGET", struct=Target, message=targets_pb2.Target,
            scopes={ScopeKind.BRAND: "brand_id", ScopeKind.ORG_UNIT: "org_unit_id"},
            indexes=[IndexModel([("org_unit_id", ASCENDING), ("month", ASCENDING)])],
        )  # fmt: skip
        self.scorecards = ScopedCollection(database, "scorecards", noun="SCORECARD", struct=scorecards.Counter, scopes={})
        self.guides = GuideProjection(database)
        self.collections: Sequence[ScopedCollection[Any]] = (
            self.credits, self.targets, self.scorecards, self.guides.bindings, self.guides.outreach,
        )  # fmt: skip

    # Counting --------------------------------------------------------------------------------------------------------

    async def count_paid_orders(self, batch: Sequence[EventInUnit]) -> None:
        """Handles a batch of OrderPaid: counts each order, and credits it to a guide if the consumer is bound to one."""
        session = batch[0][0].session
        summaries = [event.order_paid.order for _, event in batch]
        credits = await self._count_new(summaries, session)
        persons = await self.persons.find_many((summary.consumer_id for summary in summaries), session)
        buyers = {summary.order_id: persons[summary.consumer_id] for summary in summaries}
        brands: dict[Person, set[str]] = defaultdict(set)
        for credit in credits:
            brands[buyers[credit.id]].update([credit.brand_id, *(share.brand_id for share in credit.brands)])
        bindings = await self.guides.load_bindings(brands, session)
        outreach = await self.guides.load_outreach(bindings, session)
        attributed = []
        for credit in credits:
            attribution = rules.attribute(credit, bindings[buyers[credit.id]], outreach[buyers[credit.id]])
            attributed.append(replace(credit, **attribution._asdict()) if attribution else credit)
        await self._save_credits(attributed, session)

    async def count_imported_orders(self, batch: Sequence[EventInUnit]) -> None:
        """Handles a batch of OrdersImported: counts orders from before this installation, and credits them to no guide."""
        session = batch[0][0].session
        orders = [order for _, event in batch for order in event.orders_imported.orders]
        await self._save_credits(await self._count_new(orders, session), session)

    async def _count_new(self, summaries: Sequence[events_pb2.OrderSummary], session: Session) -> list[Credit]:
        """Returns the credits of orders that are not counted yet. `NotFound` if the chart has no such store."""
        collection = self.credits.collection
        existing = collection.find({"_id": {"$in": [summary.order_id for summary in summaries]}}, {"_id": 1}, session=session)
        counted = {document["_id"] async for document in existing}
        orders = {summary.order_id: _order(summary) for summary in summaries if summary.order_id not in counted}
        sellers = await self._load_sellers({order.store_id for order in orders.values()}, session)
        zones = await self._load_zones({line.brand_id for order in orders.values() for line in order.lines}, session)
        return [rules.count_order(order, sellers[order.store_id], zones) for order in orders.values()]

    async def _load_sellers(self, store_ids: Iterable[str], session: Session) -> Mapping[str, Seller]:
        ids = [store_org_unit_id(id) for id in store_ids]
        if not ids:
            return {}
        org_units = await self.chart.org_units.collection.find(
            {"_id": {"$in": ids}}, {"brand_id": 1, "org_unit_ids": 1, "store_id": 1}, session=session
        ).to_list(len(ids))
        if missing := set(store_ids) - {org_unit["store_id"] for org_unit in org_units}:
            message = "The organization has no such store. Create the store; the event is then delivered again."
            raise NotFound(Reason.STORE_NOT_FOUND, message, store_id=min(missing))
        zones = await self._load_zones({org_unit["brand_id"] for org_unit in org_units}, session)
        return {
            org_unit["store_id"]: Seller(org_unit["brand_id"], tuple(org_unit["org_unit_ids"]), zones[org_unit["brand_id"]])
            for org_unit in org_units
        }

    async def _load_zones(self, brand_ids: Iterable[str], session: Session) -> dict[str, str]:
        brands = self.chart.brands.collection.find({"_id": {"$in": list(brand_ids)}}, {"zone": 1}, session=session)
        return {brand["_id"]: brand["zone"] async for brand in brands}

    async def _save_credits(self, credits: Sequence[Credit], session: Session) -> None:
        """Inserts the credits, and adds them to their counter documents with one write per document."""
        if not credits:
            return
        await self.credits.collection.insert_many(codec.to_documents(credits), ordered=False, session=session)
        increments = {f"{subject}:{bucket}": cells for (subject, bucket), cells in scorecards.count_cells(credits).items()}
        collection, ids = self.scorecards.collection, list(increments)
        found = await collection.find({"_id": {"$in": ids}}, {"_id": 1}, session=session).batch_size(len(ids)).to_list(None)
        existing = {document["_id"] for document in found}
        # Upserts would cost the server four times as much as inserts, and in an import most documents are new.
        if inserts := [{"_id": id} | scorecards.nest(cells) for id, cells in increments.items() if id not in existing]:
            await collection.insert_many(inserts, ordered=False, session=session)
        if updates := [UpdateOne({"_id": id}, {"$inc": increments[id]}) for id in existing]:
            await collection.bulk_write(updates, ordered=False, session=session)

    # Credits ---------------------------------------------------------------------------------------------------------

    async def redact_credits(self, found: Sequence[MessageDocument]) -> list[MessageDocument]:
        """Returns credits as the caller may see them: in full for the store and its tenant, else only the part of the guide's brand."""
        current = current_caller()
        partial = {
            credit["id"]
            for credit in found
            if not current.can_reach(ScopeKind.STORE, credit["store_id"]) and not current.can_reach(ScopeKind.BRAND, credit["brand_id"])
        }
        if not partial:
            return list(found)
        documents = await self.credits.collection.find({"_id": {"$in": sorted(partial)}}).to_list(len(partial))
        parts = {document["_id"]: codec.to_document(rules.bound_brand_part(codec.to_struct(document, Credit))) for document in documents}
        return [self.credits.project(parts[credit["id"]]) if credit["id"] in parts else credit for credit in found]

    # Scorecards ------------------------------------------------------------------------------------------------------

    async def load_cells(self, keys: Iterable[scorecards.Key]) -> dict[scorecards.Key, list[scorecards.Cell]]:
        """Returns the cells of counter documents. A document without orders is absent."""
        ids = sorted({f"{subject}:{bucket}" for subject, bucket in keys})
        found: dict[scorecards.Key, list[scorecards.Cell]] = {}
        async for document in self.scorecards.collection.find({"_id": {"$in": ids}}):
            subject, _, bucket = document["_id"].rpartition(":")
            found[subject, bucket] = list(scorecards.read_cells([document["cells"]]))
        return found

    async def load_targets(self, org_unit_ids: Collection[str], from_day: date, until_day: date) -> dict[str, list[Target]]:
        """Returns the targets of org units for the months of a period, by month. An org unit without targets is absent."""
        query = {"org_unit_id": {"$in": sorted(org_unit_ids)}, "month": {"$in": scorecards.months(from_day, until_day)}}
        limit = TARGETS_PER_ORG_UNIT_MAX * len(org_unit_ids)
        found: dict[str, list[Target]] = {}
        async for document in self.targets.collection.find(query).sort([("month", 1), ("_id", 1)]).limit(limit):
            found.setdefault(document["org_unit_id"], []).append(codec.to_struct(document, Target))
        return found

    async def set_target(self, uow: UnitOfWork, target: Target) -> MessageDocument:
        """Inserts a target, or replaces the one with its id."""
        table = self.targets.unscoped
        existing = await table.collection.find_one({"_id": target.id}, {"version": 1}, session=uow.session)
        if existing is None:
            return await table.insert(uow, target)
        return await table.replace(uow, replace(target, version=existing["version"]))

    async def recount(self) -> dict[tuple[str, str], scorecards.Cells]:
        """Returns the counters that the stored credits imply, for a proof or a repair. Reads every credit."""
        documents = self.credits.collection.find({}, batch_size=READ_BATCH_SIZE)
        return scorecards.count_cells([codec.to_struct(document, Credit) async for document in documents])

    async def load_counters(self) -> dict[tuple[str, str], scorecards.Cells]:
        """Returns the stored counters."""
        found = {}
        async for document in self.scorecards.collection.find({}):
            subject, _, bucket = document["_id"].rpartition(":")
            found[subject, bucket] = scorecards.flatten(document["cells"])
        return found


def _order(summary: events_pb2.OrderSummary) -> Order:
    lines = [Line(line.brand_id, line.quantity, line.paid.minor) for line in summary.lines]
    paid_at: datetime = summary.paid_at.ToDatetime(tzinfo=UTC)
    return Order(
        id=summary.order_id,
        store_id=summary.store_id,
        touchpoint=Touchpoint.Name(summary.touchpoint),
        scenario=Scenario.Name(summary.scenario),
        paid_at=paid_at,
        currency=summary.lines[0].paid.currency if lines else "",
        lines=lines,
    )
