"""What is told of operations once they have ended: a line of the log for each, and their time among the metrics.

As JSON, for machines, they are told together. What a request does once finds none of it in the processor's caches and costs it thrice
what it costs in a row; a line in a write of its own was a twentieth of what one object costs.
"""

import asyncio
import time
from functools import cache
from typing import Any

import msgspec
from msgspec import Struct
from prometheus_client import Histogram

from services.kit import logs

TOGETHER_SECONDS = 0.05
"""For which what has ended is kept, at most: whoever kills the process loses the lines of as long."""
TOGETHER_MAX = 200
LASTING = "subscription"
"""Operations of this kind take as long as their clients like, which is no time to answer."""
SECONDS = Histogram(
    "quanyu_graphql_seconds",
    "Time to answer a request.",
    ["operation", "status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)


class Ended(Struct, frozen=True):
    """An operation that has ended: `calls` are its rpcs, `uncompiled` says why it did not run compiled, `more` is for its line only."""

    id: str
    operation: str
    status: int
    errors: int
    calls: int
    seconds: float
    uncompiled: str = ""
    more: dict[str, Any] = {}
    at: float = msgspec.field(default_factory=time.time)
    """Seconds since 1970."""

    def fields(self) -> dict[str, Any]:
        """Those of its line."""
        told = {"id": self.id, "operation": self.operation, "status": self.status, "errors": self.errors, "calls": self.calls}
        told["milliseconds"] = round(self.seconds * 1000, 2)
        if self.uncompiled:
            told["uncompiled"] = self.uncompiled
        return told | self.more


class Journal:
    """Those that have ended and are not told of yet."""

    def __init__(self) -> None:
        self.ended: list[Ended] = []
        self.closed = False

    def add(self, ended: Ended) -> None:
        """Tells of it, soon."""
        waiting = self.ended
        waiting.append(ended)
        if self.closed or logs.lines is None or len(waiting) >= TOGETHER_MAX:
            self.tell()
        elif len(waiting) == 1:
            asyncio.get_running_loop().call_later(TOGETHER_SECONDS, self.tell)

    def tell(self) -> None:
        """Tells of all now."""
        ended, self.ended = self.ended, []
        for each in ended:
            if each.operation != LASTING:
                timed(each.operation, each.status).observe(each.seconds)
        logs.tell("operation", [(each.at, each.fields()) for each in ended])

    def close(self) -> None:
        """The process ends: from now on each is told of at once."""
        self.closed = True
        self.tell()


@cache
def timed(operation: str, status: int) -> Histogram:
    """The histogram of such answers."""
    return SECONDS.labels(operation, str(status))
