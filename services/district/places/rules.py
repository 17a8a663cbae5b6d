"""Rules of places: districts, venues, and visits of consumers."""

from datetime import date, datetime
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from services.district.places.enums import Reason, VenueKind, VisitState
from services.district.places.geofence import Geofence, Point, contains, describe_fault
from services.kit import ids
from services.kit.enums import Touchpoint
from services.kit.errors import Conflict, Invalid
from services.kit.values.event import Event
from services.kit.values.money import Money
from services.kit.values.opening_hours import zone_of
from services.kit.values.validation import VISIBLE_LINE_PATTERN

Name = Annotated[str, Meta(min_length=1, max_length=100, pattern=VISIBLE_LINE_PATTERN)]
NameEn = Annotated[str, Meta(max_length=100, pattern=VISIBLE_LINE_PATTERN)]
ConsumerId = Annotated[str, Meta(min_length=1, max_length=100)]
DistrictId = Annotated[str, Meta(pattern=ids.pattern("dst"))]
VenueId = Annotated[str, Meta(pattern=ids.pattern("ven"))]
BrandId = Annotated[str, Meta(pattern=ids.pattern("(brd|rtl)", optional=True))]
StoreId = Annotated[str, Meta(pattern=ids.pattern("str", optional=True))]
IMPORT_MAX = 500
"""An import contains at most this many venues."""


class District(Struct, frozen=True):
    """A shopping district."""

    id: DistrictId
    name: Name
    position: Point
    zone: str
    geofence: Geofence
    name_en: NameEn = ""
    version: int = 1


class Venue(Struct, frozen=True):
    """A place in a district that takes part: a store, a restaurant, a cinema …"""

    id: VenueId
    district_id: DistrictId
    kind: VenueKind
    name: Name
    position: Point
    name_en: NameEn = ""
    brand_id: BrandId = ""
    store_id: StoreId = ""
    version: int = 1


class Entry(Struct, frozen=True):
    """A consumer's entry into a district, as a request contains it."""

    consumer_id: ConsumerId
    district_id: str
    touchpoint: Touchpoint
    position: Point | None = None


class Visit(Struct, frozen=True):
    """A visit of a consumer to a district. `open_key` is set while the visit is open; its unique index allows one open visit."""

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
    """A coupon as an event contains it."""

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


def check_district(district: District) -> District:
    """Returns the district; raises `Invalid` for an unknown time zone or a bad geofence."""
    zone_of(district.zone)
    if message := describe_fault(district.geofence, district.position):
        raise Invalid(Reason.GEOFENCE_INVALID, message, field="geofence")
    return district


def open_key(person_id: str, district_id: str, day: date) -> str:
    """Returns the key that only one open visit may have."""
    return f"{person_id}|{district_id}|{day.isoformat()}"


def check_position(district: District, position: Point | None) -> None:
    """Raises `Conflict` (OUTSIDE_DISTRICT) for a position outside the geofence; a missing position is accepted."""
    if position is not None and not contains(district.geofence, district.position, position):
        message = "`position` is outside of this district. Enter the district in which you are."
        raise Conflict(Reason.OUTSIDE_DISTRICT, message, district_id=district.id)


def check_venue(district: District, venue: Venue) -> Venue:
    """Returns the venue; raises `Conflict` (OUTSIDE_DISTRICT), with its id, if it is outside the geofence."""
    if not contains(district.geofence, district.position, venue.position):
        message = f"{venue.name} is outside of this district's geofence. Check its position."
        raise Conflict(Reason.OUTSIDE_DISTRICT, message, district_id=district.id, venue_id=venue.id)
    return venue


def enter(visit_id: str, consumer_id: str, person_id: str, district: District, day: date, touchpoint: Touchpoint, at: datetime) -> Visit:
    """Returns a new open visit on the district's local `day`."""
    return Visit(
        id=visit_id, consumer_id=consumer_id, district_id=district.id, day=day.isoformat(), touchpoint=touchpoint, entered_at=at,
        open_key=open_key(person_id, district.id, day),
    )  # fmt: skip


def build_visit_started(visit: Visit) -> VisitStarted:
    """Returns the event of a new visit."""
    return VisitStarted(visit_id=visit.id, consumer_id=visit.consumer_id, district_id=visit.district_id)


def leave(visit: Visit, *, at: datetime, unspent: tuple[PackedCoupon, ...]) -> tuple[Visit, list[VisitLeft]]:
    """Returns the visit as left, and its event; a repeat changes nothing and has no event.

    A visit never ends before it began.
    """
    if visit.state is VisitState.LEFT:
        return visit, []
    left = msgspec.structs.replace(visit, state=VisitState.LEFT, left_at=max(at, visit.entered_at), open_key=None)
    return left, [VisitLeft(visit.id, visit.consumer_id, visit.district_id, visit.day, unspent)]
