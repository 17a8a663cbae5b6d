"""Local time: IANA zones per brand and district say what a day is, and when a place is open. Minutes count from local midnight."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from services.kit.errors import Invalid

DAY_MINUTES = 24 * 60


@lru_cache(maxsize=1024)
def zone_of(name: str) -> ZoneInfo:
    """The zone of an IANA name; `Invalid` when there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Invalid("INVALID_ZONE", "give an IANA zone like Asia/Shanghai", field="zone") from None


def day_of(at: datetime, zone: str) -> date:
    """The local day of a moment."""
    return at.astimezone(zone_of(zone)).date()


def local_minute(at: datetime, zone: str) -> int:
    """Minutes since local midnight on the local clock, 0 to 1439."""
    local = at.astimezone(zone_of(zone))
    return local.hour * 60 + local.minute


def moment(day: date, minute: int, zone: str) -> datetime:
    """The moment (UTC) at which the local clock of that day shows `minute`; minutes of 1440 and more are the next day's.

    A minute that the clock shows twice means the first time; one that it skips, the moment it is put forward.
    """
    return _moments(day, minute, zone)[0]


def _moments(day: date, minute: int, zone: str) -> list[datetime]:
    """All moments, one or two, at which the clock shows this minute."""
    local = datetime.combine(day + timedelta(days=minute // DAY_MINUTES), time(minute % DAY_MINUTES // 60, minute % 60), zone_of(zone))
    first, again = local.astimezone(UTC), local.replace(fold=1).astimezone(UTC)
    if first <= again:
        return sorted({first, again})
    # Skipped: `again` lies before the change and `first` behind it.
    after = first.astimezone(zone_of(zone)).utcoffset()
    while again.astimezone(zone_of(zone)).utcoffset() != after:
        again += timedelta(minutes=1)
    return [again]


def _next(at: datetime, days: Sequence[date], minute: int, zone: str) -> datetime:
    """The first moment after `at` at which the clock of one of these days shows this minute."""
    return next(shown for day in days for shown in _moments(day, minute, zone) if shown > at)


def day_start(day: date, zone: str) -> datetime:
    """The moment (UTC) a local day begins."""
    return moment(day, 0, zone)


def is_open(opens_minute: int, closes_minute: int, at: datetime, zone: str) -> bool:
    """Whether a place with these daily hours is open.

    Closing before opening means after midnight; equal means never open; from 0 to 1440, day and night.
    """
    minute = local_minute(at, zone)
    if opens_minute <= closes_minute:
        return opens_minute <= minute < closes_minute
    return minute >= opens_minute or minute < closes_minute


def closes_at(opens_minute: int, closes_minute: int, at: datetime, zone: str) -> datetime | None:
    """When a place that is open at `at` closes (UTC); None when it is not open, or never closes: its day ends as the next one begins."""
    if not is_open(opens_minute, closes_minute, at, zone) or (opens_minute, closes_minute) == (0, DAY_MINUTES):
        return None
    today = day_of(at, zone)
    return _next(at, (today, today + timedelta(days=1)), closes_minute, zone)


def next_open(opens_minute: int, closes_minute: int, at: datetime, zone: str) -> datetime | None:
    """When a place opens next (UTC), `at` itself while it is open; None when it never does."""
    if is_open(opens_minute, closes_minute, at, zone):
        return at
    if (closes_minute - opens_minute) % DAY_MINUTES == 0:
        return None
    today = day_of(at, zone)
    return _next(at, (today, today + timedelta(days=1)), opens_minute, zone)
