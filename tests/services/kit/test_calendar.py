"""Local days and opening hours, also across midnight and clock changes."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit import calendar
from services.kit.errors import Invalid

SHANGHAI = "Asia/Shanghai"
zones = st.sampled_from([SHANGHAI, "Europe/Berlin", "America/New_York", "Asia/Kathmandu"])
moments = st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)).map(
    lambda at: at.replace(second=0, microsecond=0)
)
minutes = st.integers(0, 1439)


def test_the_walk_happens_on_a_shanghai_evening() -> None:
    at = datetime(2026, 11, 22, 13, 40, tzinfo=UTC)
    assert calendar.day_of(at, SHANGHAI) == date(2026, 11, 22)
    assert calendar.local_minute(at, SHANGHAI) == 21 * 60 + 40
    assert calendar.is_open(600, 1320, at, SHANGHAI)
    assert calendar.closes_at(600, 1320, at, SHANGHAI) == at + timedelta(minutes=20)


def test_a_bar_closes_after_midnight() -> None:
    at = datetime(2026, 11, 22, 17, 0, tzinfo=UTC)
    assert calendar.is_open(18 * 60, 2 * 60, at, SHANGHAI)
    assert calendar.closes_at(18 * 60, 2 * 60, at, SHANGHAI) == at + timedelta(hours=1)


@given(minutes, minutes, moments, zones)
def test_a_place_is_open_until_it_closes(opens: int, closes: int, at: datetime, zone: str) -> None:
    until = calendar.closes_at(opens, closes, at, zone)
    assert (until is not None) == calendar.is_open(opens, closes, at, zone)
    if until is not None:
        assert at - timedelta(hours=1) < until <= at + timedelta(hours=25)
        assert calendar.local_minute(until, zone) == closes or zone != SHANGHAI


@given(minutes, minutes, moments)
def test_the_next_opening_is_open_and_not_before_now(opens: int, closes: int, at: datetime) -> None:
    opening = calendar.next_open(opens, closes, at, SHANGHAI)
    assert (opening is None) == (opens == closes)
    if opening is not None:
        assert opening >= at
        assert calendar.is_open(opens, closes, opening, SHANGHAI)


@given(st.dates(date(2020, 1, 1), date(2035, 1, 1)), zones)
def test_days_follow_each_other_without_a_gap(day: date, zone: str) -> None:
    start, end = calendar.day_start(day, zone), calendar.day_start(day + timedelta(days=1), zone)
    assert timedelta(hours=23) <= end - start <= timedelta(hours=25)
    assert calendar.day_of(start, zone) == day
    assert calendar.day_of(end - timedelta(minutes=1), zone) == day


@pytest.mark.parametrize("zone", ["", "Nowhere/Land", "../etc/passwd", "/etc"])
def test_an_unknown_zone_is_refused(zone: str) -> None:
    with pytest.raises(Invalid):
        calendar.zone_of(zone)
