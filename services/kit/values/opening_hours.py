"""Opening hours and local days in IANA time zones. Minutes count from local midnight."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from services.kit.errors import Invalid

DAY_MINUTES = 24 * 60


@lru_cache(maxsize=1024)
def zone_of(name: str) -> ZoneInfo:
    """Returns the zone with an IANA name; `Invalid` if it does not exist."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Invalid("INVALID_ZONE", "`zone` is not an IANA time zone. Use a name like Asia/Shanghai.", field="zone") from None


def local_day(at: datetime, zone: str) -> date:
    """Returns the local day of a moment."""
    return at.astimezone(zone_of(zone)).date()


def local_minute(at: datetime, zone: str) -> int:
    """Returns the minutes since local midnight on the local clock, 0 to 1439."""
    local = at.astimezone(zone_of(zone))
    return local.hour * 60 + local.minute


def moment(day: date, minute: int, zone: str) -> datetime:
    """Returns the moment (UTC) at which the local clock of this day shows `minute`; from 1440 on it is a minute of the next day.

    At the end of daylight saving time, when the clock shows a minute twice, it is the first one. If the clock skips the minute, it is the
    moment of the change.
    """
    return _moments(day, minute, zone)[0]


def _moments(day: date, minute: int, zone: str) -> list[datetime]:
    """Returns all moments, one or two, at which the clock shows this minute."""
    local = datetime.combine(day + timedelta(days=minute // DAY_MINUTES), time(minute % DAY_MINUTES // 60, minute % 60), zone_of(zone))
    first, second = local.astimezone(UTC), local.replace(fold=1).astimezone(UTC)
    if first <= second:
        return sorted({first, second})
    # Skipped: `second` is before the change of the clock and `first` after it.
    after = first.astimezone(zone_of(zone)).utcoffset()
    while second.astimezone(zone_of(zone)).utcoffset() != after:
        second += timedelta(minutes=1)
    return [second]


def _next(at: datetime, days: Sequence[date], minute: int, zone: str) -> datetime:
    """Returns the first moment after `at` at which the clock of one of these days shows this minute."""
    return next(moment for day in days for moment in _moments(day, minute, zone) if moment > at)


def day_start(day: date, zone: str) -> datetime:
    """Returns the moment (UTC) at which a local day starts."""
    return moment(day, 0, zone)


def is_open(opens_minute: int, closes_minute: int, at: datetime, zone: str) -> bool:
    """True if a place with these daily hours is open.

    A closing minute before the opening minute is after midnight. Equal minutes mean never open; 0 to 1440 means always open.
    """
    minute = local_minute(at, zone)
    if opens_minute <= closes_minute:
        return opens_minute <= minute < closes_minute
    return minute >= opens_minute or minute < closes_minute


def closes_at(opens_minute: int, closes_minute: int, at: datetime, zone: str) -> datetime | None:
    """Returns when a place that is open at `at` closes (UTC); None if it is closed or never closes."""
    if not is_open(opens_minute, closes_minute, at, zone) or (opens_minute, closes_minute) == (0, DAY_MINUTES):
        return None
    today = local_day(at, zone)
    return _next(at, (today, today + timedelta(days=1)), closes_minute, zone)


def next_open(opens_minute: int, closes_minute: int, at: datetime, zone: str) -> datetime | None:
    """Returns when a place opens next (UTC): `at` if it is open, None if it never opens."""
    if is_open(opens_minute, closes_minute, at, zone):
        return at
    if (closes_minute - opens_minute) % DAY_MINUTES == 0:
        return None
    today = local_day(at, zone)
    return _next(at, (today, today + timedelta(days=1)), opens_minute, zone)
