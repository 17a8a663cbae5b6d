"""Bulk: up to 500 brands, stores or staff in one call, each row taken or rejected for itself, and harmless to repeat."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from quanyu.organization.v1 import chart_pb2
from services.kit import ids
from services.kit.enums import Role, ScopeKind
from services.kit.errors import Conflict, Invalid, NotFound, Refusal
from services.kit.mongo.codec import as_struct, fields
from services.kit.transactions.unit_of_work import UnitOfWork, transactional
from services.organization.chart import people, rules
from services.organization.chart.enums import Reason
from services.organization.chart.people import SCOPE_OF, Grant, Hiring, Place, Scope, Staff
from services.organization.chart.people_rpc import People, held
from services.organization.chart.rules import ROWS_MAX, Brand, BrandDraft, OrgUnit, Store, StoreChanged, StoreDraft

Row = TypeVar("Row")
Taken = TypeVar("Taken")


def seen_at_once(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Around a write that moves scopes: this process sees its own change at once, other replicas when their cache ends."""

    @wraps(method)
    async def call(self: Any, request: Any, context: Any) -> Any:
        try:
            return await method(self, request, context)
        finally:
            self.scopes.forget()

    return call


def sift(rows: Sequence[Row], id_of: Callable[[Row], str], take: Callable[[Row], Taken]) -> tuple[list[Taken], list[chart_pb2.Reject]]:
    """What `take` makes of each row, and the rows it refused with their reasons. An id that stood before is refused."""
    if len(rows) > ROWS_MAX:
        raise Invalid(Reason.TOO_MANY_ROWS, f"give at most {ROWS_MAX} rows", field="rows")
    taken, rejects = [], []
    repeated = rules.twice(id_of(row) for row in rows)
    for index, row in enumerate(rows):
        try:
            if index in repeated:
                raise Conflict(Reason.DUPLICATE_ROW, "this id stands in an earlier row")
            taken.append(take(row))
        except Refusal as refusal:
            where = refusal.metadata.get("field", "")
            told = not where or where.rpartition(".")[2].replace("_", " ") in refusal.message
            message = refusal.message if told else f"{where}: {refusal.message}"
            rejects.append(chart_pb2.Reject(index=index, row_id=id_of(row)[:100], reason=refusal.reason, message=message))
    return taken, rejects


class StoreRow(Struct, frozen=True):
    """A store and its unit before and after a row."""

    before: tuple[Store, OrgUnit] | None
    after: tuple[Store, OrgUnit]

    def event(self) -> StoreChanged | None:
        """What others hear of it, if anything changed for them."""
        event = rules.told(self.after[0], self.after[1].org_unit_ids)
        if self.before and rules.told(self.before[0], self.before[1].org_unit_ids) == event:
            return None
        return event


class StaffRow(Struct, frozen=True):
    """A person before and after a row, the grants that ended and the one that began."""

    before: Staff | None
    after: Staff
    ended: list[tuple[Grant, Grant]]
    begun: Grant | None


class Known(Struct, frozen=True):
    """What the rows of one import of staff refer to."""

    stores: Mapping[str, Store]
    org_units: Mapping[str, OrgUnit]
    paths: Mapping[str, tuple[str, ...]]
    staff: Mapping[str, Staff]
    subjects: dict[str, str]
    grants: Mapping[str, list[Grant]]


class Imports(People):
    """Mixed into ChartServicer."""

    @transactional
    async def ImportBrands(self, request: chart_pb2.ImportBrandsRequest, uow: UnitOfWork) -> chart_pb2.ImportBrandsResponse:
        standing = await self.chart.those(self.chart.brands, [row.brand_id for row in request.rows], uow.session)
        roots = await self.chart.those(self.chart.org_units, [one.headquarters_org_unit_id for one in standing.values()], uow.session)

        def take(row: chart_pb2.BrandRow) -> tuple[Brand, OrgUnit]:
            brand, root = rules.found_brand(row.brand_id, as_struct(fields(row) | {"brand_id": row.brand_id}, BrandDraft))
            if before := standing.get(brand.id):
                stood = roots[before.headquarters_org_unit_id]
                return replace(brand, version=before.version), replace(stood, name=brand.name)
            return brand, root

        taken, rejects = sift(request.rows, lambda row: row.brand_id, take)
        await self.chart.save(self.chart.brands, [(standing.get(brand.id), brand) for brand, _ in taken], uow.session)
        await self.chart.save(self.chart.org_units, [(roots.get(root.id), root) for _, root in taken], uow.session)
        return chart_pb2.ImportBrandsResponse(accepted=len(taken), rejects=rejects)

    @seen_at_once
    @transactional
    async def ImportStores(self, request: chart_pb2.ImportStoresRequest, uow: UnitOfWork) -> chart_pb2.ImportStoresResponse:
        session = uow.session
        parents = await self.chart.those(self.chart.org_units, [row.parent_id for row in request.rows], session, scoped=True)
        await self.chart.hold_trees((parent.brand_id for parent in parents.values()), session)
        brands = await self.chart.those(self.chart.brands, {parent.brand_id for parent in parents.values()}, session)
        stores = await self.chart.those(self.chart.stores, [row.store_id for row in request.rows], session)
        own = await self.chart.those(self.chart.org_units, [store.org_unit_id for store in stores.values()], session)

        def take(row: chart_pb2.StoreRow) -> StoreRow:
            draft = as_struct(fields(row) | {"store_id": row.store_id}, StoreDraft)
            parent = parents.get(row.parent_id)
            if parent is None:
                raise NotFound(Reason.ORG_UNIT_NOT_FOUND, "there is no such unit for you", field="parent_id")
            zone = brands[parent.brand_id].zone
            if (store := stores.get(row.store_id)) is None:
                return StoreRow(None, rules.open_store(row.store_id, draft, parent, zone))
            before = (store, own[store.org_unit_id])
            return StoreRow(before, rules.overwrite_store(*before, draft, parent, zone))

        taken, rejects = sift(request.rows, lambda row: row.store_id, take)
        await self.chart.save(self.chart.stores, [(row.before and row.before[0], row.after[0]) for row in taken], session)
        await self.chart.save(self.chart.org_units, [(row.before and row.before[1], row.after[1]) for row in taken], session)
        await self.chart.tell_stores(uow, [event for row in taken if (event := row.event())])
        return chart_pb2.ImportStoresResponse(accepted=len(taken), rejects=rejects)

    @transactional
    async def ImportStaff(self, request: chart_pb2.ImportStaffRequest, uow: UnitOfWork) -> chart_pb2.ImportStaffResponse:
        known = await self._known(request, uow)
        taken, rejects = sift(request.rows, lambda row: row.staff_id, lambda row: self._staff(row, known, uow))
        await self.chart.save(self.chart.staff, [(row.before, row.after) for row in taken], uow.session)
        grants: list[tuple[Grant | None, Grant]] = [change for row in taken for change in row.ended]
        grants += [(None, row.begun) for row in taken if row.begun]
        await self.chart.save(self.chart.grants, grants, uow.session)
        uow.publish(
            *(people.changed(row.after) for row in taken if not row.before or people.changed(row.before) != people.changed(row.after))
        )
        return chart_pb2.ImportStaffResponse(accepted=len(taken), rejects=rejects)

    async def _known(self, request: chart_pb2.ImportStaffRequest, uow: UnitOfWork) -> Known:
        chart, session, rows = self.chart, uow.session, request.rows
        stores = await chart.those(chart.stores, [row.store_id for row in rows], session, scoped=True)
        units = await chart.those(chart.org_units, [row.org_unit_id for row in rows], session, scoped=True)
        of_stores = await chart.those(chart.org_units, [store.org_unit_id for store in stores.values()], session)
        staff = await chart.those(chart.staff, [row.staff_id for row in rows], session)
        grants: dict[str, list[Grant]] = {}
        for grant in await chart.grants_of(staff, session):
            grants.setdefault(grant.staff_id, []).append(grant)
        hashes = {hash: row.subject for row in rows if row.subject for hash in self.encryption.hashes("subject", row.subject)}
        holders = {hashes[one.subject_hash or ""]: one.id for one in await chart.by_subject(hashes, session)}
        paths = {one.id: one.org_unit_ids for one in of_stores.values()}
        return Known(stores=stores, org_units=units, paths=paths, staff=staff, subjects=holders, grants=grants)

    def _staff(self, row: chart_pb2.StaffRow, known: Known, uow: UnitOfWork) -> StaffRow:
        place, path = _where(row, known)
        before = known.staff.get(row.staff_id)
        if row.subject and known.subjects.get(row.subject, row.staff_id) != row.staff_id:
            raise Conflict(Reason.SUBJECT_IN_USE, "somebody else signs in as this subject")
        fresh = self._hired(row.staff_id, as_struct(fields(row) | {"staff_id": row.staff_id}, Hiring))
        grants, ended = known.grants.get(row.staff_id, []), list[tuple[Grant, Grant]]()
        if before is None:
            after = people.settle(fresh, place)
        else:
            moved, events = people.move(before, place)
            same_name = self.encryption.decrypt(before.name) == row.name
            same_subject = bool(row.subject) and before.subject_hash in self.encryption.hashes("subject", row.subject)
            after = replace(
                moved,
                title=fresh.title,
                name=before.name if same_name else fresh.name,
                subject_hash=before.subject_hash if same_subject else fresh.subject_hash,
            )
            former = people.bound_to(grants, Place(before.brand_id, before.org_unit_id, before.store_id)) if events else []
            ends = {grant.id: grant for grant in people.end(former, uow.at)}
            ended = [(grant, ends[grant.id]) for grant in former if grant.id in ends]
            grants = [ends.get(grant.id, grant) for grant in grants]
        begun = _role(row, after, path, grants, uow)
        if row.subject:
            known.subjects[row.subject] = row.staff_id
        return StaffRow(before=before, after=after, ended=ended, begun=begun)


def _where(row: chart_pb2.StaffRow, known: Known) -> tuple[Place, tuple[str, ...]]:
    """Where a row says somebody works, and the path down to it."""
    match row.WhichOneof("place"):
        case "store_id":
            if store := known.stores.get(row.store_id):
                return people.at_store(store), known.paths[store.org_unit_id]
            raise NotFound(Reason.STORE_NOT_FOUND, "there is no such store for you", field="store_id")
        case "org_unit_id":
            if found := known.org_units.get(row.org_unit_id):
                return people.at_unit(found), found.org_unit_ids
            raise NotFound(Reason.ORG_UNIT_NOT_FOUND, "there is no such unit for you", field="org_unit_id")
    raise people.no_place()


def _role(row: chart_pb2.StaffRow, staff: Staff, path: tuple[str, ...], standing: Sequence[Grant], uow: UnitOfWork) -> Grant | None:
    """The grant a row asks for at its place; None when it asks for none or it stands already."""
    if not row.role:
        return None
    role = Role(fields(row)["role"])
    scopes = {ScopeKind.STORE: staff.store_id, ScopeKind.ORG_UNIT: staff.org_unit_id, ScopeKind.BRAND: staff.brand_id}
    kind = SCOPE_OF.get(role, ScopeKind.STAFF)
    if not (scope_id := scopes.get(kind)):
        raise Invalid(Reason.ROLE_NOT_GRANTABLE, "this role is not granted at such a place", field="role")
    scope = Scope(kind, scope_id, () if kind is ScopeKind.BRAND else path, staff.brand_id)
    try:
        return people.grant_role(ids.new("grt"), staff, role, scope, held(), standing, uow.at)
    except Conflict as refusal:
        if refusal.reason == Reason.GRANT_EXISTS:
            return None
        raise
