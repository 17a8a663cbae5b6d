"""Which promises hold: what can be in the consumer's hands, from which store, by when; and why something cannot be had now."""

import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from services.commerce.catalog.rules import Attributes, Text, Variant
from services.commerce.discovery.enums import Obstacle, Reason
from services.commerce.stock.enums import Availability, Method
from services.commerce.stock.rules import (
    ConsumerId,
    Point,
    Promise,
    Quantity,
    Stock,
    Store,
    StoreId,
    available,
    check_needed_within,
)  # fmt: skip
from services.kit.errors import Conflict, Invalid
from services.kit.values.opening_hours import closes_at, is_open, next_open

RADIUS_METRES = 5_000
RADIUS_METRES_MAX = 20_000
PROMISES = 20
PROMISES_MAX = 50
UNAVAILABLE_MAX = 20
EARTH_RADIUS_METRES = 6_378_100
TEXT_LENGTH_MAX = 200
ATTRIBUTES_MAX = 16
METHODS = (Method.PICKUP, Method.INSTANT_DELIVERY)


class Terms(Struct, frozen=True):
    """What promises are reckoned with."""

    preparation: timedelta = timedelta(minutes=10)
    walking_metres_per_second: float = 1.2
    courier_metres_per_second: float = 4.0
    """About 14 km/h from door to door, waiting at lights included."""
    delivery_metres_max: int = 5_000


TERMS = Terms()


class Way(Struct, frozen=True):
    """One way into the consumer's hands that holds."""

    ready_at: datetime
    arrives_at: datetime
    open_until: datetime | None
    """None: the store never closes."""


class Hindrance(Struct, frozen=True):
    """Why a way does not hold, and when that may change."""

    obstacle: Obstacle
    until: datetime | None = None


class Unavailable(Struct, frozen=True):
    """Something that is there but cannot be had now."""

    variant_id: str
    offer_id: str
    brand_id: str
    store_id: str
    store_name: str
    distance_metres: int
    obstacle: Obstacle
    name: Text
    attributes: Attributes = {}
    store_position: Point | None = None
    until: datetime | None = None


class Shelf(Struct, frozen=True):
    """A stock row near the place asked for, with what is known of its store and variant."""

    stock: Stock
    store: Store
    variant: Variant
    distance_metres: int
    held_until: datetime | None = None
    """When the first of the live holds on it ends."""


class Search(Struct, frozen=True):
    """A consumer's question, in bounds."""

    at: datetime
    near: Point
    text: str = ""
    attributes: Attributes = {}
    needed_by: datetime | None = None
    methods: tuple[Method, ...] = METHODS
    radius_metres: int = RADIUS_METRES
    first: int = PROMISES


class Asked(Struct, frozen=True):
    """The fields of a SearchPromisesRequest."""

    near: Point | None = None
    text: str = ""
    attributes: Attributes = {}
    needed_by: datetime | None = None
    methods: tuple[Method, ...] = ()
    radius_metres_max: int = 0
    first: int = 0


class HoldAsked(Struct, frozen=True):
    """The fields of a HoldPromiseRequest."""

    consumer_id: ConsumerId
    variant_id: str
    store_id: StoreId
    method: Method
    quantity: Quantity = 1
    destination: Point | None = None
    needed_by: datetime | None = None


def place(point: Point | None, field: str) -> Point:
    """The place given as `field`; `Invalid` when there is none or it is nowhere on earth."""
    if point is None or not (math.isfinite(point.longitude) and math.isfinite(point.latitude)):
        raise Invalid(Reason.NEAR_MISSING, "say at or near which place", field=field)
    return point


def distance_metres(one: Point, other: Point) -> int:
    """As the crow flies on a sphere (haversine), like MongoDB's `$geoNear`."""
    south, north = math.radians(one.latitude), math.radians(other.latitude)
    east = math.radians(other.longitude - one.longitude)
    half = math.sin((north - south) / 2) ** 2 + math.cos(south) * math.cos(north) * math.sin(east / 2) ** 2
    return round(2 * EARTH_RADIUS_METRES * math.asin(min(1.0, math.sqrt(half))))


def search(
    at: datetime,
    *,
    near: Point | None = None,
    text: str = "",
    attributes: Attributes | None = None,
    needed_by: datetime | None = None,
    methods: Sequence[Method] = (),
    radius_metres_max: int = 0,
    first: int = 0,
) -> Search:
    """The question in bounds; `Invalid` says what is missing or too large."""
    near = place(near, "near")
    if not text.strip() and not attributes:
        raise Invalid(Reason.KIND_MISSING, "say what is looked for: words, attributes or both", field="text")
    if len(text) > TEXT_LENGTH_MAX:
        raise Invalid(Reason.INVALID_FIELD, f"look for words of at most {TEXT_LENGTH_MAX} characters", field="text")
    if not 0 <= radius_metres_max <= RADIUS_METRES_MAX:
        raise Invalid(Reason.INVALID_FIELD, f"look for it within 1 to {RADIUS_METRES_MAX} metres", field="radius_metres_max")
    if not 0 <= first <= PROMISES_MAX:
        raise Invalid(Reason.INVALID_FIELD, f"ask for 1 to {PROMISES_MAX} promises", field="first")
    check_needed_within(needed_by, at)
    return Search(
        at=at,
        near=near,
        text=text,
        attributes=attributes or {},
        needed_by=needed_by,
        methods=tuple(dict.fromkeys(methods)) or METHODS,
        radius_metres=radius_metres_max or RADIUS_METRES,
        first=first or PROMISES,
    )


def way(
    store: Store, method: Method, distance_metres: int, at: datetime, needed_by: datetime | None = None, terms: Terms = TERMS
) -> Way | Hindrance:
    """How goods of this store get into the consumer's hands, or why not. Nothing is handed over before preparation or after closing."""
    if method is Method.INSTANT_DELIVERY and not (store.delivers and distance_metres <= terms.delivery_metres_max):
        return Hindrance(Obstacle.NOT_DELIVERED_HERE)
    hours = store.opens_minute, store.closes_minute
    if not (store.active and is_open(*hours, at, store.zone)):
        return _closed(store, at)
    closing = closes_at(*hours, at, store.zone)
    ready = at + terms.preparation
    if method is Method.PICKUP:
        handed_over = arrives = max(ready, at + timedelta(seconds=math.ceil(distance_metres / terms.walking_metres_per_second)))
    else:
        handed_over, arrives = ready, ready + timedelta(seconds=math.ceil(distance_metres / terms.courier_metres_per_second))
    if closing is not None and handed_over >= closing:
        return _closed(store, closing)
    if needed_by is not None and arrives > needed_by:
        return Hindrance(Obstacle.TOO_LATE, arrives)
    return Way(ready, arrives, closing)


def serving(question: Search, stores: Iterable[tuple[Store, int]]) -> tuple[list[str], list[str]]:
    """The ids of the stores, each with its distance in metres, that can serve the question in some way, and of those that cannot now."""
    can: list[str] = []
    cannot: list[str] = []
    for store, metres in stores:
        ways = (way(store, method, metres, question.at, question.needed_by) for method in question.methods)
        (can if any(isinstance(found, Way) for found in ways) else cannot).append(store.id)
    return can, cannot


def answer(question: Search, shelves: Iterable[Shelf]) -> tuple[list[Promise], list[Unavailable]]:
    """The promises, soonest first then nearest, and what is there but cannot be had, nearest first; one entry per store and variant."""
    promises: list[Promise] = []
    missed: list[Unavailable] = []
    for shelf in shelves:
        kept, hindrances = _ways(question, shelf)
        promises += kept
        if not kept and hindrances:
            missed.append(_unavailable(shelf, min(hindrances, key=lambda hindrance: _RANK[hindrance.obstacle])))
    promises.sort(
        key=lambda promise: (promise.arrives_at, promise.distance_metres, promise.price.minor, promise.store_id, promise.variant_id)
    )
    missed.sort(key=lambda item: (item.distance_metres, item.store_id, item.variant_id))
    return promises[: question.first], missed[:UNAVAILABLE_MAX]


def promise(shelf: Shelf, method: Method, at: datetime, needed_by: datetime | None = None) -> Promise:
    """The promise as it stands now; `Conflict` names what is in its way. Whether the goods are still there is for the hold to decide."""
    found = way(shelf.store, method, shelf.distance_metres, at, needed_by)
    if isinstance(found, Way):
        return _promise(shelf, method, found)
    until = found.until.isoformat() if found.until else ""
    if found.obstacle is Obstacle.TOO_LATE:
        raise Conflict(Reason.TOO_LATE, "it cannot be there by then", arrives_at=until)
    if found.obstacle is Obstacle.NOT_DELIVERED_HERE:
        raise _not_delivered()
    raise Conflict(Reason.STORE_CLOSED, "the store is closed, or closes before the goods can be handed over", opens_at=until)


def check_delivered(store: Store, position: Point | None, *, promised: bool = False) -> None:
    """`Conflict` where this store does not bring its goods; what it `promised` to bring it brings still, as far as it does.

    Of a place that nobody knows, its distance is not asked.
    """
    metres = distance_metres(position, store.position) if position and store.position else 0
    if not (promised or store.delivers) or metres > TERMS.delivery_metres_max:
        raise _not_delivered()


# The nearer to being had, the sooner told.
_RANK = {Obstacle.TOO_LATE: 0, Obstacle.HELD: 1, Obstacle.STORE_CLOSED: 2, Obstacle.NOT_DELIVERED_HERE: 3}


def _ways(question: Search, shelf: Shelf) -> tuple[list[Promise], list[Hindrance]]:
    left = available(shelf.stock)
    found = [(method, way(shelf.store, method, shelf.distance_metres, question.at, question.needed_by)) for method in question.methods]
    hindrances = [item for _, item in found if isinstance(item, Hindrance)]
    if left > 0:
        return [_promise(shelf, method, item) for method, item in found if isinstance(item, Way)], hindrances
    if shelf.stock.on_hand - shelf.stock.safety > 0 and len(hindrances) < len(found):
        return [], [Hindrance(Obstacle.HELD, shelf.held_until)]
    return [], []


def _not_delivered() -> Conflict:
    return Conflict(Reason.NOT_DELIVERED_HERE, "this store does not deliver there; pick it up")


def _closed(store: Store, after: datetime) -> Hindrance:
    opens = next_open(store.opens_minute, store.closes_minute, after, store.zone) if store.active else None
    return Hindrance(Obstacle.STORE_CLOSED, opens)


def _promise(shelf: Shelf, method: Method, found: Way) -> Promise:
    return Promise(
        variant_id=shelf.variant.id,
        offer_id=shelf.variant.offer_id,
        brand_id=shelf.variant.brand_id,
        store_id=shelf.store.id,
        store_name=shelf.store.name,
        store_position=shelf.store.position,
        method=method,
        distance_metres=shelf.distance_metres,
        ready_at=found.ready_at,
        arrives_at=found.arrives_at,
        open_until=found.open_until,
        price=shelf.variant.price,
        availability=Availability.LAST_ONE if available(shelf.stock) == 1 else Availability.AVAILABLE,
        name=shelf.variant.name,
        attributes=shelf.variant.attributes,
    )


def _unavailable(shelf: Shelf, hindrance: Hindrance) -> Unavailable:
    return Unavailable(
        variant_id=shelf.variant.id,
        offer_id=shelf.variant.offer_id,
        brand_id=shelf.variant.brand_id,
        store_id=shelf.store.id,
        store_name=shelf.store.name,
        store_position=shelf.store.position,
        distance_metres=shelf.distance_metres,
        obstacle=hindrance.obstacle,
        until=hindrance.until,
        name=shelf.variant.name,
        attributes=shelf.variant.attributes,
    )
