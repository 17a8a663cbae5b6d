"""What stands in a district, and when a consumer is in it."""

from datetime import date, datetime
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from services.district.places.enums import Reason, VenueKind, VisitState
from services.district.places.geofence import Geofence, Point, fault, holds
from services.kit import ids
from services.kit.enums import Touchpoint
from services.kit.errors import Conflict, Invalid
from services.kit.values.event import Event
from services.kit.values.money import Money
from services.kit.values.opening_hours import zone_of
from services.kit.values.validation import WRITTEN

Name = Annotated[str, Meta(min_length=1, max_length=100, pattern=WRITTEN)]
NameEn = Annotated[str, Meta(max_length=100, pattern=WRITTEN)]
ConsumerId = Annotated[str, Meta(min_length=1, max_length=100)]
DistrictId = Annotated[str, Meta(pattern=ids.shape("dst"))]
VenueId = Annotated[str, Meta(pattern=ids.shape("ven"))]
BrandId = Annotated[str, Meta(pattern=ids.shape("(brd|rtl)", empty=True))]
StoreId = Annotated[str, Meta(pattern=ids.shape("str", empty=True))]
IMPORT_MAX = 500


class District(Struct, frozen=True):
    id: DistrictId
    name: Name
    position: Point
    zone: str
    geofence: Geofence
    name_en: NameEn = ""
    version: int = 1


class Venue(Struct, frozen=True):
    id: VenueId
    district_id: DistrictId
    kind: VenueKind
    name: Name
    position: Point
    name_en: NameEn = ""
    brand_id: BrandId = ""
    store_id: StoreId = ""
    version: int = 1


class Entering(Struct, frozen=True):
    """What is said of somebody who enters."""

    consumer_id: ConsumerId
    district_id: str
    touchpoint: Touchpoint
    position: Point | None = None


class Visit(Struct, frozen=True):
    """`open_key` is there while the visit is open: a unique index on it makes a second open one impossible."""

    id: str
    consumer_id: ConsumerId
    district_id: str
    day: str
    touchpoint: Touchpoint
    entered_at: datetime
    state: VisitState = VisitState.OPEN
    left_at: datetime | None = None
    open_key: str | None = None
    version: int = 1


class PackedCoupon(Struct, frozen=True):
    """A coupon as events carry it."""

    coupon_id: str
    brand_id: str
    value: Money
    expires_at: datetime
    name: str
    name_en: str
    minimum_spend: Money


class VisitStarted(Event, frozen=True):
    kind = "visit_started"
    visit_id: str
    consumer_id: str
    district_id: str


class VisitLeft(Event, frozen=True):
    kind = "visit_left"
    visit_id: str
    consumer_id: str
    district_id: str
    day: str
    unspent: tuple[PackedCoupon, ...] = ()


def found(district: District) -> District:
    """A district that may stand: known zone, sound border. `Invalid` otherwise."""
    zone_of(district.zone)
    if wrong := fault(district.geofence, district.position):
        raise Invalid(Reason.GEOFENCE_INVALID, wrong, field="geofence")
    return district


def open_key(person_id: str, district_id: str, day: date) -> str:
    """What only one open visit may have."""
    return f"{person_id}|{district_id}|{day.isoformat()}"


def check_position(district: District, position: Point | None) -> None:
    """`Conflict` OUTSIDE_DISTRICT for a position outside the border; without a position the caller's word counts."""
    if position is not None and not holds(district.geofence, district.position, position):
        raise Conflict(Reason.OUTSIDE_DISTRICT, "the position given is not in this district", district_id=district.id)


def check_venue(district: District, venue: Venue) -> Venue:
    """A venue that may stand in the district; `Conflict` OUTSIDE_DISTRICT names one beyond its border."""
    if not holds(district.geofence, district.position, venue.position):
        raise Conflict(Reason.OUTSIDE_DISTRICT, f"{venue.name} does not stand in this district", district_id=district.id, venue_id=venue.id)
    return venue


def enter(visit_id: str, consumer_id: str, person_id: str, district: District, day: date, touchpoint: Touchpoint, at: datetime) -> Visit:
    """A fresh open visit on the district's local `day`."""
    return Visit(
        id=visit_id, consumer_id=consumer_id, district_id=district.id, day=day.isoformat(), touchpoint=touchpoint, entered_at=at,
        open_key=open_key(person_id, district.id, day),
    )  # fmt: skip


def started(visit: Visit) -> VisitStarted:
    """The event of a fresh visit."""
    return VisitStarted(visit_id=visit.id, consumer_id=visit.consumer_id, district_id=visit.district_id)


def leave(visit: Visit, *, at: datetime, unspent: tuple[PackedCoupon, ...]) -> tuple[Visit, list[VisitLeft]]:
    """The visit after leaving, and the event; leaving again changes and tells nothing. Never ends before it began."""
    if visit.state is VisitState.LEFT:
        return visit, []
    left = msgspec.structs.replace(visit, state=VisitState.LEFT, left_at=max(at, visit.entered_at), open_key=None)
    return left, [VisitLeft(visit.id, visit.consumer_id, visit.district_id, visit.day, unspent)]
