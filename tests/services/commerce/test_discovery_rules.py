"""Rules of promise search: a promise respects opening hours, preparation, distance and the time it is needed by."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from services.commerce.catalog.rules import Price, Text, Variant
from services.commerce.discovery import rules
from services.commerce.discovery.enums import Obstacle
from services.commerce.discovery.rules import ASSUMPTIONS, FulfilmentObstacle, FulfilmentPlan, NearbyStock, plan_fulfilment
from services.commerce.stock.enums import Availability, Method
from services.commerce.stock.rules import Point, Stock, Store
from services.kit.errors import Conflict, Invalid
from services.kit.values.opening_hours import is_open

EVENING = datetime(2026, 11, 20, 13, 40, tzinfo=UTC)
"""The time of the searches: 21:40 in Shanghai."""
UNTIL_TEN = Store("str_a", "brd_a", "Sanlitun", Point(116.45, 39.93), "Asia/Shanghai", 600, 1320, delivers=True)
TIMES = st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 30), timezones=st.just(UTC))
STORES = st.builds(
    Store,
    id=st.just("str_a"),
    brand_id=st.just("brd_a"),
    zone=st.sampled_from(["Asia/Shanghai", "America/New_York", "Asia/Kolkata"]),
    opens_minute=st.integers(0, 1439),
    closes_minute=st.integers(0, 1440),
    delivers=st.booleans(),
    active=st.booleans(),
)
METHODS = st.sampled_from(list(rules.METHODS))
METRES = st.integers(0, rules.RADIUS_METRES_MAX)


@given(STORES, METHODS, METRES, TIMES, st.none() | st.timedeltas(timedelta(), timedelta(hours=12)))
def test_plan_respects_hours_distance_and_needed_by(
    store: Store, method: Method, metres: int, at: datetime, within: timedelta | None
) -> None:
    needed_by = at + within if within is not None else None
    found = plan_fulfilment(store, method, metres, at, needed_by)
    if isinstance(found, FulfilmentObstacle):
        assert found.obstacle is not Obstacle.TOO_LATE or (found.until and needed_by and found.until > needed_by)
        assert found.obstacle is not Obstacle.STORE_CLOSED or found.until is None or found.until >= at
        return
    assert store.active
    assert is_open(store.opens_minute, store.closes_minute, at, store.zone)
    assert at + ASSUMPTIONS.preparation <= found.ready_at <= found.arrives_at
    assert (found.open_until is None) == (store.opens_minute == 0 and store.closes_minute == 1440)
    if found.open_until is not None:
        assert found.ready_at < found.open_until
        assert method is Method.INSTANT_DELIVERY or found.arrives_at < found.open_until
    assert method is Method.PICKUP or (store.delivers and metres <= ASSUMPTIONS.delivery_metres_max)
    assert needed_by is None or found.arrives_at <= needed_by


@given(STORES, METHODS, METRES, TIMES)
def test_always_open_store_is_never_closed(store: Store, method: Method, metres: int, at: datetime) -> None:
    found = plan_fulfilment(replace(store, opens_minute=0, closes_minute=1440, active=True), method, metres, at)
    assert isinstance(found, FulfilmentPlan) or found.obstacle is Obstacle.NOT_DELIVERED_HERE


@given(STORES, METHODS, METRES, METRES, TIMES, st.none() | st.timedeltas(timedelta(), timedelta(hours=12)))
def test_nearer_store_is_never_later(store: Store, method: Method, one: int, other: int, at: datetime, within: timedelta | None) -> None:
    near, far = sorted((one, other))
    needed_by = at + within if within is not None else None
    farther = plan_fulfilment(store, method, far, at, needed_by)
    if isinstance(farther, FulfilmentPlan):
        nearer = plan_fulfilment(store, method, near, at, needed_by)
        assert isinstance(nearer, FulfilmentPlan)
        assert nearer.arrives_at <= farther.arrives_at


def nearby_stock(
    on_hand: int = 1, reserved: int = 0, metres: int = 600, store: Store = UNTIL_TEN, size: int = 40, **fields: datetime
) -> NearbyStock:
    variant = Variant(f"var_{size}", "prd_a", "brd_a", "ofr_a", Text("白衬衫"), Price("CNY", 39_900), "shirt", {"size": str(size)})
    stock = Stock(f"{store.id}:{variant.id}", store.id, variant.id, "brd_a", "brd_a", on_hand, reserved)
    return NearbyStock(stock, store, variant, metres, **fields)


def make_search(at: datetime = EVENING, **fields: object) -> rules.PromiseSearch:
    return rules.build_search(at, **({"near": Point(116.46, 39.93), "text": "白衬衫"} | fields))  # type: ignore[arg-type]


def test_last_piece_before_closing_is_promised() -> None:
    promises, unavailable = rules.find_promises(make_search(), [nearby_stock()])
    assert [promise.method for promise in promises] == [Method.PICKUP, Method.INSTANT_DELIVERY]
    assert {promise.availability for promise in promises} == {Availability.LAST_ONE}
    assert promises[0].arrives_at == EVENING + timedelta(minutes=10)
    assert promises[0].open_until == EVENING + timedelta(minutes=20)
    assert unavailable == []


def test_held_last_piece_says_until_when() -> None:
    until = EVENING + timedelta(minutes=14)
    promises, unavailable = rules.find_promises(make_search(), [nearby_stock(reserved=1, held_until=until)])
    assert promises == []
    assert [(item.obstacle, item.until) for item in unavailable] == [(Obstacle.HELD, until)]


def test_sold_out_stock_is_left_out() -> None:
    assert rules.find_promises(make_search(), [nearby_stock(on_hand=0)]) == ([], [])


def test_closed_store_says_when_it_opens() -> None:
    night = EVENING + timedelta(minutes=12)  # 21:52: ten minutes of preparation end after closing
    promises, unavailable = rules.find_promises(make_search(night), [nearby_stock()])
    assert promises == []
    assert [(item.obstacle, item.until) for item in unavailable] == [(Obstacle.STORE_CLOSED, datetime(2026, 11, 21, 2, 0, tzinfo=UTC))]


def test_late_arrival_says_when_it_would_arrive() -> None:
    promises, unavailable = rules.find_promises(make_search(needed_by=EVENING + timedelta(minutes=5)), [nearby_stock()])
    assert promises == []
    assert [(item.obstacle, item.until) for item in unavailable] == [(Obstacle.TOO_LATE, EVENING + timedelta(minutes=10))]


def test_delivery_search_skips_stores_without_delivery() -> None:
    quiet = Store("str_b", "brd_a", "Quiet", None, "Asia/Shanghai", 600, 1320)
    promises, unavailable = rules.find_promises(make_search(methods=[Method.INSTANT_DELIVERY]), [nearby_stock(store=quiet)])
    assert promises == []
    assert [item.obstacle for item in unavailable] == [Obstacle.NOT_DELIVERED_HERE]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), METRES), max_size=20), st.integers(1, 50))
def test_promises_are_sorted_and_limited(rows: list[tuple[int, int, int]], first: int) -> None:
    nearby = [nearby_stock(on_hand, min(on_hand, reserved), metres) for on_hand, reserved, metres in rows]
    promises, unavailable = rules.find_promises(make_search(first=first), nearby)
    order = [(promise.arrives_at, promise.distance_metres) for promise in promises]
    assert order == sorted(order)
    assert len(promises) <= first
    assert [item.distance_metres for item in unavailable] == sorted(item.distance_metres for item in unavailable)
    assert len(unavailable) <= rules.UNAVAILABLE_MAX


@given(st.lists(st.tuples(STORES, METRES), max_size=12), TIMES, st.none() | st.timedeltas(timedelta(), timedelta(hours=12)))
def test_promises_come_from_serving_stores_only(stores: list[tuple[Store, int]], at: datetime, within: timedelta | None) -> None:
    near = [(replace(store, id=f"str_{index}"), metres) for index, (store, metres) in enumerate(stores)]
    search = make_search(at, needed_by=at + within if within is not None else None, first=rules.PROMISES_MAX)
    serving, not_serving = rules.partition_stores(search, near)
    assert sorted(serving + not_serving) == sorted(store.id for store, _ in near)
    promises, unavailable = rules.find_promises(search, [nearby_stock(store=store, metres=metres) for store, metres in near])
    assert {promise.store_id for promise in promises} == set(serving)
    assert {item.store_id for item in unavailable} == set(not_serving)


def test_broken_promise_names_its_obstacle() -> None:
    assert rules.make_promise(nearby_stock(), Method.PICKUP, EVENING).price == Price("CNY", 39_900)
    with pytest.raises(Conflict, match="STORE_CLOSED"):
        rules.make_promise(nearby_stock(), Method.PICKUP, EVENING + timedelta(hours=1))
    with pytest.raises(Conflict, match="TOO_LATE"):
        rules.make_promise(nearby_stock(), Method.PICKUP, EVENING, EVENING)
    with pytest.raises(Conflict, match="NOT_DELIVERED_HERE"):
        rules.make_promise(nearby_stock(metres=9_000), Method.INSTANT_DELIVERY, EVENING)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"near": None}, "NEAR_MISSING"),
        ({"near": Point(float("nan"), 1)}, "NEAR_MISSING"),
        ({"text": " "}, "KIND_MISSING"),
        ({"text": "x" * 201}, "INVALID_FIELD: The text must have at most 200 characters."),
        ({"radius_metres_max": 20_001}, "INVALID_FIELD: The radius must be 1 to 20000 metres."),
        ({"first": 51}, "INVALID_FIELD: `first` must be 1 to 50."),
    ],
)
def test_search_out_of_bounds_is_refused(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(Invalid, match=reason):
        make_search(**fields)
