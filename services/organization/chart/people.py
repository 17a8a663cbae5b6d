"""Rules of staff: workplaces, roles within scopes, and who may grant a role."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct
from msgspec.structs import replace

from services.kit import ids
from services.kit.enums import Role, ScopeKind
from services.kit.errors import Conflict, Denied, Invalid
from services.kit.values.event import Event
from services.kit.values.validation import VISIBLE_LINE_PATTERN
from services.organization.chart.enums import Reason
from services.organization.chart.rules import OrgUnit, Store

StaffId = Annotated[str, Meta(pattern=ids.pattern("stf"))]
GrantId = Annotated[str, Meta(pattern=ids.pattern("grt"))]
Title = Annotated[str, Meta(max_length=40, pattern=VISIBLE_LINE_PATTERN)]
SUBJECT_LENGTH_MAX = 200
"""A subject of an identity provider has at most this many characters."""
GRANTS_MAX = 200
"""A signed-in person has at most this many grants at a time."""

SCOPE_KIND_OF_ROLE: dict[Role, ScopeKind] = {
    Role.GUIDE: ScopeKind.STORE,
    Role.STORE_MANAGER: ScopeKind.STORE,
    Role.SUPERVISOR: ScopeKind.ORG_UNIT,
    Role.BRAND_OPERATOR: ScopeKind.BRAND,
    Role.DISTRICT_OPERATOR: ScopeKind.DISTRICT,
    Role.OPERATOR: ScopeKind.INSTALLATION,
}
"""The kind of scope that each role is granted for. A person cannot have the role of a service."""
RANK: dict[str, int] = {Role.GUIDE: 1, Role.STORE_MANAGER: 2, Role.SUPERVISOR: 3, Role.BRAND_OPERATOR: 4, Role.SERVICE: 4}
"""The rank of each role in a tenant's tree, lowest first. A role allows granting roles of the same or a lower rank."""
WORKPLACE_ROLES = frozenset(RANK) - {Role.SERVICE}
"""Each of these roles also covers the person's own documents."""


class Staff(Struct, frozen=True, kw_only=True):
    """A member of staff of a tenant. `name` is ciphertext; `subject_hash` is the keyed hash of the sign-in subject."""

    id: StaffId
    brand_id: str = ""
    org_unit_id: str = ""
    store_id: str = ""
    name: bytes = b""
    title: Title = ""
    subject_hash: str | None = None
    active: bool = True
    version: int = 1


class Grant(Struct, frozen=True, kw_only=True):
    """A role of a member of staff within a scope, from `valid_from` until `valid_until`."""

    id: GrantId
    staff_id: StaffId
    brand_id: str = ""
    role: Role
    kind: ScopeKind
    scope_id: str = ""
    valid_from: datetime
    valid_until: datetime | None = None
    version: int = 1


class StaffDraft(Struct, frozen=True, kw_only=True):
    """The requested values of a new member of staff."""

    staff_id: StaffId = ""
    name: Annotated[str, Meta(min_length=1, max_length=80, pattern=VISIBLE_LINE_PATTERN)]
    title: Title = ""
    subject: Annotated[str, Meta(max_length=SUBJECT_LENGTH_MAX)] = ""


class StaffChanged(Event, frozen=True, kw_only=True):
    """The event `StaffChanged`: the workplace of a member of staff, and whether the person still works there."""

    kind = "staff_changed"
    staff_id: str
    brand_id: str
    store_id: str
    active: bool


class GrantDraft(Struct, frozen=True, kw_only=True):
    """The requested values of a new grant."""

    role: Role
    kind: ScopeKind
    scope_id: str = ""
    valid_from: datetime | None = None
    valid_until: datetime | None = None


class Workplace(Struct, frozen=True):
    """The org unit where a person works, and its store if it belongs to one."""

    brand_id: str = ""
    org_unit_id: str = ""
    store_id: str = ""


class HeldRole(NamedTuple):
    """A role within a scope that is in force for a person. `id` is the id of the scope."""

    role: str
    kind: str
    id: str = ""


class Scope(Struct, frozen=True):
    """The scope of a grant. `org_unit_ids` is the path to the org unit or store; `brand_id` is the tenant."""

    kind: ScopeKind
    id: str = ""
    org_unit_ids: tuple[str, ...] = ()
    brand_id: str = ""


def missing_workplace() -> Invalid:
    """Returns the refusal of a request without a store or an org unit."""
    return Invalid(Reason.PLACE_REQUIRED, "The workplace is missing. Set `storeId` or `orgUnitId`.", field="store_id")


def subject_in_use() -> Conflict:
    """Returns the refusal of a sign-in subject that belongs to another person."""
    return Conflict(Reason.SUBJECT_IN_USE, "Another person signs in with this subject. Choose another `subject`, or leave it out.")


def store_workplace(store: Store) -> Workplace:
    """Returns the workplace of the staff of a store."""
    return Workplace(store.brand_id, store.org_unit_id, store.id)


def org_unit_workplace(org_unit: OrgUnit) -> Workplace:
    """Returns the workplace of the staff of an org unit. For the org unit of a store, that is the store."""
    return Workplace(org_unit.brand_id, org_unit.id, org_unit.store_id)


def staff_changed_event(staff: Staff) -> StaffChanged:
    """Returns the event that informs other services about a member of staff."""
    return StaffChanged(staff_id=staff.id, brand_id=staff.brand_id, store_id=staff.store_id, active=staff.active)


def assign(staff: Staff, workplace: Workplace) -> Staff:
    """Returns the person at this workplace."""
    return replace(staff, brand_id=workplace.brand_id, org_unit_id=workplace.org_unit_id, store_id=workplace.store_id)


def move(staff: Staff, workplace: Workplace) -> tuple[Staff, list[StaffChanged]]:
    """Returns the person at another workplace of the same tenant, and the event. At the same workplace nothing changes."""
    # The tenant is compared first: another tenant must not learn that a person has left.
    if staff.brand_id != workplace.brand_id:
        message = "The workplace belongs to another tenant. Choose a store or org unit of the person's tenant."
        raise Conflict(Reason.ORG_UNIT_OF_ANOTHER_BRAND, message, staff_id=staff.id)
    if not staff.active:
        raise _staff_left(staff)
    moved = assign(staff, workplace)
    return (moved, [staff_changed_event(moved)]) if moved != staff else (staff, [])


def _staff_left(staff: Staff) -> Conflict:
    return Conflict(Reason.STAFF_LEFT, "This person no longer works here. Choose a person who is active.", staff_id=staff.id)


def dismiss(staff: Staff) -> tuple[Staff, list[StaffChanged]]:
    """Returns the person after leaving, and the event. The subject of the sign-in becomes free."""
    if not staff.active:
        return staff, []
    left = replace(staff, active=False, subject_hash=None)
    return left, [staff_changed_event(left)]


def is_in_force(grant: Grant, at: datetime) -> bool:
    """True if the grant is valid at this time."""
    return grant.valid_from <= at and (grant.valid_until is None or at < grant.valid_until)


def end_grants(grants: Iterable[Grant], at: datetime) -> list[Grant]:
    """Returns the grants that are valid at `at` or later, ended at `at`. A grant that has not begun ends at its start."""
    return [
        replace(grant, valid_until=max(at, grant.valid_from)) for grant in grants if grant.valid_until is None or grant.valid_until > at
    ]


def select_at_workplace(grants: Iterable[Grant], workplace: Workplace) -> list[Grant]:
    """Returns the grants whose scope is exactly this workplace."""
    return [grant for grant in grants if grant.scope_id and grant.scope_id in (workplace.store_id, workplace.org_unit_id)]


def can_grant(held: Iterable[HeldRole], role: Role, scope: Scope) -> bool:
    """True if a caller with these roles may grant `role` within `scope`: one of them covers it."""
    return any(_covers(one, role, scope) for one in held)


def _covers(held: HeldRole, role: Role, scope: Scope) -> bool:
    if held.kind == ScopeKind.INSTALLATION:
        return held.role in (Role.OPERATOR, Role.SERVICE)
    if role not in RANK or RANK.get(held.role, 0) < RANK[role] or not held.id:
        return False
    if held.kind == ScopeKind.BRAND:
        return held.id == scope.brand_id
    if held.kind == ScopeKind.ORG_UNIT:
        return held.id in scope.org_unit_ids
    return held.kind == ScopeKind.STORE and scope.kind is ScopeKind.STORE and held.id == scope.id


def grant_role(
    id: str, staff: Staff, role: Role, scope: Scope, held: Sequence[HeldRole], existing: Iterable[Grant], at: datetime,
    valid_from: datetime | None = None, valid_until: datetime | None = None,
) -> Grant:  # fmt: skip
    """Returns a new grant for `staff`. `held` are the roles of the granting caller, `existing` the grants of the person.

    Refuses a role of another kind of scope, a role or scope beyond the caller's, a person who left, another tenant's scope, a period
    that ends too early, and a grant that overlaps an existing one.
    """
    if SCOPE_KIND_OF_ROLE.get(role) is not scope.kind:
        message = "This role is not granted for this kind of scope. Choose the kind that belongs to the role."
        raise Invalid(Reason.ROLE_NOT_GRANTABLE, message, field="kind")
    if not can_grant(held, role, scope):
        message = "You have no role that covers this grant. Grant a lower role or a smaller scope, or ask a superior."
        raise Denied(Reason.BEYOND_OWN_REACH, message, role=role)
    if not staff.active:
        raise _staff_left(staff)
    if staff.brand_id and scope.brand_id and scope.brand_id != staff.brand_id:
        message = "The scope is outside the tree of the person's tenant. Choose a scope in that tree."
        raise Conflict(Reason.ORG_UNIT_OF_ANOTHER_BRAND, message, staff_id=staff.id)
    starts_at = valid_from or at
    if valid_until is not None and valid_until <= starts_at:
        message = "`validUntil` is not after `validFrom`. Choose a later time, or leave `validUntil` out."
        raise Invalid(Reason.INVALID_PERIOD, message, field="valid_until")
    if valid_until is not None and valid_until <= at:
        message = "`validUntil` is in the past. Choose a later time, or leave `validUntil` out."
        raise Invalid(Reason.INVALID_PERIOD, message, field="valid_until")
    for other in existing:
        if (other.role, other.kind, other.scope_id) == (role, scope.kind, scope.id) and _overlaps(other, starts_at, valid_until):
            message = "The person already has this role for this scope in this period. Revoke that grant first, or keep it."
            raise Conflict(Reason.GRANT_EXISTS, message, grant_id=other.id)
    return Grant(
        id=id, staff_id=staff.id, brand_id=staff.brand_id, role=role, kind=scope.kind, scope_id=scope.id, valid_from=starts_at,
        valid_until=valid_until,
    )  # fmt: skip


def _overlaps(grant: Grant, starts_at: datetime, ends_at: datetime | None) -> bool:
    return (ends_at is None or grant.valid_from < ends_at) and (grant.valid_until is None or starts_at < grant.valid_until)


def resolve_roles(staff: Staff, grants: Iterable[Grant], at: datetime) -> list[HeldRole]:
    """Returns the roles of a person at a time. Each role at a workplace also applies within the person's own scope."""
    if not staff.active:
        return []
    in_force = [grant for grant in grants if is_in_force(grant, at)][:GRANTS_MAX]
    own = [HeldRole(role, ScopeKind.STAFF, staff.id) for role in sorted({grant.role for grant in in_force} & WORKPLACE_ROLES)]
    return [*(HeldRole(grant.role, grant.kind, grant.scope_id) for grant in in_force), *own]
