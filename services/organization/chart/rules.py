"""What a tenant's tree may look like, and what others hear when it changes. Staff and grants: `people.py`."""

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
from services.kit.values.validation import WRITTEN
from services.organization.chart.enums import BrandKind, OrgUnitKind, Reason, StoreKind

BrandId = Annotated[str, Meta(pattern=ids.shape("(brd|rtl)"))]
UnitId = Annotated[str, Meta(pattern=ids.shape("unt", length_max=68))]
StoreId = Annotated[str, Meta(pattern=ids.shape("str"))]
Day = Annotated[str, Meta(pattern=r"^(\d{4}-\d{2}-\d{2})?\Z")]
Words = Annotated[str, Meta(max_length=80, pattern=WRITTEN)]
Minute = Annotated[int, Meta(ge=0, le=opening_hours.DAY_MINUTES)]

LEVELS_MAX = 12
SUBTREE_MAX = 5_000
ROWS_MAX = 500


class Name(Struct, frozen=True):
    """A name in two languages, at least one of them."""

    zh: Words = ""
    en: Words = ""

    def __post_init__(self) -> None:
        if not self.zh and not self.en:
            raise ValueError("set zh, en or both")

    @property
    def shown(self) -> str:
        """The one consumers are shown."""
        return self.zh or self.en


class Point(Struct, frozen=True):
    """WGS 84, degrees."""

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
    """A part of a tenant's tree; `org_unit_ids` is the path from the root down to it, `level` its length."""

    id: UnitId
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
    """A place of a tenant that serves orders; `org_unit_id` is its own unit."""

    id: StoreId
    kind: StoreKind
    brand_id: BrandId
    org_unit_id: UnitId
    name: Name
    position: Point
    zone: str
    opens_minute: Minute = 0
    closes_minute: Minute = 0
    delivers: bool = False
    active: bool = True
    version: int = 1


class BrandDraft(Struct, frozen=True, kw_only=True):
    """What is asked for of a tenant."""

    brand_id: BrandId = ""
    kind: BrandKind
    name: Name
    zone: str
    currency: Currency
    franchised: bool = False


class OrgUnitDraft(Struct, frozen=True, kw_only=True):
    """What is asked for of a new unit."""

    org_unit_id: UnitId = ""
    kind: OrgUnitKind
    name: Name
    valid_from: Day = ""
    valid_until: Day = ""


class StoreDraft(Struct, frozen=True, kw_only=True):
    """What is asked for of a store; `zone` empty: the tenant's."""

    store_id: StoreId = ""
    kind: StoreKind
    name: Name
    position: Point
    zone: str = ""
    opens_minute: Minute = 0
    closes_minute: Minute = 0
    delivers: bool = False


class StoreChanges(Struct, frozen=True, kw_only=True):
    """What is to change of a store; None stays as it is."""

    name: Name | None = None
    position: Point | None = None
    zone: str | None = None
    opens_minute: Minute | None = None
    closes_minute: Minute | None = None
    delivers: bool | None = None
    active: bool | None = None


class StoreChanged(Event, frozen=True, kw_only=True):
    """The event of that name."""

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


def found_brand(id: str, draft: BrandDraft) -> tuple[Brand, OrgUnit]:
    """A tenant and its headquarters. `Invalid` when the id's prefix tells another kind or the zone is none."""
    if id.startswith("rtl_") != (draft.kind is BrandKind.RETAILER):
        raise Invalid(Reason.INVALID_FIELD, "ids of brands begin with brd_, those of retailers with rtl_", field="brand_id")
    opening_hours.zone_of(draft.zone)
    root = f"unt_{id}"
    brand = Brand(
        id=id, kind=draft.kind, name=draft.name, zone=draft.zone, currency=draft.currency, franchised=draft.franchised,
        headquarters_org_unit_id=root,
    )  # fmt: skip
    return brand, OrgUnit(id=root, kind=OrgUnitKind.HEADQUARTERS, brand_id=id, org_unit_ids=(root,), level=1, name=draft.name)


def check_period(valid_from: str, valid_until: str) -> None:
    """`Invalid` when a day is none of the calendar or the end does not lie after the beginning."""
    days = {}
    for field, day in (("valid_from", valid_from), ("valid_until", valid_until)):
        try:
            if day:
                days[field] = date.fromisoformat(day)
        except ValueError:
            raise Invalid(Reason.INVALID_PERIOD, "days are written like 2024-05-31", field=field) from None
    if len(days) == 2 and days["valid_until"] <= days["valid_from"]:
        raise Invalid(Reason.INVALID_PERIOD, "a period ends after it begins", field="valid_until")


def below(parent: OrgUnit, id: str) -> tuple[str, ...]:
    """The path of a unit that stands directly below `parent`."""
    if parent.kind is OrgUnitKind.STORE:
        raise Conflict(Reason.ORG_UNIT_KIND_NOT_ALLOWED, "nothing stands below a store", org_unit_id=parent.id)
    if len(parent.org_unit_ids) >= LEVELS_MAX:
        raise Conflict(Reason.ORG_UNIT_TOO_DEEP, f"a tree has at most {LEVELS_MAX} levels", org_unit_id=parent.id)
    return (*parent.org_unit_ids, id)


def found_unit(id: str, draft: OrgUnitDraft, parent: OrgUnit) -> OrgUnit:
    """A new unit below `parent`. Headquarters come with their tenant and units of stores with their store."""
    if draft.kind in (OrgUnitKind.HEADQUARTERS, OrgUnitKind.STORE):
        raise Conflict(Reason.ORG_UNIT_KIND_NOT_ALLOWED, "such a unit comes with its brand or store", kind=draft.kind)
    check_period(draft.valid_from, draft.valid_until)
    path = below(parent, id)
    return OrgUnit(
        id=id, kind=draft.kind, brand_id=parent.brand_id, parent_id=parent.id, org_unit_ids=path, level=len(path), name=draft.name,
        valid_from=draft.valid_from, valid_until=draft.valid_until,
    )  # fmt: skip


def move(subtree: Sequence[OrgUnit], id: str, parent: OrgUnit) -> list[OrgUnit]:
    """The units of `subtree` (the unit `id` and all below it) as they stand once `id` is below `parent`."""
    if len(subtree) > SUBTREE_MAX:
        raise Conflict(Reason.SUBTREE_TOO_LARGE, f"at most {SUBTREE_MAX} units move at once", org_unit_id=id)
    moved = next((unit for unit in subtree if unit.id == id), None)
    if moved is None:
        raise NotFound(Reason.ORG_UNIT_NOT_FOUND, org_unit_id=id)
    if not moved.parent_id:
        raise Conflict(Reason.ORG_UNIT_IS_ROOT, "a headquarters stays the root", org_unit_id=id)
    if parent.brand_id != moved.brand_id:
        raise Conflict(Reason.ORG_UNIT_OF_ANOTHER_BRAND, "a unit stays within its tenant's tree", org_unit_id=id)
    if id in parent.org_unit_ids:
        raise Conflict(Reason.ORG_UNIT_CYCLE, "a unit cannot stand below itself", org_unit_id=id, parent_id=parent.id)
    path, kept = below(parent, id), len(moved.org_unit_ids)
    after = []
    for unit in subtree:
        org_unit_ids = path + unit.org_unit_ids[kept:]
        if len(org_unit_ids) > LEVELS_MAX:
            raise Conflict(Reason.ORG_UNIT_TOO_DEEP, f"a tree has at most {LEVELS_MAX} levels", org_unit_id=unit.id)
        parent_id = parent.id if unit.id == id else unit.parent_id
        after.append(replace(unit, parent_id=parent_id, org_unit_ids=org_unit_ids, level=len(org_unit_ids)))
    return after


def recount(parents: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The paths that unit -> parent ("" for a root) implies, found by walking up; ValueError at a cycle. What is stored equals this."""
    paths = {}
    for id in parents:
        path, above = [id], parents[id]
        while above:
            if above in path:
                raise ValueError(f"{id} stands below itself")
            path.append(above)
            above = parents[above]
        paths[id] = tuple(reversed(path))
    return paths


def check_store(store: Store) -> Store:
    """The store again; `Invalid` for a zone that is none or a warehouse with opening hours."""
    opening_hours.zone_of(store.zone)
    if store.kind is StoreKind.WAREHOUSE and store.opens_minute != store.closes_minute:
        raise Invalid(Reason.INVALID_HOURS, "a warehouse never opens to the public: give equal minutes", field="opens_minute")
    return store


def unit_of_store(store_id: str) -> str:
    """The id of a store's own unit."""
    return f"unt_{store_id}"


def open_store(id: str, draft: StoreDraft, parent: OrgUnit, zone: str) -> tuple[Store, OrgUnit]:
    """A store and its own unit below `parent`, of the tenant of that unit; `zone` is the tenant's."""
    org_unit_id = unit_of_store(id)
    path = below(parent, org_unit_id)
    store = Store(
        id=id, kind=draft.kind, brand_id=parent.brand_id, org_unit_id=org_unit_id, name=draft.name, position=draft.position,
        zone=draft.zone or zone, opens_minute=draft.opens_minute, closes_minute=draft.closes_minute, delivers=draft.delivers,
    )  # fmt: skip
    unit = OrgUnit(
        id=org_unit_id, kind=OrgUnitKind.STORE, brand_id=parent.brand_id, parent_id=parent.id, org_unit_ids=path, level=len(path), name=draft.name,
        store_id=id,
    )  # fmt: skip
    return check_store(store), unit


def overwrite_store(store: Store, uow: OrgUnit, draft: StoreDraft, parent: OrgUnit, zone: str) -> tuple[Store, OrgUnit]:
    """A store that stands already as an import describes it, in the same tree, wherever in it."""
    if store.brand_id != parent.brand_id:
        raise Conflict(Reason.ORG_UNIT_OF_ANOTHER_BRAND, "the store stands in another tree", store_id=store.id)
    fresh, placed = open_store(store.id, draft, parent, zone)
    return replace(fresh, active=store.active, version=store.version), replace(placed, version=uow.version)


def update_store(store: Store, changes: StoreChanges, org_unit_ids: tuple[str, ...]) -> tuple[Store, list[Event]]:
    """The store with what is set in `changes`; `org_unit_ids` is its path, for whoever hears of it."""
    given = {name: value for name in changes.__struct_fields__ if (value := getattr(changes, name)) is not None}
    after = check_store(replace(store, **given))
    return after, [told(after, org_unit_ids)] if after != store else []


def told(store: Store, org_unit_ids: tuple[str, ...]) -> StoreChanged:
    """What others hear of a store."""
    return StoreChanged(
        store_id=store.id, brand_id=store.brand_id, org_unit_ids=org_unit_ids, name=store.name.shown, position=store.position, zone=store.zone,
        opens_minute=store.opens_minute, closes_minute=store.closes_minute, delivers=store.delivers, active=store.active,
    )  # fmt: skip


def twice(ids: Iterable[str]) -> set[int]:
    """The positions at which an id stands that stood before."""
    seen: set[str] = set()
    positions = set()
    for position, id in enumerate(ids):
        if id in seen:
            positions.add(position)
        seen.add(id)
    return positions
