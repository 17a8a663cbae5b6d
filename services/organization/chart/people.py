"""Who works where, what they may be, and who may give it to them."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct
from msgspec.structs import replace

from services.kit import ids
from services.kit.enums import Role, ScopeKind
from services.kit.errors import Conflict, Denied, Invalid
from services.kit.values.event import Event
from services.kit.values.validation import WRITTEN
from services.organization.chart.enums import Reason
from services.organization.chart.rules import OrgUnit, Store

StaffId = Annotated[str, Meta(pattern=ids.shape("stf"))]
GrantId = Annotated[str, Meta(pattern=ids.shape("grt"))]
Title = Annotated[str, Meta(max_length=40, pattern=WRITTEN)]
SUBJECT_LENGTH_MAX = 200
GRANTS_MAX = 200

SCOPE_OF: dict[Role, ScopeKind] = {
    Role.GUIDE: ScopeKind.STORE,
    Role.STORE_MANAGER: ScopeKind.STORE,
    Role.SUPERVISOR: ScopeKind.ORG_UNIT,
    Role.BRAND_OPERATOR: ScopeKind.BRAND,
    Role.DISTRICT_OPERATOR: ScopeKind.DISTRICT,
    Role.OPERATOR: ScopeKind.INSTALLATION,
}
"""For what kind of scope each role is granted. A service is no role of a person."""
RANK: dict[str, int] = {Role.GUIDE: 1, Role.STORE_MANAGER: 2, Role.SUPERVISOR: 3, Role.BRAND_OPERATOR: 4, Role.SERVICE: 4}
"""Roles of a tenant's tree from the lowest; whoever holds one may give it and those below it."""
AT_A_PLACE = frozenset(RANK) - {Role.SERVICE}


class Staff(Struct, frozen=True, kw_only=True):
    """A person who works for a tenant. `name` is ciphertext, `subject_hash` the look-up hash of their sign-in."""

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
    """A role that a person holds within a scope, from and until moments."""

    id: GrantId
    staff_id: StaffId
    brand_id: str = ""
    role: Role
    kind: ScopeKind
    scope_id: str = ""
    valid_from: datetime
    valid_until: datetime | None = None
    version: int = 1


class Hiring(Struct, frozen=True, kw_only=True):
    """What is said of a person who is taken on."""

    staff_id: StaffId = ""
    name: Annotated[str, Meta(min_length=1, max_length=80, pattern=WRITTEN)]
    title: Title = ""
    subject: Annotated[str, Meta(max_length=SUBJECT_LENGTH_MAX)] = ""


class StaffChanged(Event, frozen=True, kw_only=True):
    """The event of that name."""

    kind = "staff_changed"
    staff_id: str
    brand_id: str
    store_id: str
    active: bool


class Asked(Struct, frozen=True, kw_only=True):
    """What is asked for of a new grant."""

    role: Role
    kind: ScopeKind
    scope_id: str = ""
    valid_from: datetime | None = None
    valid_until: datetime | None = None


class Place(Struct, frozen=True):
    """Where somebody works: a unit, and the store when it is one of a store."""

    brand_id: str = ""
    org_unit_id: str = ""
    store_id: str = ""


class Held(NamedTuple):
    """A role within a scope that a caller holds."""

    role: str
    kind: str
    id: str = ""


class Scope(Struct, frozen=True):
    """The scope of a grant and what it lies in: `org_unit_ids` is the path down to the unit or store, `brand_id` the tenant."""

    kind: ScopeKind
    id: str = ""
    org_unit_ids: tuple[str, ...] = ()
    brand_id: str = ""


def no_place() -> Invalid:
    """Said to who names neither a store nor a unit where one is needed."""
    return Invalid(Reason.PLACE_REQUIRED, "say where this person works", field="store_id")


def at_store(store: Store) -> Place:
    """The place of who works in a store."""
    return Place(store.brand_id, store.org_unit_id, store.id)


def at_unit(uow: OrgUnit) -> Place:
    """The place of who works in a unit; a store's own unit is the store."""
    return Place(uow.brand_id, uow.id, uow.store_id)


def changed(staff: Staff) -> StaffChanged:
    """What others hear of a member of staff."""
    return StaffChanged(staff_id=staff.id, brand_id=staff.brand_id, store_id=staff.store_id, active=staff.active)


def settle(staff: Staff, place: Place) -> Staff:
    """The person at their first place."""
    return replace(staff, brand_id=place.brand_id, org_unit_id=place.org_unit_id, store_id=place.store_id)


def move(staff: Staff, place: Place) -> tuple[Staff, list[StaffChanged]]:
    """The person at another place of the same tenant; at the same place nothing happens."""
    if staff.brand_id != place.brand_id:  # first of all: whether somebody left is their tenant's to know
        raise Conflict(Reason.ORG_UNIT_OF_ANOTHER_BRAND, "staff move within their tenant", staff_id=staff.id)
    if not staff.active:
        raise Conflict(Reason.STAFF_LEFT, "this person has left", staff_id=staff.id)
    moved = settle(staff, place)
    return (moved, [changed(moved)]) if moved != staff else (staff, [])


def dismiss(staff: Staff) -> tuple[Staff, list[StaffChanged]]:
    """The person after leaving: their sign-in is free again."""
    if not staff.active:
        return staff, []
    left = replace(staff, active=False, subject_hash=None)
    return left, [changed(left)]


def in_force(grant: Grant, at: datetime) -> bool:
    """Whether a grant counts at a moment."""
    return grant.valid_from <= at and (grant.valid_until is None or at < grant.valid_until)


def end(grants: Iterable[Grant], at: datetime) -> list[Grant]:
    """Those of `grants` that would count at `at` or later, ended now (before their beginning when they have not begun)."""
    return [
        replace(grant, valid_until=max(at, grant.valid_from)) for grant in grants if grant.valid_until is None or grant.valid_until > at
    ]


def bound_to(grants: Iterable[Grant], place: Place) -> list[Grant]:
    """The grants whose scope is that very place."""
    return [grant for grant in grants if grant.scope_id and grant.scope_id in (place.store_id, place.org_unit_id)]


def may_grant(held: Iterable[Held], role: Role, scope: Scope) -> bool:
    """Whether somebody holding `held` may give `role` within `scope`: what it reaches lies within what one of theirs reaches."""
    return any(_covers(one, role, scope) for one in held)


def _covers(held: Held, role: Role, scope: Scope) -> bool:
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
    id: str, staff: Staff, role: Role, scope: Scope, held: Sequence[Held], standing: Iterable[Grant], at: datetime,
    valid_from: datetime | None = None, valid_until: datetime | None = None,
) -> Grant:  # fmt: skip
    """A new grant for `staff`, given by somebody holding `held`; `standing` are the person's grants so far."""
    if SCOPE_OF.get(role) is not scope.kind:
        raise Invalid(Reason.ROLE_NOT_GRANTABLE, "this role is not granted for such a scope", field="kind")
    if not may_grant(held, role, scope):
        raise Denied(Reason.BEYOND_OWN_REACH, "you hold no such role over so much", role=role)
    if not staff.active:
        raise Conflict(Reason.STAFF_LEFT, "this person has left", staff_id=staff.id)
    if staff.brand_id and scope.brand_id and scope.brand_id != staff.brand_id:
        raise Conflict(Reason.ORG_UNIT_OF_ANOTHER_BRAND, "this lies outside the tree the person works in", staff_id=staff.id)
    begins = valid_from or at
    if valid_until is not None and valid_until <= begins:
        raise Invalid(Reason.INVALID_PERIOD, "a period ends after it begins", field="valid_until")
    if valid_until is not None and valid_until <= at:
        raise Invalid(Reason.INVALID_PERIOD, "this role would be over already", field="valid_until")
    for other in standing:
        if (other.role, other.kind, other.scope_id) == (role, scope.kind, scope.id) and _overlap(other, begins, valid_until):
            raise Conflict(Reason.GRANT_EXISTS, "the same role and scope stands already", grant_id=other.id)
    return Grant(
        id=id, staff_id=staff.id, brand_id=staff.brand_id, role=role, kind=scope.kind, scope_id=scope.id, valid_from=begins,
        valid_until=valid_until,
    )  # fmt: skip


def _overlap(grant: Grant, begins: datetime, ends: datetime | None) -> bool:
    return (ends is None or grant.valid_from < ends) and (grant.valid_until is None or begins < grant.valid_until)


def resolve(staff: Staff, grants: Iterable[Grant], at: datetime) -> list[Held]:
    """What a person may be at a moment: each role within its scope, and those of a place also within the person's own scope."""
    if not staff.active:
        return []
    now = [grant for grant in grants if in_force(grant, at)][:GRANTS_MAX]
    own = [Held(role, ScopeKind.STAFF, staff.id) for role in sorted({grant.role for grant in now} & AT_A_PLACE)]
    return [*(Held(grant.role, grant.kind, grant.scope_id) for grant in now), *own]
