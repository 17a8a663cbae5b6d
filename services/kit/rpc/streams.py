"""Limits of streaming rpcs: their number for a process and for a caller, and the time of each. They end at once when the process stops.

A stream that reaches its time limit ends without an error. The client calls again with its cursor and is authorized again.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any

from msgspec import Struct

from services.kit.errors import Overloaded, Unavailable
from services.kit.observability import telemetry
from services.kit.security.caller import Caller, current_caller

WRITE_SECONDS_MAX = 10.0
"""A stream ends if its client does not read a response for this long."""
JITTER = 0.2
"""A stream ends earlier by up to this part of its time, so that streams that started together do not restart together."""


class ConcurrencyLimit:
    """A context manager that at most `limit` tasks enter at once; for more it raises `Overloaded` with the reason."""

    def __init__(self, limit: int, reason: str, message: str) -> None:
        self.limit, self.reason, self.message, self.active = limit, reason, message, 0

    def __enter__(self) -> None:
        if self.active >= self.limit:
            raise Overloaded(self.reason, self.message, most=self.limit)
        self.active += 1

    def __exit__(self, *_: object) -> None:
        self.active -= 1


class StreamBounds(Struct, frozen=True):
    """The maximal number of streams of a process and of one caller, and the maximal time of a stream."""

    streams_max: int
    per_caller_max: int
    seconds_max: float


class Streams:
    """The open streams of one process."""

    def __init__(self, bounds: StreamBounds) -> None:
        self.bounds = bounds
        self.limit = ConcurrencyLimit(
            bounds.streams_max, "TOO_MANY_STREAMS", "This service has too many streams at the moment. Try again later."
        )
        self.per_caller: Counter[tuple[str, str]] = Counter()
        self.is_stopping = False
        self._timeouts: set[asyncio.Timeout] = set()

    def wrap(self, behaviour: Callable[[Any, Any], AsyncGenerator[Any, None]]) -> Callable[[Any, Any], Any]:
        """Converts a servicer's generator of responses to a coroutine that writes them, within the bounds."""

        async def call(request: Any, context: Any) -> None:
            with self._count_caller(current_caller()), telemetry.STREAMS.track_inprogress():
                async with self._time_limit(), aclosing(behaviour(request, context)) as responses:
                    async for response in responses:
                        await _write(context, response)

        return call

    def stop(self) -> None:
        """Ends all streams and refuses new ones with SERVER_STOPPING; the clients continue at another replica."""
        self.is_stopping = True
        for timeout in self._timeouts:
            if not timeout.expired():
                timeout.reschedule(asyncio.get_running_loop().time())

    @contextmanager
    def _count_caller(self, caller: Caller) -> Iterator[None]:
        key = (caller.id, caller.on_behalf_of)
        if self.per_caller[key] >= self.bounds.per_caller_max:
            raise Overloaded("TOO_MANY_STREAMS", "You have too many open streams. Close one first.", most=self.bounds.per_caller_max)
        self.per_caller[key] += 1
        try:
            yield
        finally:
            self.per_caller[key] -= 1
            if not self.per_caller[key]:
                del self.per_caller[key]

    @asynccontextmanager
    async def _time_limit(self) -> AsyncIterator[None]:
        """Cancels the block at the time limit of a stream, without an exception unless the process stops."""
        timeout = asyncio.timeout(self.bounds.seconds_max * random.uniform(1 - JITTER, 1))
        try:
            async with timeout:
                if self.is_stopping:
                    raise _stopping()
                self._timeouts.add(timeout)
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
            if self.is_stopping:
                raise _stopping() from None
        finally:
            self._timeouts.discard(timeout)


async def _write(context: Any, response: Any) -> None:
    try:
        async with asyncio.timeout(WRITE_SECONDS_MAX):
            await context.write(response)
    except TimeoutError:
        raise Overloaded("SUBSCRIBER_TOO_SLOW", "You read the stream too slowly. Call again with your cursor.") from None


def _stopping() -> Unavailable:
    return Unavailable("SERVER_STOPPING", "This server is stopping. Call again with your cursor.")
