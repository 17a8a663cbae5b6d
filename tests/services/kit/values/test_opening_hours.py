"""Tests of local days and opening hours, also across midnight and clock changes."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.errors import Invalid
from services.kit.values import opening_hours

SHANGHAI = "Asia/Shanghai"
zones = st.sampled_from([SHANGHAI, "Europe/Berlin", "America/New_York", "Asia/Kathmandu"])
moments = st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)).map(
    lambda at: at.replace(second=0, microsecond=0)
)
minutes = st.integers(0, 1440)


def test_shanghai_evening_has_local_day_and_hours() -> None:
    at = datetime(2026, 11, 22, 13, 40, tzinfo=UTC)
    assert opening_hours.local_day(at, SHANGHAI) == date(2026, 11, 22)
    assert opening_hours.local_minute(at, SHANGHAI) == 21 * 60 + 40
    assert opening_hours.is_open(600, 1320, at, SHANGHAI)
    assert opening_hours.closes_at(600, 1320, at, SHANGHAI) == at + timedelta(minutes=20)


def test_bar_closes_after_midnight() -> None:
    at = datetime(2026, 11, 22, 17, 0, tzinfo=UTC)
    assert opening_hours.is_open(18 * 60, 2 * 60, at, SHANGHAI)
    assert opening_hours.closes_at(18 * 60, 2 * 60, at, SHANGHAI) == at + timedelta(hours=1)


def changes(zone: str, years: range = range(2024, 2028)) -> list[datetime]:
    """Returns the moments at which the clock of a zone changes."""
    hours = [datetime(year, 1, 1, tzinfo=UTC) + timedelta(hours=hour) for year in years for hour in range(365 * 24)]
    offsets = [at.astimezone(opening_hours.zone_of(zone)).utcoffset() for at in hours]
    return [at for at, before, after in zip(hours[1:], offsets, offsets[1:], strict=False) if before != after]


CHANGES = [(zone, at) for zone in ("Europe/Berlin", "America/New_York", "America/Havana", "Australia/Lord_Howe") for at in changes(zone)]
"""Berlin changes at 2 and 3, New York at 2, Havana at midnight, Lord Howe by half an hour."""
near_changes = st.tuples(st.sampled_from(CHANGES), st.integers(-1600, 1600)).map(
    lambda drawn: (drawn[0][0], drawn[0][1] + timedelta(minutes=drawn[1]))
)
anywhere = st.tuples(zones, moments) | near_changes
night = st.integers(0, 240) | minutes | st.sampled_from([0, opening_hours.DAY_MINUTES])
MINUTE = timedelta(minutes=1)


def test_clock_changes_are_found() -> None:
    assert len(CHANGES) == 4 * 4 * 2


@given(night, night, anywhere)
def test_place_is_open_until_it_closes(opens: int, closes: int, where: tuple[str, datetime]) -> None:
    zone, at = where
    until = opening_hours.closes_at(opens, closes, at, zone)
    always = (opens, closes) == (0, opening_hours.DAY_MINUTES)
    assert (until is not None) == (opening_hours.is_open(opens, closes, at, zone) and not always)
    if until is not None:
        assert at < until <= at + timedelta(hours=25)
        assert opening_hours.is_open(opens, closes, until - MINUTE, zone)


@given(anywhere)
def test_place_open_all_day_never_closes(where: tuple[str, datetime]) -> None:
    zone, at = where
    assert opening_hours.is_open(0, opening_hours.DAY_MINUTES, at, zone)
    assert opening_hours.closes_at(0, opening_hours.DAY_MINUTES, at, zone) is None
    assert opening_hours.next_open(0, opening_hours.DAY_MINUTES, at, zone) == at


@given(night, night, anywhere)
def test_next_opening_is_open_and_not_earlier(opens: int, closes: int, where: tuple[str, datetime]) -> None:
    zone, at = where
    opening = opening_hours.next_open(opens, closes, at, zone)
    assert (opening is None) == (opens == closes or (opens, closes) == (opening_hours.DAY_MINUTES, 0))
    # Opening hours within the minutes that the clock skips are empty that night.
    if opening is not None and (closes - opens) % opening_hours.DAY_MINUTES > 60:
        assert at <= opening <= at + timedelta(hours=25)
        assert opening_hours.is_open(opens, closes, opening, zone)
        assert opening == at or not opening_hours.is_open(opens, closes, opening - MINUTE, zone)


@given(st.dates(date(2020, 1, 1), date(2035, 1, 1)), zones)
def test_days_follow_each_other_without_a_gap(day: date, zone: str) -> None:
    start, end = opening_hours.day_start(day, zone), opening_hours.day_start(day + timedelta(days=1), zone)
    assert timedelta(hours=23) <= end - start <= timedelta(hours=25)
    assert opening_hours.local_day(start, zone) == day
    assert opening_hours.local_day(end - timedelta(minutes=1), zone) == day


@pytest.mark.parametrize("zone", ["", "Nowhere/Land", "../etc/passwd", "/etc"])
def test_unknown_zone_is_refused(zone: str) -> None:
    with pytest.raises(Invalid):
        opening_hours.zone_of(zone)
