"""Clock: the only module that reads the time of the machine; all others take a `Clock` as an argument.

In development a caller's signed principal may carry an offset, so that a demo story can run at 21:40 at any hour.
"""

from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta

Clock = Callable[[], datetime]

offset: ContextVar[timedelta] = ContextVar("clock_offset", default=timedelta())


def now() -> datetime:
    """Returns the UTC time with the offset of the current caller, in milliseconds as MongoDB stores it."""
    at = datetime.now(UTC) + offset.get()
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def system_now() -> datetime:
    """Returns the UTC time of the machine without the offset of the caller, for background work and expiry."""
    return now() - offset.get()
