"""Rules of promise search: plans how goods reach a consumer, and names the obstacle where they cannot.

A plan respects the store's opening hours, the preparation time, the distance and the time by which the goods are needed.
"""

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
    check_needed_by_max,
)  # fmt: skip
from services.kit.errors import Conflict, Invalid
from services.kit.values.opening_hours import closes_at, is_open, next_open

RADIUS_METRES_DEFAULT = 5_000
"""A search without a radius looks this far."""
RADIUS_METRES_MAX = 20_000
"""A search looks at most this far."""
PROMISES_DEFAULT = 20
"""A search without a limit returns at most this many promises."""
PROMISES_MAX = 50
"""A search returns at most this many promises."""
UNAVAILABLE_MAX = 20
"""A search returns at most this many unavailable items."""
EARTH_RADIUS_METRES = 6_378_100
"""The radius of the sphere that MongoDB's `$geoNear` calculates with."""
TEXT_LENGTH_MAX = 200
"""The text of a search has at most this many characters."""
METHODS = (Method.PICKUP, Method.INSTANT_DELIVERY)
"""A search without methods considers these."""


class FulfilmentAssumptions(Struct, frozen=True):
    """The durations and speeds from which arrival times are calculated."""

    preparation: timedelta = timedelta(minutes=10)
    walking_metres_per_second: float = 1.2
    courier_metres_per_second: float = 4.0
    """About 14 km/h on average, including stops at traffic lights."""
    delivery_metres_max: int = 5_000


ASSUMPTIONS = FulfilmentAssumptions()
"""The assumptions of every promise."""


class FulfilmentPlan(Struct, frozen=True):
    """When goods are ready in a store and when they arrive in the consumer's hands."""

    ready_at: datetime
    arrives_at: datetime
    open_until: datetime | None
    """None if the store never closes."""


class FulfilmentObstacle(Struct, frozen=True):
    """The obstacle to a fulfilment, and when it may end."""

    obstacle: Obstacle
    until: datetime | None = None


class Unavailable(Struct, frozen=True):
    """Matching stock that a consumer cannot get now."""

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


class NearbyStock(Struct, frozen=True):
    """A store's stock of a variant, with the store, the variant and the distance from the place of the search."""

    stock: Stock
    store: Store
    variant: Variant
    distance_metres: int
    held_until: datetime | None = None
    """The earliest end of the live holds on this stock."""


class PromiseSearch(Struct, frozen=True):
    """A search for promises, with its limits checked."""

    at: datetime
    near: Point
    text: str = ""
    attributes: Attributes = {}
    needed_by: datetime | None = None
    methods: tuple[Method, ...] = METHODS
    radius_metres: int = RADIUS_METRES_DEFAULT
    first: int = PROMISES_DEFAULT


class SearchRequest(Struct, frozen=True):
    """The fields of a SearchPromisesRequest."""

    near: Point | None = None
    text: str = ""
    attributes: Attributes = {}
    needed_by: datetime | None = None
    methods: tuple[Method, ...] = ()
    radius_metres_max: int = 0
    first: int = 0


class HoldRequest(Struct, frozen=True):
    """The fields of a HoldPromiseRequest."""

    consumer_id: ConsumerId
    variant_id: str
    store_id: StoreId
    method: Method
    quantity: Quantity = 1
    destination: Point | None = None
    needed_by: datetime | None = None


def require_point(point: Point | None, field: str) -> Point:
    """Returns the point. `Invalid` for `field` if it is missing or not finite."""
    if point is None or not (math.isfinite(point.longitude) and math.isfinite(point.latitude)):
        raise Invalid(Reason.NEAR_MISSING, f"`{field}` is not a place. Set its longitude and its latitude.", field=field)
    return point


def distance_metres(a: Point, b: Point) -> int:
    """Returns the great-circle distance (haversine), equal to that of MongoDB's `$geoNear`."""
    latitude_a, latitude_b = math.radians(a.latitude), math.radians(b.latitude)
    longitude_difference = math.radians(b.longitude - a.longitude)
    haversine = (
        math.sin((latitude_b - latitude_a) / 2) ** 2 + math.cos(latitude_a) * math.cos(latitude_b) * math.sin(longitude_difference / 2) ** 2
    )
    return round(2 * EARTH_RADIUS_METRES * math.asin(min(1.0, math.sqrt(haversine))))


def build_search(
    at: datetime,
    *,
    near: Point | None = None,
    text: str = "",
    attributes: Attributes | None = None,
    needed_by: datetime | None = None,
    methods: Sequence[Method] = (),
    radius_metres_max: int = 0,
    first: int = 0,
) -> PromiseSearch:
    """Returns the search with its defaults filled in. `Invalid` if a field is missing or exceeds its limit."""
    near = require_point(near, "near")
    if not text.strip() and not attributes:
        raise Invalid(Reason.KIND_MISSING, "The search has neither text nor attributes. Set `text`, `attributes` or both.", field="text")
    if len(text) > TEXT_LENGTH_MAX:
        raise Invalid(Reason.INVALID_FIELD, f"The text must have at most {TEXT_LENGTH_MAX} characters.", field="text")
    if not 0 <= radius_metres_max <= RADIUS_METRES_MAX:
        raise Invalid(Reason.INVALID_FIELD, f"The radius must be 1 to {RADIUS_METRES_MAX} metres.", field="radius_metres_max")
    if not 0 <= first <= PROMISES_MAX:
        raise Invalid(Reason.INVALID_FIELD, f"`first` must be 1 to {PROMISES_MAX}.", field="first")
    check_needed_by_max(needed_by, at)
    return PromiseSearch(
        at=at,
        near=near,
        text=text,
        attributes=attributes or {},
        needed_by=needed_by,
        methods=tuple(dict.fromkeys(methods)) or METHODS,
        radius_metres=radius_metres_max or RADIUS_METRES_DEFAULT,
        first=first or PROMISES_DEFAULT,
    )


def plan_fulfilment(
    store: Store,
    method: Method,
    distance_metres: int,
    at: datetime,
    needed_by: datetime | None = None,
    assumptions: FulfilmentAssumptions = ASSUMPTIONS,
) -> FulfilmentPlan | FulfilmentObstacle:
    """Plans how this store's goods reach the consumer, or returns the obstacle.

    The store hands goods over after their preparation and before it closes.
    """
    if method is Method.INSTANT_DELIVERY and not (store.delivers and distance_metres <= assumptions.delivery_metres_max):
        return FulfilmentObstacle(Obstacle.NOT_DELIVERED_HERE)
    hours = store.opens_minute, store.closes_minute
    if not (store.active and is_open(*hours, at, store.zone)):
        return _closed_obstacle(store, at)
    closing = closes_at(*hours, at, store.zone)
    ready = at + assumptions.preparation
    if method is Method.PICKUP:
        walk = timedelta(seconds=math.ceil(distance_metres / assumptions.walking_metres_per_second))
        handed_over = arrives = max(ready, at + walk)
    else:
        ride = timedelta(seconds=math.ceil(distance_metres / assumptions.courier_metres_per_second))
        handed_over, arrives = ready, ready + ride
    if closing is not None and handed_over >= closing:
        return _closed_obstacle(store, closing)
    if needed_by is not None and arrives > needed_by:
        return FulfilmentObstacle(Obstacle.TOO_LATE, arrives)
    return FulfilmentPlan(ready, arrives, closing)


def partition_stores(search: PromiseSearch, stores: Iterable[tuple[Store, int]]) -> tuple[list[str], list[str]]:
    """Splits the stores, each with its distance in metres, into the ids of those that can serve the search now and of the others."""
    serving: list[str] = []
    not_serving: list[str] = []
    for store, metres in stores:
        plans = (plan_fulfilment(store, method, metres, search.at, search.needed_by) for method in search.methods)
        (serving if any(isinstance(plan, FulfilmentPlan) for plan in plans) else not_serving).append(store.id)
    return serving, not_serving


def find_promises(search: PromiseSearch, nearby: Iterable[NearbyStock]) -> tuple[list[Promise], list[Unavailable]]:
    """Returns the promises, soonest first and then nearest, and the unavailable items, nearest first.

    A store's stock of a variant is either promised, once for each method, or unavailable, once.
    """
    promises: list[Promise] = []
    unavailable: list[Unavailable] = []
    for item in nearby:
        kept, obstacles = _evaluate(search, item)
        promises += kept
        if not kept and obstacles:
            unavailable.append(_build_unavailable(item, min(obstacles, key=lambda found: _OBSTACLE_RANK[found.obstacle])))
    promises.sort(
        key=lambda promise: (promise.arrives_at, promise.distance_metres, promise.price.minor, promise.store_id, promise.variant_id)
    )
    unavailable.sort(key=lambda item: (item.distance_metres, item.store_id, item.variant_id))
    return promises[: search.first], unavailable[:UNAVAILABLE_MAX]


def make_promise(nearby: NearbyStock, method: Method, at: datetime, needed_by: datetime | None = None) -> Promise:
    """Returns the promise as of `at`. `Conflict` names the obstacle. The hold that follows checks that the goods are available."""
    plan = plan_fulfilment(nearby.store, method, nearby.distance_metres, at, needed_by)
    if isinstance(plan, FulfilmentPlan):
        return _build_promise(nearby, method, plan)
    until = plan.until.isoformat() if plan.until else ""
    if plan.obstacle is Obstacle.TOO_LATE:
        message = "The goods cannot arrive by `neededBy`. Choose another store, another method or a later time."
        raise Conflict(Reason.TOO_LATE, message, arrives_at=until)
    if plan.obstacle is Obstacle.NOT_DELIVERED_HERE:
        raise _not_delivered_refusal()
    message = "The store is closed, or closes before it can hand the goods over. Choose another store or wait until it opens."
    raise Conflict(Reason.STORE_CLOSED, message, opens_at=until)


def check_delivery(store: Store, position: Point | None, *, promised: bool = False) -> None:
    """Raises `Conflict` if the store does not deliver, or not as far as `position`.

    A `promised` delivery is kept even if the store has stopped delivering since. The distance of an unknown position is not checked.
    """
    metres = distance_metres(position, store.position) if position and store.position else 0
    if not (promised or store.delivers) or metres > ASSUMPTIONS.delivery_metres_max:
        raise _not_delivered_refusal()


_OBSTACLE_RANK = {Obstacle.TOO_LATE: 0, Obstacle.HELD: 1, Obstacle.STORE_CLOSED: 2, Obstacle.NOT_DELIVERED_HERE: 3}
"""Of several obstacles the one with the lowest rank is reported: the one that is easiest to overcome."""


def _evaluate(search: PromiseSearch, nearby: NearbyStock) -> tuple[list[Promise], list[FulfilmentObstacle]]:
    plans = [
        (method, plan_fulfilment(nearby.store, method, nearby.distance_metres, search.at, search.needed_by)) for method in search.methods
    ]
    obstacles = [plan for _, plan in plans if isinstance(plan, FulfilmentObstacle)]
    if available(nearby.stock) > 0:
        return [_build_promise(nearby, method, plan) for method, plan in plans if isinstance(plan, FulfilmentPlan)], obstacles
    if nearby.stock.on_hand - nearby.stock.safety > 0 and len(obstacles) < len(plans):
        return [], [FulfilmentObstacle(Obstacle.HELD, nearby.held_until)]
    return [], []


def _not_delivered_refusal() -> Conflict:
    return Conflict(Reason.NOT_DELIVERED_HERE, "This store does not deliver to this place. Choose pickup or another store.")


def _closed_obstacle(store: Store, after: datetime) -> FulfilmentObstacle:
    opens = next_open(store.opens_minute, store.closes_minute, after, store.zone) if store.active else None
    return FulfilmentObstacle(Obstacle.STORE_CLOSED, opens)


def _build_promise(nearby: NearbyStock, method: Method, plan: FulfilmentPlan) -> Promise:
    return Promise(
        variant_id=nearby.variant.id,
        offer_id=nearby.variant.offer_id,
        brand_id=nearby.variant.brand_id,
        store_id=nearby.store.id,
        store_name=nearby.store.name,
        store_position=nearby.store.position,
        method=method,
        distance_metres=nearby.distance_metres,
        ready_at=plan.ready_at,
        arrives_at=plan.arrives_at,
        open_until=plan.open_until,
        price=nearby.variant.price,
        availability=Availability.LAST_ONE if available(nearby.stock) == 1 else Availability.AVAILABLE,
        name=nearby.variant.name,
        attributes=nearby.variant.attributes,
    )


def _build_unavailable(nearby: NearbyStock, found: FulfilmentObstacle) -> Unavailable:
    return Unavailable(
        variant_id=nearby.variant.id,
        offer_id=nearby.variant.offer_id,
        brand_id=nearby.variant.brand_id,
        store_id=nearby.store.id,
        store_name=nearby.store.name,
        store_position=nearby.store.position,
        distance_metres=nearby.distance_metres,
        obstacle=found.obstacle,
        until=found.until,
        name=nearby.variant.name,
        attributes=nearby.variant.attributes,
    )
