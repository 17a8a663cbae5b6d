"""Bulkhead: bounds the operations that wait for one silent service, so that they do not take all slots of the gateway."""

import time
from types import TracebackType

from services.kit.errors import Overloaded, Refusal, Unavailable

SILENT_SECONDS_MAX = 1.0
"""A service is silent if it has not answered for this long while operations wait for it."""


class Bulkhead:
    """The bulkhead of one service: `with bulkhead:` counts one waiting operation.

    It is full if `waiting_max` operations wait and the service is silent.
    """

    def __init__(self, service: str, waiting_max: int) -> None:
        self.service, self.waiting_max = service, waiting_max
        self.waiting = 0
        self.answered_at = 0.0
        """The time of its last answer, or of the first call after an idle time."""

    @property
    def is_full(self) -> bool:
        """True if the service is silent and no further operation may wait for it."""
        return self.waiting >= self.waiting_max and time.monotonic() > self.answered_at + SILENT_SECONDS_MAX

    def __enter__(self) -> None:
        if not self.waiting:
            # An idle service has had nothing to answer.
            self.answered_at = time.monotonic()
        self.waiting += 1

    def __exit__(self, *_: object) -> None:
        self.waiting -= 1

    def record(self, failure: BaseException | None = None) -> None:
        """Records the end of a call. A response or a refusal is an answer; `Unavailable` and other errors are not."""
        if failure is None or (isinstance(failure, Refusal) and not isinstance(failure, Unavailable)):
            self.answered_at = time.monotonic()


class Slot:
    """The slot of one operation in a bulkhead: `with slot:` surrounds each of its calls. Concurrent calls count once.

    Raises `Overloaded` (SERVICE_OVERLOADED) if the bulkhead is full.
    """

    __slots__ = ("bulkhead", "calls")

    def __init__(self, bulkhead: Bulkhead) -> None:
        self.bulkhead, self.calls = bulkhead, 0

    def __enter__(self) -> None:
        if not self.calls:
            if self.bulkhead.is_full:
                raise Overloaded("SERVICE_OVERLOADED", f"Too many operations wait for {self.bulkhead.service}. Retry later.")
            self.bulkhead.__enter__()
        self.calls += 1

    def __exit__(self, kind: type[BaseException] | None, failure: BaseException | None, traceback: TracebackType | None) -> None:
        self.bulkhead.record(failure)
        self.calls -= 1
        if not self.calls:
            self.bulkhead.__exit__()
