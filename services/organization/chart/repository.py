"""Repository of the chart: the collections of tenants, org units, stores, staff and grants, and bulk writes for imports."""

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
from services.kit.security.caller import Reach, current_caller
from services.kit.transactions.unit_of_work import UnitOfWork
from services.organization.chart.enums import Reason
from services.organization.chart.people import Grant, Scope, Staff
from services.organization.chart.rules import ROWS_MAX, SUBTREE_MAX, Brand, OrgUnit, Store, StoreChanged

S = TypeVar("S", bound=Struct)
Entity = TypeVar("Entity", Brand, OrgUnit, Store, Staff, Grant)
GRANTS_PER_PERSON_MAX = 1_000
"""At most this many grants of a person are read, ended ones included."""


class StaffScopedCollection(ScopedCollection[S]):
    """Collection of documents that belong to one member of staff in a store, such as tasks and credits.

    A guide sees only their own documents; managers of the store and roles above the store see all of them. A guide's grant for a
    store is therefore removed from the scope, unless the guide has another role for that store.
    """

    def caller_reach(self) -> Reach:
        current = current_caller()
        managed = {grant.id for grant in current.grants if grant.kind == ScopeKind.STORE and grant.role != Role.GUIDE}
        guided = {grant.id for grant in current.grants if grant.kind == ScopeKind.STORE and grant.role == Role.GUIDE} - managed
        return {**current.reach, ScopeKind.STORE: current.reach.get(ScopeKind.STORE, frozenset()) - guided}


class ChartRepository:
    """The collections of the chart, with the reads and bulk writes that the service needs."""

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
        self.collections: Sequence[ScopedCollection[Any]] = (self.brands, self.org_units, self.stores, self.staff, self.grants)

    # reading ---------------------------------------------------------------------------------------------------------

    async def require_free_id(self, table: ScopedCollection[Entity], id: str, reason: Reason, session: Session) -> None:
        """Raises `Conflict` with this reason if a document has the id, within the caller's scope or not."""
        if await table.collection.find_one({"_id": id}, {"_id": 1}, session=session):
            raise Conflict(reason, "This id is in use. Choose another id.", id=id)

    async def load_by_ids(
        self, table: ScopedCollection[Entity], ids: Iterable[str], session: Session, *, scoped: bool = False
    ) -> dict[str, Entity]:
        """Returns the existing documents of these ids, by id; with `scoped`, only those that the caller may write."""
        query: Document = {"_id": {"$in": sorted(set(ids))}}
        found = table.collection.find(table.restrict(query, writing=True) if scoped else query, session=session)
        return {document["_id"]: codec.to_struct(document, table.struct) for document in await found.to_list(2 * ROWS_MAX)}

    async def load_subtree(self, org_unit_id: str, session: Session) -> list[OrgUnit]:
        """Returns an org unit and all below it, at most `SUBTREE_MAX` + 1."""
        documents = await self.org_units.collection.find({"org_unit_ids": org_unit_id}, session=session).to_list(SUBTREE_MAX + 1)
        return [codec.to_struct(document, OrgUnit) for document in documents]

    async def load_path(self, store: Store, session: Session) -> tuple[str, ...]:
        """Returns the path of a store: the org units from the root to its own."""
        return (await self.org_units.unscoped.load(store.org_unit_id, session=session)).org_unit_ids

    async def load_grants(self, staff_ids: Iterable[str], session: Session = None) -> list[Grant]:
        """Returns all grants of these people, ended ones included."""
        found = self.grants.collection.find({"staff_id": {"$in": sorted(set(staff_ids))}}, session=session)
        return [codec.to_struct(document, Grant) for document in await found.to_list(GRANTS_PER_PERSON_MAX * ROWS_MAX)]

    async def find_by_subjects(self, hashes: Iterable[str], session: Session = None) -> list[Staff]:
        """Returns the staff whose sign-in subject has one of these hashes."""
        found = self.staff.collection.find({"subject_hash": {"$in": sorted(set(hashes))}}, session=session)
        return [codec.to_struct(document, Staff) for document in await found.to_list(2 * ROWS_MAX)]

    # writing ---------------------------------------------------------------------------------------------------------

    async def lock_trees(self, brand_ids: Iterable[str], session: Session) -> None:
        """Makes concurrent changes of one tree conflict, by writing its tenant's document. The later transaction is retried.

        A change reads paths of one part of the tree and writes those of another, so the org units alone would not conflict.
        """
        await self.brands.collection.update_many({"_id": {"$in": sorted(set(brand_ids))}}, {"$inc": {"tree_changes": 1}}, session=session)

    async def save(self, table: ScopedCollection[Entity], changes: Sequence[tuple[Entity | None, Entity]], session: Session) -> None:
        """Inserts or replaces documents, given as (before, after) pairs. The caller has checked the scope."""
        operations: list[InsertOne[Document] | UpdateOne] = []
        for before, after in changes:
            if before == after:
                continue
            document = codec.to_document(after)
            if before is None:
                operations.append(InsertOne(document))
                continue
            removed = codec.to_document(before).keys() - document.keys()
            document["version"] = before.version + 1
            update = {"$set": document} | ({"$unset": dict.fromkeys(removed, "")} if removed else {})
            operations.append(UpdateOne({"_id": document.pop("_id")}, update))
        if operations:
            await table.collection.bulk_write(operations, ordered=False, session=session)

    async def publish_store_changes(self, uow: UnitOfWork, changes: Iterable[StoreChanged]) -> None:
        """Publishes changes of stores, and applies them to this service's own scope projection."""
        for change in changes:
            uow.publish(change)
            event = events_pb2.StoreChanged(store_id=change.store_id, brand_id=change.brand_id, org_unit_ids=change.org_unit_ids)
            await self.scopes.save(uow.session, event)

    async def load_scope(self, kind: ScopeKind, id: str, session: Session) -> Scope:
        """Returns the scope of a grant with its path and tenant. `NotFound` if it is outside the caller's scope."""
        if kind is ScopeKind.STORE:
            store = await self.stores.load(id, session=session, writing=True)
            return Scope(kind, id, await self.load_path(store, session), store.brand_id)
        if kind is ScopeKind.ORG_UNIT:
            org_unit = await self.org_units.load(id, session=session, writing=True)
            return Scope(kind, id, org_unit.org_unit_ids, org_unit.brand_id)
        if kind is ScopeKind.BRAND:
            return Scope(kind, id, (), (await self.brands.load(id, session=session, writing=True)).id)
        return Scope(kind, id)
