"""The chart's collections: tenants, units, stores, staff and grants; and writing what was decided about many rows at once."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from msgspec import Struct
from pymongo import ASCENDING, IndexModel, InsertOne, UpdateOne

from quanyu.events.v1 import events_pb2
from quanyu.organization.v1 import chart_pb2
from services.kit.enums import Role, ScopeKind
from services.kit.errors import Conflict
from services.kit.mongo import codec
from services.kit.mongo.client import Document, Session
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.runtime.runtime import Runtime
from services.kit.security.authorization import Reach, caller
from services.kit.transactions.unit_of_work import UnitOfWork
from services.organization.chart.enums import Reason
from services.organization.chart.people import Grant, Scope, Staff
from services.organization.chart.rules import ROWS_MAX, SUBTREE_MAX, Brand, OrgUnit, Store, StoreChanged

S = TypeVar("S", bound=Struct)
Row = TypeVar("Row", Brand, OrgUnit, Store, Staff, Grant)
GRANTS_OF_ONE_MAX = 1_000


class Overseen(ScopedCollection[S]):
    """Rows of one member of staff in one store: she sees her own, whoever runs the store or stands above it sees them all.

    A guide's grant for the store does not reach what others of it do; it is left out unless she runs that store as well.
    """

    def reach(self) -> Reach:
        who = caller()
        run = {grant.id for grant in who.grants if grant.kind == ScopeKind.STORE and grant.role != Role.GUIDE}
        guided = {grant.id for grant in who.grants if grant.kind == ScopeKind.STORE and grant.role == Role.GUIDE} - run
        return {**who.reach, ScopeKind.STORE: who.reach.get(ScopeKind.STORE, frozenset()) - guided}


class ChartRepository:
    """The tables of the chart and what others in this service ask of them."""

    def __init__(self, runtime: Runtime) -> None:
        database, self.scopes = runtime.database, runtime.scopes
        self.database = database
        self.brands = ScopedCollection(
            database, "brands", noun="BRAND", struct=Brand, message=chart_pb2.Brand, scopes={ScopeKind.BRAND: "_id"}, public=True,
        )  # fmt: skip
        self.org_units = ScopedCollection(
            database, "org_units", noun="ORG_UNIT", struct=OrgUnit, message=chart_pb2.OrgUnit,
            scopes={ScopeKind.BRAND: "brand_id", ScopeKind.ORG_UNIT: "org_unit_ids", ScopeKind.STORE: "store_id"},
            indexes=[IndexModel([("org_unit_ids", ASCENDING), ("level", ASCENDING), ("_id", ASCENDING)])],
        )  # fmt: skip
        self.stores = ScopedCollection(
            database, "stores", noun="STORE", struct=Store, message=chart_pb2.Store,
            scopes={ScopeKind.BRAND: "brand_id", ScopeKind.ORG_UNIT: "org_unit_id", ScopeKind.STORE: "_id"}, public=True,
        )  # fmt: skip
        self.staff = ScopedCollection(
            database, "staff", noun="STAFF", struct=Staff, message=chart_pb2.Staff,
            scopes={ScopeKind.BRAND: "brand_id", ScopeKind.ORG_UNIT: "org_unit_id", ScopeKind.STORE: "store_id", ScopeKind.STAFF: "_id"},
            indexes=[
                IndexModel([("store_id", ASCENDING), ("active", ASCENDING), ("_id", ASCENDING)]),
                IndexModel([("subject_hash", ASCENDING)], unique=True, partialFilterExpression={"subject_hash": {"$exists": True}}),
            ],
        )  # fmt: skip
        self.grants = ScopedCollection(
            database, "grants", noun="GRANT", struct=Grant, message=chart_pb2.Grant,
            scopes={
                ScopeKind.BRAND: "brand_id", ScopeKind.STAFF: "staff_id",
                ScopeKind.ORG_UNIT: "scope_id", ScopeKind.STORE: "scope_id", ScopeKind.DISTRICT: "scope_id",
            },
            indexes=[IndexModel([("staff_id", ASCENDING)])],
        )  # fmt: skip
        self.tables: Sequence[ScopedCollection[Any]] = (self.brands, self.org_units, self.stores, self.staff, self.grants)

    # reading ---------------------------------------------------------------------------------------------------------

    async def vacant(self, table: ScopedCollection[Row], id: str, reason: Reason, session: Session) -> None:
        """Refuses an id that is in use, whoever uses it."""
        if await table.collection.find_one({"_id": id}, {"_id": 1}, session=session):
            raise Conflict(reason, "this id is in use", id=id)

    async def those(self, table: ScopedCollection[Row], ids: Iterable[str], session: Session, *, scoped: bool = False) -> dict[str, Row]:
        """The rows of at most a page of an import's ids, as structs; `scoped`: those the caller may write."""
        query: Document = {"_id": {"$in": sorted(set(ids))}}
        found = table.collection.find(table.within(query, writing=True) if scoped else query, session=session)
        return {row["_id"]: codec.as_struct(row, table.struct) for row in await found.to_list(2 * ROWS_MAX)}

    async def subtree(self, org_unit_id: str, session: Session) -> list[OrgUnit]:
        """A unit and all below it; one more than may move at once when there are more."""
        rows = await self.org_units.collection.find({"org_unit_ids": org_unit_id}, session=session).to_list(SUBTREE_MAX + 1)
        return [codec.as_struct(row, OrgUnit) for row in rows]

    async def path(self, store: Store, session: Session) -> tuple[str, ...]:
        """The units above a store and its own."""
        return (await self.org_units.unscoped.load(store.org_unit_id, session=session)).org_unit_ids

    async def grants_of(self, staff_ids: Iterable[str], session: Session = None) -> list[Grant]:
        """Every grant these people ever had."""
        rows = self.grants.collection.find({"staff_id": {"$in": sorted(set(staff_ids))}}, session=session)
        return [codec.as_struct(row, Grant) for row in await rows.to_list(GRANTS_OF_ONE_MAX * ROWS_MAX)]

    async def by_subject(self, hashes: Iterable[str], session: Session = None) -> list[Staff]:
        """Who signs in as one of these."""
        rows = self.staff.collection.find({"subject_hash": {"$in": sorted(set(hashes))}}, session=session)
        return [codec.as_struct(row, Staff) for row in await rows.to_list(2 * ROWS_MAX)]

    # writing ---------------------------------------------------------------------------------------------------------

    async def hold_trees(self, brand_ids: Iterable[str], session: Session) -> None:
        """Of two changes of one tree at once the second conflicts and is decided anew: paths are read here and written there."""
        await self.brands.collection.update_many({"_id": {"$in": sorted(set(brand_ids))}}, {"$inc": {"tree_changes": 1}}, session=session)

    async def save(self, table: ScopedCollection[Row], changes: Sequence[tuple[Row | None, Row]], session: Session) -> None:
        """Writes rows over the ones before them, or anew where there was none. They were justified already."""
        operations: list[InsertOne[Document] | UpdateOne] = []
        for before, after in changes:
            if before == after:
                continue
            document = codec.as_document(after)
            if before is None:
                operations.append(InsertOne(document))
                continue
            gone = codec.as_document(before).keys() - document.keys()
            document["version"] = before.version + 1
            update = {"$set": document} | ({"$unset": dict.fromkeys(gone, "")} if gone else {})
            operations.append(UpdateOne({"_id": document.pop("_id")}, update))
        if operations:
            await table.collection.bulk_write(operations, ordered=False, session=session)

    async def tell_stores(self, uow: UnitOfWork, changes: Iterable[StoreChanged]) -> None:
        """Tells others, and this service's own scopes, where stores stand."""
        for change in changes:
            uow.publish(change)
            event = events_pb2.StoreChanged(store_id=change.store_id, brand_id=change.brand_id, org_unit_ids=change.org_unit_ids)
            await self.scopes.keep(uow.session, event)

    async def scope(self, kind: ScopeKind, id: str, session: Session) -> Scope:
        """What a grant's scope lies in; `NotFound` when the caller does not reach it."""
        if kind is ScopeKind.STORE:
            store = await self.stores.load(id, session=session, writing=True)
            return Scope(kind, id, await self.path(store, session), store.brand_id)
        if kind is ScopeKind.ORG_UNIT:
            unit = await self.org_units.load(id, session=session, writing=True)
            return Scope(kind, id, unit.org_unit_ids, unit.brand_id)
        if kind is ScopeKind.BRAND:
            return Scope(kind, id, (), (await self.brands.load(id, session=session, writing=True)).id)
        return Scope(kind, id)
