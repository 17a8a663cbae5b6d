"""Rules of the chart: tenants, the tree of org units, and stores. The rules of staff and grants are in `people.py`."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from services.kit import ids
from services.kit.errors import Conflict, Invalid, NotFound
from services.kit.values import opening_hours
from services.kit.values.event import Event
from services.kit.values.money import Currency
from services.kit.values.validation import VISIBLE_LINE_PATTERN
from services.organization.chart.enums import BrandKind, OrgUnitKind, Reason, StoreKind

BrandId = Annotated[str, Meta(pattern=ids.pattern("(brd|rtl)"))]
OrgUnitId = Annotated[str, Meta(pattern=ids.pattern("unt", length_max=68))]
StoreId = Annotated[str, Meta(pattern=ids.pattern("str"))]
Day = Annotated[str, Meta(pattern=r"^(\d{4}-\d{2}-\d{2})?\Z")]
NameText = Annotated[str, Meta(max_length=80, pattern=VISIBLE_LINE_PATTERN)]
Minute = Annotated[int, Meta(ge=0, le=opening_hours.DAY_MINUTES)]

LEVELS_MAX = 12
"""A tree has at most this many levels."""
SUBTREE_MAX = 5_000
"""One move changes at most this many org units."""
ROWS_MAX = 500
"""One import request has at most this many rows."""


class Name(Struct, frozen=True):
    """A name in Chinese, in English, or in both."""

    zh: NameText = ""
    en: NameText = ""

    def __post_init__(self) -> None:
        if not self.zh and not self.en:
            raise ValueError("The name is empty. Set `zh`, `en` or both.")

    @property
    def display_name(self) -> str:
        """The name that consumers see: Chinese, or English if there is none."""
        return self.zh or self.en


class Point(Struct, frozen=True):
    """A position in degrees, in WGS 84."""

    longitude: Annotated[float, Meta(ge=-180, le=180)] = 0.0
    latitude: Annotated[float, Meta(ge=-90, le=90)] = 0.0


class Brand(Struct, frozen=True, kw_only=True):
    """A tenant: a brand or a multi-brand retailer."""

    id: BrandId
    kind: BrandKind
    name: Name
    zone: str
    currency: Currency
    franchised: bool = False
    headquarters_org_unit_id: str = ""
    version: int = 1


class OrgUnit(Struct, frozen=True, kw_only=True):
    """An org unit of a tenant's tree. `org_unit_ids` is the path from the root to itself; `level` is the length of the path."""

    id: OrgUnitId
    kind: OrgUnitKind
    brand_id: BrandId
    parent_id: str = ""
    org_unit_ids: tuple[str, ...]
    level: int
    name: Name
    store_id: str = ""
    valid_from: Day = ""
    valid_until: Day = ""
    version: int = 1


class Store(Struct, frozen=True, kw_only=True):
    """A store or warehouse that serves orders. `org_unit_id` is the org unit that belongs to it alone."""

    id: StoreId
    kind: StoreKind
    brand_id: BrandId
    org_unit_id: OrgUnitId
    name: Name
    position: Point
    zone: str
    opens_minute: Minute = 0
    closes_minute: Minute = 0
    delivers: bool = False
    active: bool = True
    version: int = 1


class BrandDraft(Struct, frozen=True, kw_only=True):
    """The requested values of a tenant."""

    brand_id: BrandId = ""
    kind: BrandKind
    name: Name
    zone: str
    currency: Currency
    franchised: bool = False


class OrgUnitDraft(Struct, frozen=True, kw_only=True):
    """The requested values of a new org unit."""

    org_unit_id: OrgUnitId = ""
    kind: OrgUnitKind
    name: Name
    valid_from: Day = ""
    valid_until: Day = ""


class StoreDraft(Struct, frozen=True, kw_only=True):
    """The requested values of a store. An empty `zone` means the tenant's zone."""

    store_id: StoreId = ""
    kind: StoreKind
    name: Name
    position: Point
    zone: str = ""
    opens_minute: Minute = 0
    closes_minute: Minute = 0
    delivers: bool = False


class StoreChanges(Struct, frozen=True, kw_only=True):
    """The requested changes of a store. A field that is None does not change."""

    name: Name | None = None
    position: Point | None = None
    zone: str | None = None
    opens_minute: Minute | None = None
    closes_minute: Minute | None = None
    delivers: bool | None = None
    active: bool | None = None


class StoreChanged(Event, frozen=True, kw_only=True):
    """The event `StoreChanged`: the current state of a store, and its path in the tree."""

    kind = "store_changed"
    store_id: str
    brand_id: str
    org_unit_ids: tuple[str, ...]
    name: str
    position: Point
    zone: str
    opens_minute: int
    closes_minute: int
    delivers: bool
    active: bool


def create_brand(id: str, draft: BrandDraft) -> tuple[Brand, OrgUnit]:
    """Returns a new tenant and its headquarters. `Invalid` if the prefix of the id belongs to another kind, or the zone is unknown."""
    if id.startswith("rtl_") != (draft.kind is BrandKind.RETAILER):
        message = "The prefix of `brandId` does not match `kind`. Use brd_ for a brand and rtl_ for a retailer."
        raise Invalid(Reason.INVALID_FIELD, message, field="brand_id")
    opening_hours.zone_of(draft.zone)
    root = f"unt_{id}"
    brand = Brand(
        id=id, kind=draft.kind, name=draft.name, zone=draft.zone, currency=draft.currency, franchised=draft.franchised,
        headquarters_org_unit_id=root,
    )  # fmt: skip
    return brand, OrgUnit(id=root, kind=OrgUnitKind.HEADQUARTERS, brand_id=id, org_unit_ids=(root,), level=1, name=draft.name)


def check_period(valid_from: str, valid_until: str) -> None:
    """Raises `Invalid` if a day is not a calendar day, or the end is not after the start."""
    days = {}
    for field, day in (("valid_from", valid_from), ("valid_until", valid_until)):
        try:
            if day:
                days[field] = date.fromisoformat(day)
        except ValueError:
            message = "This is not a calendar day. Write it as YYYY-MM-DD, like 2024-05-31."
            raise Invalid(Reason.INVALID_PERIOD, message, field=field) from None
    if len(days) == 2 and days["valid_until"] <= days["valid_from"]:
        message = "`validUntil` is not after `validFrom`. Choose a later day, or leave `validUntil` out."
        raise Invalid(Reason.INVALID_PERIOD, message, field="valid_until")


def child_path(parent: OrgUnit, id: str) -> tuple[str, ...]:
    """Returns the path of the org unit `id` as a child of `parent`. `Conflict` if `parent` is a store's, or at the lowest level."""
    if parent.kind is OrgUnitKind.STORE:
        message = "A store's org unit cannot have children. Choose another parent."
        raise Conflict(Reason.ORG_UNIT_KIND_NOT_ALLOWED, message, org_unit_id=parent.id)
    if len(parent.org_unit_ids) >= LEVELS_MAX:
        raise _too_deep(parent.id)
    return (*parent.org_unit_ids, id)


def _too_deep(org_unit_id: str) -> Conflict:
    message = f"The tree would have more than {LEVELS_MAX} levels. Choose a parent at a higher level."
    return Conflict(Reason.ORG_UNIT_TOO_DEEP, message, org_unit_id=org_unit_id)


def create_org_unit(id: str, draft: OrgUnitDraft, parent: OrgUnit) -> OrgUnit:
    """Returns a new org unit below `parent`. `Conflict` for a headquarters or a store's org unit, which come with tenant or store."""
    if draft.kind in (OrgUnitKind.HEADQUARTERS, OrgUnitKind.STORE):
        message = "This kind is created together with its brand or store. Create the brand or the store instead."
        raise Conflict(Reason.ORG_UNIT_KIND_NOT_ALLOWED, message, kind=draft.kind)
    check_period(draft.valid_from, draft.valid_until)
    path = child_path(parent, id)
    return OrgUnit(
        id=id, kind=draft.kind, brand_id=parent.brand_id, parent_id=parent.id, org_unit_ids=path, level=len(path), name=draft.name,
        valid_from=draft.valid_from, valid_until=draft.valid_until,
    )  # fmt: skip


def move_subtree(subtree: Sequence[OrgUnit], id: str, parent: OrgUnit) -> list[OrgUnit]:
    """Returns `subtree` (the org unit `id` and all below it) with its new paths below `parent`.

    `Conflict` if the move is not allowed: a headquarters, another tenant's tree, a cycle, too many levels or too many org units.
    """
    if len(subtree) > SUBTREE_MAX:
        message = f"The subtree has more than {SUBTREE_MAX:,} org units. Move smaller parts of it."
        raise Conflict(Reason.SUBTREE_TOO_LARGE, message, org_unit_id=id)
    moved = next((org_unit for org_unit in subtree if org_unit.id == id), None)
    if moved is None:
        raise NotFound(Reason.ORG_UNIT_NOT_FOUND, "No such org unit, or you may not see it. Check `orgUnitId`.", org_unit_id=id)
    if not moved.parent_id:
        raise Conflict(Reason.ORG_UNIT_IS_ROOT, "A headquarters cannot be moved. Move an org unit below it.", org_unit_id=id)
    if parent.brand_id != moved.brand_id:
        message = "The parent belongs to another tenant. Choose a parent in the same tree."
        raise Conflict(Reason.ORG_UNIT_OF_ANOTHER_BRAND, message, org_unit_id=id)
    if id in parent.org_unit_ids:
        message = "The parent is the org unit itself or below it. Choose another parent."
        raise Conflict(Reason.ORG_UNIT_CYCLE, message, org_unit_id=id, parent_id=parent.id)
    path, levels_replaced = child_path(parent, id), len(moved.org_unit_ids)
    after = []
    for org_unit in subtree:
        org_unit_ids = path + org_unit.org_unit_ids[levels_replaced:]
        if len(org_unit_ids) > LEVELS_MAX:
            raise _too_deep(org_unit.id)
        parent_id = parent.id if org_unit.id == id else org_unit.parent_id
        after.append(replace(org_unit, parent_id=parent_id, org_unit_ids=org_unit_ids, level=len(org_unit_ids)))
    return after


def derive_paths(parents: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Returns the path of each org unit, derived from its parents ("" for a root). ValueError if there is a cycle.

    A proof compares the result with the stored paths.
    """
    paths = {}
    for id in parents:
        path, above = [id], parents[id]
        while above:
            if above in path:
                raise ValueError(f"The org unit {id} is below itself.")
            path.append(above)
            above = parents[above]
        paths[id] = tuple(reversed(path))
    return paths


def check_store(store: Store) -> Store:
    """Returns the store. `Invalid` if its zone is unknown, or it is a warehouse with opening hours."""
    opening_hours.zone_of(store.zone)
    if store.kind is StoreKind.WAREHOUSE and store.opens_minute != store.closes_minute:
        message = "A warehouse is never open to the public. Set `opensMinute` and `closesMinute` to the same value."
        raise Invalid(Reason.INVALID_HOURS, message, field="opens_minute")
    return store


def store_org_unit_id(store_id: str) -> str:
    """Returns the id of the org unit that belongs to a store."""
    return f"unt_{store_id}"


def create_store(id: str, draft: StoreDraft, parent: OrgUnit, zone: str) -> tuple[Store, OrgUnit]:
    """Returns a new store and its org unit below `parent`. `zone` is the zone of the tenant."""
    org_unit_id = store_org_unit_id(id)
    path = child_path(parent, org_unit_id)
    store = Store(
        id=id, kind=draft.kind, brand_id=parent.brand_id, org_unit_id=org_unit_id, name=draft.name, position=draft.position,
        zone=draft.zone or zone, opens_minute=draft.opens_minute, closes_minute=draft.closes_minute, delivers=draft.delivers,
    )  # fmt: skip
    org_unit = OrgUnit(
        id=org_unit_id, kind=OrgUnitKind.STORE, brand_id=parent.brand_id, parent_id=parent.id, org_unit_ids=path, level=len(path),
        name=draft.name, store_id=id,
    )  # fmt: skip
    return check_store(store), org_unit


def overwrite_store(store: Store, org_unit: OrgUnit, draft: StoreDraft, parent: OrgUnit, zone: str) -> tuple[Store, OrgUnit]:
    """Returns an existing store and its org unit with the values of an import. `Conflict` if `parent` is in another tree."""
    if store.brand_id != parent.brand_id:
        message = "The store belongs to the tree of another tenant. Choose a parent in its tree."
        raise Conflict(Reason.ORG_UNIT_OF_ANOTHER_BRAND, message, store_id=store.id)
    new_store, new_org_unit = create_store(store.id, draft, parent, zone)
    return replace(new_store, active=store.active, version=store.version), replace(new_org_unit, version=org_unit.version)


def update_store(store: Store, changes: StoreChanges, org_unit_ids: tuple[str, ...]) -> tuple[Store, list[Event]]:
    """Returns the changed store and, if anything changed, its event. `org_unit_ids` is the path of the store."""
    values = {name: value for name in changes.__struct_fields__ if (value := getattr(changes, name)) is not None}
    after = check_store(replace(store, **values))
    return after, [store_changed_event(after, org_unit_ids)] if after != store else []


def store_changed_event(store: Store, org_unit_ids: tuple[str, ...]) -> StoreChanged:
    """Returns the event that informs other services about a store."""
    return StoreChanged(
        store_id=store.id, brand_id=store.brand_id, org_unit_ids=org_unit_ids, name=store.name.display_name, position=store.position,
        zone=store.zone, opens_minute=store.opens_minute, closes_minute=store.closes_minute, delivers=store.delivers,
        active=store.active,
    )  # fmt: skip


def find_repeated(ids: Iterable[str]) -> set[int]:
    """Returns the positions of ids that occur at an earlier position too."""
    seen: set[str] = set()
    positions = set()
    for position, id in enumerate(ids):
        if id in seen:
            positions.add(position)
        seen.add(id)
    return positions
