"""Credits, counter documents, targets, and the views of bindings and messages that attribution looks at.

`scorecards` holds the counter documents: {_id: "<subject>:<bucket>", cells} (see scorecards.py). `binding_view` and `outreach_view`
are copies of what member tells, under the id it was told with: {_id: "<consumer>:<brand>", …} and {_id: "<consumer>:<brand>:<staff>", …}.
They are looked up under all ids of a person.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace
from pymongo import ASCENDING, DESCENDING, IndexModel, UpdateOne

from quanyu.common.v1.touch_pb2 import Scenario, Touchpoint
from quanyu.events.v1 import events_pb2
from quanyu.organization.v1 import targets_pb2
from services.kit.enums import ScopeKind
from services.kit.errors import NotFound
from services.kit.events.inbox import Happened
from services.kit.mongo import codec
from services.kit.mongo.client import Document, Session, Shaped
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.projections.persons import Person, PersonProjection
from services.kit.runtime.runtime import Runtime
from services.kit.security.authorization import caller
from services.kit.transactions.unit_of_work import UnitOfWork
from services.organization.chart.enums import Reason
from services.organization.chart.repository import ChartRepository, Overseen
from services.organization.chart.rules import unit_of_store
from services.organization.targets import rules, scorecards
from services.organization.targets.rules import Binding, Credit, Line, Order, Reached, Seller, Target

S = TypeVar("S", bound=Struct)
ORDERS_MAX = 500
TARGETS_MAX = 13 * 8


class TargetRepository:
    """What units are meant to sell and what they sold."""

    def __init__(self, runtime: Runtime, chart: ChartRepository, persons: PersonProjection) -> None:
        database, self.chart, self.persons = runtime.database, chart, persons
        self.database = database
        latest = [("paid_at", DESCENDING), ("_id", ASCENDING)]
        self.credits = Overseen(
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
        self.bindings = ScopedCollection(database, "binding_view", noun="BINDING", struct=Binding, scopes={})
        self.outreach = ScopedCollection(database, "outreach_view", noun="OUTREACH", struct=Reached, scopes={})
        self.tables: Sequence[ScopedCollection[Any]] = (self.credits, self.targets, self.scorecards, self.bindings, self.outreach)

    # Counting --------------------------------------------------------------------------------------------------------

    async def orders_paid(self, happened: Sequence[Happened]) -> None:
        """Counts orders and credits each to its store and, where she is bound to one, to a guide."""
        session = happened[0][0].session
        summaries = [event.order_paid.order for _, event in happened]
        credits = await self._fresh(summaries, session)
        persons = await self.persons.behind((summary.consumer_id for summary in summaries), session)
        buyers = {summary.order_id: persons[summary.consumer_id] for summary in summaries}
        brands: dict[Person, set[str]] = defaultdict(set)
        for credit in credits:
            brands[buyers[credit.id]].update([credit.brand_id, *(share.brand_id for share in credit.brands)])
        bound = await self.bound(brands, session)
        wrote = await self._wrote(bound, session)
        decided = []
        for credit in credits:
            decision = rules.attribute(credit, bound[buyers[credit.id]], wrote[buyers[credit.id]])
            decided.append(replace(credit, **decision._asdict()) if decision else credit)
        await self._count(decided, session)

    async def orders_imported(self, happened: Sequence[Happened]) -> None:
        """Counts orders from before this installation: credited to their stores, to no guide."""
        session = happened[0][0].session
        orders = [order for _, event in happened for order in event.orders_imported.orders]
        await self._count(await self._fresh(orders, session), session)

    async def _fresh(self, summaries: Sequence[events_pb2.OrderSummary], session: Session) -> list[Credit]:
        """Orders as they count; those that are counted already are left out. `NotFound` for a store the chart does not know."""
        collection = self.credits.collection
        known = collection.find({"_id": {"$in": [one.order_id for one in summaries]}}, {"_id": 1}, session=session)
        counted = {row["_id"] async for row in known}
        orders = {one.order_id: _order(one) for one in summaries if one.order_id not in counted}
        sellers = await self._sellers({order.store_id for order in orders.values()}, session)
        zones = await self._zones({line.brand_id for order in orders.values() for line in order.lines}, session)
        return [rules.count(order, sellers[order.store_id], zones) for order in orders.values()]

    async def _sellers(self, store_ids: Iterable[str], session: Session) -> Mapping[str, Seller]:
        ids = [unit_of_store(id) for id in store_ids]
        if not ids:
            return {}
        units = await self.chart.org_units.collection.find(
            {"_id": {"$in": ids}}, {"brand_id": 1, "org_unit_ids": 1, "store_id": 1}, session=session
        ).to_list(len(ids))
        if missing := set(store_ids) - {unit["store_id"] for unit in units}:
            raise NotFound(Reason.STORE_NOT_FOUND, "the chart knows no such store", store_id=min(missing))
        zones = await self._zones({unit["brand_id"] for unit in units}, session)
        return {unit["store_id"]: Seller(unit["brand_id"], tuple(unit["org_unit_ids"]), zones[unit["brand_id"]]) for unit in units}

    async def _zones(self, brand_ids: Iterable[str], session: Session) -> dict[str, str]:
        rows = self.chart.brands.collection.find({"_id": {"$in": list(brand_ids)}}, {"zone": 1}, session=session)
        return {row["_id"]: row["zone"] async for row in rows}

    async def _count(self, credits: Sequence[Credit], session: Session) -> None:
        """Keeps the rows and adds them to every counter document they concern, each document once."""
        if not credits:
            return
        await self.credits.collection.insert_many(codec.as_documents(credits), ordered=False, session=session)
        counted = {f"{subject}:{bucket}": cells for (subject, bucket), cells in scorecards.counters(credits).items()}
        collection, ids = self.scorecards.collection, list(counted)
        rows = await collection.find({"_id": {"$in": ids}}, {"_id": 1}, session=session).batch_size(len(ids)).to_list(None)
        standing = {row["_id"] for row in rows}
        # Not upserts: they cost the server four times what inserts do, and in an import most documents are new.
        if fresh := [{"_id": id} | scorecards.nested(cells) for id, cells in counted.items() if id not in standing]:
            await collection.insert_many(fresh, ordered=False, session=session)
        if grown := [UpdateOne({"_id": id}, {"$inc": counted[id]}) for id in standing]:
            await collection.bulk_write(grown, ordered=False, session=session)

    # Credits ---------------------------------------------------------------------------------------------------------

    async def shown(self, found: Sequence[Shaped]) -> list[Shaped]:
        """Credits that were found in scope, as the caller may see them: whole by the store and its tenant, else the own brand's part."""
        who = caller()
        partial = {
            row["id"]
            for row in found
            if not who.reaches(ScopeKind.STORE, row["store_id"]) and not who.reaches(ScopeKind.BRAND, row["brand_id"])
        }
        if not partial:
            return list(found)
        rows = await self.credits.collection.find({"_id": {"$in": sorted(partial)}}).to_list(len(partial))
        parts = {row["_id"]: codec.as_document(rules.part_of(codec.as_struct(row, Credit))) for row in rows}
        return [self.credits.answer(parts[row["id"]]) if row["id"] in parts else row for row in found]

    # Bindings and messages -------------------------------------------------------------------------------------------

    async def bind(self, uow: UnitOfWork, bound: events_pb2.ConsumerBound) -> None:
        """Keeps whom a consumer is bound to for a brand (an empty guide: nobody any more), and that bindings of other ids ended with it.

        Events come in order for one consumer id only; what another id's event says of a binding gives way to a later word.
        """
        since = bound.bound_at.ToDatetime(tzinfo=UTC) if bound.HasField("bound_at") else uow.at
        writes = []
        for consumer_id in (bound.consumer_id, *bound.ended_consumer_ids):
            row = {"_id": f"{consumer_id}:{bound.brand_id}", "consumer_id": consumer_id, "brand_id": bound.brand_id, "told_at": uow.at}
            if consumer_id == bound.consumer_id and bound.staff_id:
                row |= {"staff_id": bound.staff_id, "store_id": bound.store_id, "bound_at": since}
            newest = {"$cond": [{"$gt": ["$told_at", uow.at]}, "$$ROOT", {"$literal": row}]}
            writes.append(UpdateOne({"_id": row["_id"]}, [{"$replaceWith": newest}], upsert=True))
        await self.bindings.collection.bulk_write(writes, session=uow.session)

    async def wrote(self, uow: UnitOfWork, sent: events_pb2.OutreachSent) -> None:
        """Keeps the last message of a guide to a consumer for a brand."""
        row = {
            "consumer_id": sent.consumer_id,
            "brand_id": sent.brand_id,
            "staff_id": sent.staff_id,
            "outreach_id": sent.outreach_id,
            "at": uow.at,
        }
        id = f"{sent.consumer_id}:{sent.brand_id}:{sent.staff_id}"
        await self.outreach.collection.replace_one({"_id": id}, row, upsert=True, session=uow.session)

    async def bound(self, brands: Mapping[Person, Collection[str]], session: Session) -> dict[Person, list[Binding]]:
        """The bindings of persons for brands, under all of their ids."""
        owners = {f"{id}:{brand_id}": person for person, all_brands in brands.items() for id in person.ids for brand_id in all_brands}
        return await self._viewed(self.bindings, owners, brands, session)

    async def acquainted(self, consumer_ids: Collection[str], staff_ids: Collection[str]) -> set[str]:
        """Those of these staff to whom one of these consumers is bound, or who wrote to one."""
        # Both views' ids begin with "<consumer>:", and ";" is what follows ":".
        of_consumers = [{"_id": {"$gte": f"{id}:", "$lt": f"{id};"}} for id in consumer_ids]
        query: Document = {"$or": of_consumers, "staff_id": {"$in": sorted(staff_ids)}}
        return {row["staff_id"] for view in (self.bindings, self.outreach) async for row in view.collection.find(query, {"staff_id": 1})}

    async def _wrote(self, bound: Mapping[Person, Sequence[Binding]], session: Session) -> dict[Person, list[Reached]]:
        """The last messages to persons, under any of their ids, from the guides they are bound to."""
        owners = {
            f"{id}:{one.brand_id}:{one.staff_id}": person for person, bindings in bound.items() for one in bindings for id in person.ids
        }
        return await self._viewed(self.outreach, owners, bound, session)

    @staticmethod
    async def _viewed(
        view: ScopedCollection[S], owners: Mapping[str, Person], persons: Iterable[Person], session: Session
    ) -> dict[Person, list[S]]:
        """The rows of a view by whose they are; those of consumers who are bound to nobody any more, without a guide, left out."""
        found: dict[Person, list[S]] = {person: [] for person in persons}
        if owners:
            query = {"_id": {"$in": list(owners)}, "staff_id": {"$exists": True}}
            async for row in view.collection.find(query, session=session):
                found[owners[row["_id"]]].append(codec.as_struct(row, view.struct))
        return found

    # Scorecards ------------------------------------------------------------------------------------------------------

    async def cells(self, keys: Iterable[scorecards.Key]) -> dict[scorecards.Key, list[scorecards.Cell]]:
        """The cells of counter documents; those without orders are absent."""
        ids = sorted({f"{subject}:{bucket}" for subject, bucket in keys})
        found: dict[scorecards.Key, list[scorecards.Cell]] = {}
        async for row in self.scorecards.collection.find({"_id": {"$in": ids}}):
            subject, _, bucket = row["_id"].rpartition(":")
            found[subject, bucket] = list(scorecards.cells([row["cells"]]))
        return found

    async def targets_of(self, org_unit_ids: Collection[str], from_day: date, until_day: date) -> dict[str, list[Target]]:
        """The targets of units for the months a period touches, by month; units without any are absent."""
        query = {"org_unit_id": {"$in": sorted(org_unit_ids)}, "month": {"$in": scorecards.months(from_day, until_day)}}
        rows = self.targets.collection.find(query).sort([("month", 1), ("_id", 1)]).limit(TARGETS_MAX * len(org_unit_ids))
        found: dict[str, list[Target]] = {}
        async for row in rows:
            found.setdefault(row["org_unit_id"], []).append(codec.as_struct(row, Target))
        return found

    async def set_target(self, uow: UnitOfWork, target: Target) -> Shaped:
        """Writes a target anew or over the one before."""
        table = self.targets.unscoped
        row = await table.collection.find_one({"_id": target.id}, {"version": 1}, session=uow.session)
        if row is None:
            return await table.insert(uow, target)
        return await table.replace(uow, replace(target, version=row["version"]))

    async def recounted(self) -> dict[tuple[str, str], scorecards.Cells]:
        """The counter documents as the kept credits imply them, for a proof or a repair; reads every credit."""
        rows = self.credits.collection.find({}, batch_size=ORDERS_MAX)
        return scorecards.counters([codec.as_struct(row, Credit) async for row in rows])

    async def stored(self) -> dict[tuple[str, str], scorecards.Cells]:
        """The counter documents as they are."""
        found = {}
        async for row in self.scorecards.collection.find({}):
            subject, _, bucket = row["_id"].rpartition(":")
            found[subject, bucket] = scorecards.paths(row["cells"])
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
