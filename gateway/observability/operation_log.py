"""Log and metrics of operations: one line and one observation of the time to answer for each, at its end.

JSON lines are written in batches, up to 50 ms late (`BATCH_SECONDS`). Measured on one object by id (`python -m tests.bench gateway`, goal
1.15 of the floor): 1.31 of the floor with one write per line, 1.12 in batches. A killed process loses the lines of 50 ms. Text lines are
written at once.
"""

import asyncio
import time
from datetime import UTC, datetime
from functools import cache
from typing import Any

import msgspec
from msgspec import Struct
from prometheus_client import Histogram

from services.kit.observability.logs import logger
from services.kit.settings import Settings

BATCH_SECONDS = 0.05
"""A line is written within this time."""
BATCH_SIZE_MAX = 200
"""A batch with this many lines is written at once."""
SUBSCRIPTION = "subscription"
"""The time of operations of this kind is not measured: their clients decide how long they last."""
SECONDS = Histogram(
    "quanyu_graphql_seconds",
    "Time to answer a request.",
    ["operation", "status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)


class OperationRecord(Struct, frozen=True):
    """An operation that has ended."""

    id: str
    operation: str
    status: int
    errors: int
    calls: int
    """Its number of rpcs."""
    seconds: float
    uncompiled: str = ""
    """The reason why graphql-core executed it; empty if the engine did."""
    more: dict[str, Any] = {}
    """Further fields of its log line."""
    ended_at: float = msgspec.field(default_factory=time.time)
    """Seconds since 1970."""

    def fields(self) -> dict[str, Any]:
        """Returns the fields of its log line."""
        fields = {"id": self.id, "operation": self.operation, "status": self.status, "errors": self.errors, "calls": self.calls}
        fields |= {"milliseconds": round(self.seconds * 1000, 2), "timestamp": datetime.fromtimestamp(self.ended_at, UTC)}
        if self.uncompiled:
            fields["uncompiled"] = self.uncompiled
        return fields | self.more


class OperationLog:
    """The operations of a process that have ended and are not written yet."""

    def __init__(self, settings: Settings) -> None:
        self.pending: list[OperationRecord] = []
        self.batch_size = BATCH_SIZE_MAX if settings.log_format == "json" else 1

    def add(self, record: OperationRecord) -> None:
        """Writes the record with the next batch."""
        self.pending.append(record)
        if len(self.pending) >= self.batch_size:
            self.flush()
        elif len(self.pending) == 1:
            asyncio.get_running_loop().call_later(BATCH_SECONDS, self.flush)

    def flush(self) -> None:
        """Writes all pending records."""
        pending, self.pending = self.pending, []
        bound = logger().bind()
        for record in pending:
            if record.operation != SUBSCRIPTION:
                _histogram(record.operation, record.status).observe(record.seconds)
            bound.info("operation", **record.fields())

    def close(self) -> None:
        """Writes all pending records, and later ones at once: the event loop is about to end."""
        self.batch_size = 1
        self.flush()


@cache
def _histogram(operation: str, status: int) -> Histogram:
    return SECONDS.labels(operation, str(status))
