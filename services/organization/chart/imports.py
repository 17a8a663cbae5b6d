"""Mixin of ChartServicer: imports of up to 500 brands, stores or staff.

Each row is accepted or rejected on its own. Repeating an import changes nothing.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from quanyu.organization.v1 import chart_pb2
from services.kit import ids
from services.kit.enums import Role, ScopeKind
from services.kit.errors import Conflict, Invalid, NotFound, Refusal
from services.kit.mongo.codec import request_fields, to_struct
from services.kit.transactions.unit_of_work import UnitOfWork, transactional
from services.organization.chart import people, rules
from services.organization.chart.enums import Reason
from services.organization.chart.people import SCOPE_KIND_OF_ROLE, Grant, Scope, Staff, StaffDraft, Workplace
from services.organization.chart.people_rpc import PeopleMixin, caller_roles
from services.organization.chart.rules import ROWS_MAX, Brand, BrandDraft, OrgUnit, Store, StoreChanged, StoreDraft

Row = TypeVar("Row")
Applied = TypeVar("Applied")


def invalidates_scope_cache(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Decorates an rpc that changes scopes: this process reads scopes again at once, other replicas when their cache expires."""

    @wraps(method)
    async def call(self: Any, request: Any, context: Any) -> Any:
        try:
            return await method(self, request, context)
        finally:
            self.scopes.evict()

    return call


def apply_rows(
    rows: Sequence[Row], id_of: Callable[[Row], str], apply: Callable[[Row], Applied]
) -> tuple[list[Applied], list[chart_pb2.Reject]]:
    """Returns the result of `apply` for each accepted row, and the rejected rows with their reasons. A repeated id is rejected."""
    if len(rows) > ROWS_MAX:
        raise Invalid(Reason.TOO_MANY_ROWS, f"The import has more than {ROWS_MAX} rows. Split it.", field="rows")
    applied, rejects = [], []
    repeated = rules.find_repeated(id_of(row) for row in rows)
    for index, row in enumerate(rows):
        try:
            if index in repeated:
                raise Conflict(Reason.DUPLICATE_ROW, "An earlier row has this id. Remove one of the rows.")
            applied.append(apply(row))
        except Refusal as refusal:
            message = _describe(refusal)
            rejects.append(chart_pb2.Reject(index=index, row_id=id_of(row)[:100], reason=refusal.reason, message=message))
    return applied, rejects


def _describe(refusal: Refusal) -> str:
    """Returns the message of a refusal; the name of its field precedes it, unless the message contains it."""
    field = refusal.metadata.get("field", "")
    is_named = not field or field.rpartition(".")[2].replace("_", " ") in refusal.message
    return refusal.message if is_named else f"{field}: {refusal.message}"


class ImportedStore(Struct, frozen=True):
    """A store and its org unit, before and after the import."""

    before: tuple[Store, OrgUnit] | None
    after: tuple[Store, OrgUnit]

    def event(self) -> StoreChanged | None:
        """Returns the event for other services; None if nothing changed for them."""
        event = rules.store_changed_event(self.after[0], self.after[1].org_unit_ids)
        if self.before and rules.store_changed_event(self.before[0], self.before[1].org_unit_ids) == event:
            return None
        return event


class ImportedStaff(Struct, frozen=True):
    """A person before and after the import, the grants that end as (before, after), and the new grant."""

    before: Staff | None
    after: Staff
    ended: list[tuple[Grant, Grant]]
    granted: Grant | None


class StaffReferences(Struct, frozen=True):
    """The documents that the rows of one staff import refer to. `subjects` maps each sign-in subject to its staff id."""

    stores: Mapping[str, Store]
    org_units: Mapping[str, OrgUnit]
    paths: Mapping[str, tuple[str, ...]]
    staff: Mapping[str, Staff]
    subjects: dict[str, str]
    grants: Mapping[str, list[Grant]]


class ImportsMixin(PeopleMixin):
    """The import rpcs of `ChartService`."""

    @transactional
    async def ImportBrands(self, request: chart_pb2.ImportBrandsRequest, uow: UnitOfWork) -> chart_pb2.ImportBrandsResponse:
        existing = await self.chart.load_by_ids(self.chart.brands, [row.brand_id for row in request.rows], uow.session)
        root_ids = [brand.headquarters_org_unit_id for brand in existing.values()]
        roots = await self.chart.load_by_ids(self.chart.org_units, root_ids, uow.session)

        def apply(row: chart_pb2.BrandRow) -> tuple[Brand, OrgUnit]:
            brand, root = rules.create_brand(row.brand_id, to_struct(request_fields(row) | {"brand_id": row.brand_id}, BrandDraft))
            if before := existing.get(brand.id):
                root_before = roots[before.headquarters_org_unit_id]
                return replace(brand, version=before.version), replace(root_before, name=brand.name)
            return brand, root

        imported, rejects = apply_rows(request.rows, lambda row: row.brand_id, apply)
        await self.chart.save(self.chart.brands, [(existing.get(brand.id), brand) for brand, _ in imported], uow.session)
        await self.chart.save(self.chart.org_units, [(roots.get(root.id), root) for _, root in imported], uow.session)
        return chart_pb2.ImportBrandsResponse(accepted=len(imported), rejects=rejects)

    @invalidates_scope_cache
    @transactional
    async def ImportStores(self, request: chart_pb2.ImportStoresRequest, uow: UnitOfWork) -> chart_pb2.ImportStoresResponse:
        session = uow.session
        parents = await self.chart.load_by_ids(self.chart.org_units, [row.parent_id for row in request.rows], session, scoped=True)
        await self.chart.lock_trees((parent.brand_id for parent in parents.values()), session)
        brands = await self.chart.load_by_ids(self.chart.brands, {parent.brand_id for parent in parents.values()}, session)
        stores = await self.chart.load_by_ids(self.chart.stores, [row.store_id for row in request.rows], session)
        org_units = await self.chart.load_by_ids(self.chart.org_units, [store.org_unit_id for store in stores.values()], session)

        def apply(row: chart_pb2.StoreRow) -> ImportedStore:
            draft = to_struct(request_fields(row) | {"store_id": row.store_id}, StoreDraft)
            parent = parents.get(row.parent_id)
            if parent is None:
                message = "No such org unit, or you may not change it. Check `parentId`."
                raise NotFound(Reason.ORG_UNIT_NOT_FOUND, message, field="parent_id")
            zone = brands[parent.brand_id].zone
            if (store := stores.get(row.store_id)) is None:
                return ImportedStore(None, rules.create_store(row.store_id, draft, parent, zone))
            before = (store, org_units[store.org_unit_id])
            return ImportedStore(before, rules.overwrite_store(*before, draft, parent, zone))

        imported, rejects = apply_rows(request.rows, lambda row: row.store_id, apply)
        await self.chart.save(self.chart.stores, [(row.before and row.before[0], row.after[0]) for row in imported], session)
        await self.chart.save(self.chart.org_units, [(row.before and row.before[1], row.after[1]) for row in imported], session)
        await self.chart.publish_store_changes(uow, [event for row in imported if (event := row.event())])
        return chart_pb2.ImportStoresResponse(accepted=len(imported), rejects=rejects)

    @transactional
    async def ImportStaff(self, request: chart_pb2.ImportStaffRequest, uow: UnitOfWork) -> chart_pb2.ImportStaffResponse:
        references = await self._load_references(request, uow)
        imported, rejects = apply_rows(request.rows, lambda row: row.staff_id, lambda row: self._import_staff(row, references, uow))
        await self.chart.save(self.chart.staff, [(row.before, row.after) for row in imported], uow.session)
        grants: list[tuple[Grant | None, Grant]] = [change for row in imported for change in row.ended]
        grants += [(None, row.granted) for row in imported if row.granted]
        await self.chart.save(self.chart.grants, grants, uow.session)
        events = [(row.before and people.staff_changed_event(row.before), people.staff_changed_event(row.after)) for row in imported]
        uow.publish(*(after for before, after in events if before != after))
        return chart_pb2.ImportStaffResponse(accepted=len(imported), rejects=rejects)

    async def _load_references(self, request: chart_pb2.ImportStaffRequest, uow: UnitOfWork) -> StaffReferences:
        chart, session, rows = self.chart, uow.session, request.rows
        stores = await chart.load_by_ids(chart.stores, [row.store_id for row in rows], session, scoped=True)
        org_units = await chart.load_by_ids(chart.org_units, [row.org_unit_id for row in rows], session, scoped=True)
        store_org_units = await chart.load_by_ids(chart.org_units, [store.org_unit_id for store in stores.values()], session)
        staff = await chart.load_by_ids(chart.staff, [row.staff_id for row in rows], session)
        grants: dict[str, list[Grant]] = {}
        for grant in await chart.load_grants(staff, session):
            grants.setdefault(grant.staff_id, []).append(grant)
        hashes = {hash: row.subject for row in rows if row.subject for hash in self.encryption.hash_with_all_keys("subject", row.subject)}
        subjects = {hashes[person.subject_hash or ""]: person.id for person in await chart.find_by_subjects(hashes, session)}
        paths = {org_unit.id: org_unit.org_unit_ids for org_unit in store_org_units.values()}
        return StaffReferences(stores=stores, org_units=org_units, paths=paths, staff=staff, subjects=subjects, grants=grants)

    def _import_staff(self, row: chart_pb2.StaffRow, references: StaffReferences, uow: UnitOfWork) -> ImportedStaff:
        workplace, path = _find_workplace(row, references)
        before = references.staff.get(row.staff_id)
        if row.subject and references.subjects.get(row.subject, row.staff_id) != row.staff_id:
            raise people.subject_in_use()
        new = self._new_staff(row.staff_id, to_struct(request_fields(row) | {"staff_id": row.staff_id}, StaffDraft))
        grants, ended = references.grants.get(row.staff_id, []), list[tuple[Grant, Grant]]()
        if before is None:
            after = people.assign(new, workplace)
        else:
            moved, events = people.move(before, workplace)
            has_same_name = self.encryption.decrypt(before.name) == row.name
            has_same_subject = bool(row.subject) and before.subject_hash in self.encryption.hash_with_all_keys("subject", row.subject)
            after = replace(
                moved,
                title=new.title,
                name=before.name if has_same_name else new.name,
                subject_hash=before.subject_hash if has_same_subject else new.subject_hash,
            )
            workplace_before = Workplace(before.brand_id, before.org_unit_id, before.store_id)
            former = people.select_at_workplace(grants, workplace_before) if events else []
            ended_grants = {grant.id: grant for grant in people.end_grants(former, uow.at)}
            ended = [(grant, ended_grants[grant.id]) for grant in former if grant.id in ended_grants]
            grants = [ended_grants.get(grant.id, grant) for grant in grants]
        granted = _build_grant(row, after, path, grants, uow)
        if row.subject:
            references.subjects[row.subject] = row.staff_id
        return ImportedStaff(before=before, after=after, ended=ended, granted=granted)


def _find_workplace(row: chart_pb2.StaffRow, references: StaffReferences) -> tuple[Workplace, tuple[str, ...]]:
    """Returns the workplace of a row and its path. `NotFound` if it is outside the caller's scope."""
    match row.WhichOneof("place"):
        case "store_id":
            if store := references.stores.get(row.store_id):
                return people.store_workplace(store), references.paths[store.org_unit_id]
            message = "No such store, or you may not change it. Check `storeId`."
            raise NotFound(Reason.STORE_NOT_FOUND, message, field="store_id")
        case "org_unit_id":
            if org_unit := references.org_units.get(row.org_unit_id):
                return people.org_unit_workplace(org_unit), org_unit.org_unit_ids
            message = "No such org unit, or you may not change it. Check `orgUnitId`."
            raise NotFound(Reason.ORG_UNIT_NOT_FOUND, message, field="org_unit_id")
    raise people.missing_workplace()


def _build_grant(row: chart_pb2.StaffRow, staff: Staff, path: tuple[str, ...], existing: Sequence[Grant], uow: UnitOfWork) -> Grant | None:
    """Returns the grant of a row's role at its workplace; None if the row has no role, or the person has it already."""
    if not row.role:
        return None
    role = Role(request_fields(row)["role"])
    scope_ids = {ScopeKind.STORE: staff.store_id, ScopeKind.ORG_UNIT: staff.org_unit_id, ScopeKind.BRAND: staff.brand_id}
    kind = SCOPE_KIND_OF_ROLE.get(role, ScopeKind.STAFF)
    if not (scope_id := scope_ids.get(kind)):
        message = "This role is not granted at this workplace. Choose another role or workplace."
        raise Invalid(Reason.ROLE_NOT_GRANTABLE, message, field="role")
    scope = Scope(kind, scope_id, () if kind is ScopeKind.BRAND else path, staff.brand_id)
    try:
        return people.grant_role(ids.new("grt"), staff, role, scope, caller_roles(), existing, uow.at)
    except Conflict as refusal:
        if refusal.reason == Reason.GRANT_EXISTS:
            return None
        raise
