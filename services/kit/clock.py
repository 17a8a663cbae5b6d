"""Time as an argument: nobody but this module asks the machine for it.

In development a caller's signed principal may carry an offset, so that a story can be played at 21:40 whatever the hour.
"""

from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta

Clock = Callable[[], datetime]

offset: ContextVar[timedelta] = ContextVar("clock_offset", default=timedelta())


def now() -> datetime:
    """UTC, to the millisecond (what MongoDB keeps), moved by the current caller's offset."""
    at = datetime.now(UTC) + offset.get()
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def real() -> datetime:
    """The machine's own time, whatever the caller's offset: for what happens by itself after a while."""
    return now() - offset.get()
