"""A promise never breaks what it is made of: opening hours, preparation, distance, the time it is needed by."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from services.commerce.catalog.rules import Price, Text, Variant
from services.commerce.discovery import rules
from services.commerce.discovery.enums import Obstacle
from services.commerce.discovery.rules import TERMS, Hindrance, Shelf, Way, way
from services.commerce.stock.enums import Availability, Method
from services.commerce.stock.rules import Point, Stock, Store
from services.kit.errors import Conflict, Invalid
from services.kit.values.opening_hours import is_open

EVENING = datetime(2026, 11, 20, 13, 40, tzinfo=UTC)
"""21:40 in Shanghai."""
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
def test_what_is_promised_can_be_kept(store: Store, method: Method, metres: int, at: datetime, within: timedelta | None) -> None:
    needed_by = at + within if within is not None else None
    found = way(store, method, metres, at, needed_by)
    if isinstance(found, Hindrance):
        assert found.obstacle is not Obstacle.TOO_LATE or (found.until and needed_by and found.until > needed_by)
        assert found.obstacle is not Obstacle.STORE_CLOSED or found.until is None or found.until >= at
        return
    assert store.active
    assert is_open(store.opens_minute, store.closes_minute, at, store.zone)
    assert at + TERMS.preparation <= found.ready_at <= found.arrives_at
    assert (found.open_until is None) == (store.opens_minute == 0 and store.closes_minute == 1440)
    if found.open_until is not None:
        assert found.ready_at < found.open_until
        assert method is Method.INSTANT_DELIVERY or found.arrives_at < found.open_until
    assert method is Method.PICKUP or (store.delivers and metres <= TERMS.delivery_metres_max)
    assert needed_by is None or found.arrives_at <= needed_by


@given(STORES, METHODS, METRES, TIMES)
def test_a_store_that_is_open_day_and_night_is_never_closed(store: Store, method: Method, metres: int, at: datetime) -> None:
    found = way(replace(store, opens_minute=0, closes_minute=1440, active=True), method, metres, at)
    assert isinstance(found, Way) or found.obstacle is Obstacle.NOT_DELIVERED_HERE


@given(STORES, METHODS, METRES, METRES, TIMES, st.none() | st.timedeltas(timedelta(), timedelta(hours=12)))
def test_nearer_is_never_later(store: Store, method: Method, one: int, other: int, at: datetime, within: timedelta | None) -> None:
    near, far = sorted((one, other))
    needed_by = at + within if within is not None else None
    farther = way(store, method, far, at, needed_by)
    if isinstance(farther, Way):
        nearer = way(store, method, near, at, needed_by)
        assert isinstance(nearer, Way)
        assert nearer.arrives_at <= farther.arrives_at


def shelf(on_hand: int = 1, reserved: int = 0, metres: int = 600, store: Store = UNTIL_TEN, size: int = 40, **known: datetime) -> Shelf:
    variant = Variant(f"var_{size}", "prd_a", "brd_a", "ofr_a", Text("白衬衫"), Price("CNY", 39_900), "shirt", {"size": str(size)})
    stock = Stock(f"{store.id}:{variant.id}", store.id, variant.id, "brd_a", "brd_a", on_hand, reserved)
    return Shelf(stock, store, variant, metres, **known)


def question(at: datetime = EVENING, **asked: object) -> rules.Search:
    return rules.search(at, **({"near": Point(116.46, 39.93), "text": "白衬衫"} | asked))  # type: ignore[arg-type]


def test_the_last_shirt_before_closing() -> None:
    promises, missed = rules.answer(question(), [shelf()])
    assert [promise.method for promise in promises] == [Method.PICKUP, Method.INSTANT_DELIVERY]
    assert {promise.availability for promise in promises} == {Availability.LAST_ONE}
    assert promises[0].arrives_at == EVENING + timedelta(minutes=10)
    assert promises[0].open_until == EVENING + timedelta(minutes=20)
    assert missed == []


def test_a_second_consumer_is_told_that_the_last_one_is_held_and_until_when() -> None:
    until = EVENING + timedelta(minutes=14)
    promises, missed = rules.answer(question(), [shelf(reserved=1, held_until=until)])
    assert promises == []
    assert [(item.obstacle, item.until) for item in missed] == [(Obstacle.HELD, until)]


def test_what_is_sold_is_not_spoken_of() -> None:
    assert rules.answer(question(), [shelf(on_hand=0)]) == ([], [])


def test_a_closed_store_says_when_it_opens() -> None:
    night = EVENING + timedelta(minutes=12)  # 21:52: ten minutes of preparation end after closing
    promises, missed = rules.answer(question(night), [shelf()])
    assert promises == []
    assert [(item.obstacle, item.until) for item in missed] == [(Obstacle.STORE_CLOSED, datetime(2026, 11, 21, 2, 0, tzinfo=UTC))]


def test_what_comes_too_late_says_when_it_would_come() -> None:
    promises, missed = rules.answer(question(needed_by=EVENING + timedelta(minutes=5)), [shelf()])
    assert promises == []
    assert [(item.obstacle, item.until) for item in missed] == [(Obstacle.TOO_LATE, EVENING + timedelta(minutes=10))]


def test_a_store_that_does_not_deliver_is_no_answer_for_who_waits_for_a_courier() -> None:
    quiet = Store("str_b", "brd_a", "Quiet", None, "Asia/Shanghai", 600, 1320)
    promises, missed = rules.answer(question(methods=[Method.INSTANT_DELIVERY]), [shelf(store=quiet)])
    assert promises == []
    assert [item.obstacle for item in missed] == [Obstacle.NOT_DELIVERED_HERE]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), METRES), max_size=20), st.integers(1, 50))
def test_soonest_first_then_nearest_and_never_more_than_asked(rows: list[tuple[int, int, int]], first: int) -> None:
    shelves = [shelf(on_hand, min(on_hand, reserved), metres) for on_hand, reserved, metres in rows]
    promises, missed = rules.answer(question(first=first), shelves)
    order = [(promise.arrives_at, promise.distance_metres) for promise in promises]
    assert order == sorted(order)
    assert len(promises) <= first
    assert [item.distance_metres for item in missed] == sorted(item.distance_metres for item in missed)
    assert len(missed) <= rules.UNAVAILABLE_MAX


@given(st.lists(st.tuples(STORES, METRES), max_size=12), TIMES, st.none() | st.timedeltas(timedelta(), timedelta(hours=12)))
def test_every_promise_is_of_a_store_that_can_serve(stores: list[tuple[Store, int]], at: datetime, within: timedelta | None) -> None:
    near = [(replace(store, id=f"str_{place}"), metres) for place, (store, metres) in enumerate(stores)]
    asked = question(at, needed_by=at + within if within is not None else None, first=rules.PROMISES_MAX)
    can, cannot = rules.serving(asked, near)
    assert sorted(can + cannot) == sorted(store.id for store, _ in near)
    promises, missed = rules.answer(asked, [shelf(store=store, metres=metres) for store, metres in near])
    assert {promise.store_id for promise in promises} == set(can)
    assert {item.store_id for item in missed} == set(cannot)


def test_a_promise_that_does_not_stand_any_more_says_why() -> None:
    assert rules.promise(shelf(), Method.PICKUP, EVENING).price == Price("CNY", 39_900)
    with pytest.raises(Conflict, match="STORE_CLOSED"):
        rules.promise(shelf(), Method.PICKUP, EVENING + timedelta(hours=1))
    with pytest.raises(Conflict, match="TOO_LATE"):
        rules.promise(shelf(), Method.PICKUP, EVENING, EVENING)
    with pytest.raises(Conflict, match="NOT_DELIVERED_HERE"):
        rules.promise(shelf(metres=9_000), Method.INSTANT_DELIVERY, EVENING)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"near": None}, "NEAR_MISSING"),
        ({"near": Point(float("nan"), 1)}, "NEAR_MISSING"),
        ({"text": " "}, "KIND_MISSING"),
        ({"text": "x" * 201}, "INVALID_FIELD: look for words of at most 200 characters"),
        ({"radius_metres_max": 20_001}, "INVALID_FIELD: look for it within 1 to 20000 metres"),
        ({"first": 51}, "INVALID_FIELD: ask for 1 to 50 promises"),
    ],
)
def test_questions_have_bounds(asked: dict[str, object], reason: str) -> None:
    with pytest.raises(Invalid, match=reason):
        question(**asked)
