"""Streaming rpcs: at most so many at once and for one caller, each for a bounded time, all ended at once when the process stops.

A stream that ends because its time is over is no failure: its client comes again with its cursor, and is asked anew who it is.
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
from services.kit.security import authorization

WRITE_SECONDS_MAX = 10.0
"""How long one response may wait until the client takes it."""
EARLIER_MAX = 0.2
"""By which part of its time a stream may end earlier, so that those that began together do not come again together."""


class ConcurrencyLimit:
    """At most `most` of something at once; `Overloaded` with the reason for any more."""

    def __init__(self, most: int, reason: str, message: str) -> None:
        self.most, self.reason, self.message, self.taken = most, reason, message, 0

    def __enter__(self) -> None:
        if self.taken >= self.most:
            raise Overloaded(self.reason, self.message, most=self.most)
        self.taken += 1

    def __exit__(self, *_: object) -> None:
        self.taken -= 1


class StreamBounds(Struct, frozen=True):
    """How many streams a process has at once, how many of these one caller may have, and how long each lasts at most."""

    streams_max: int
    of_one_max: int
    seconds_max: float


class Streams:
    """The streams of one process that are under way."""

    def __init__(self, bounds: StreamBounds) -> None:
        self.bounds = bounds
        self.places = ConcurrencyLimit(
            bounds.streams_max, "TOO_MANY_STREAMS", "this service has as many streams as it can carry; try again later"
        )
        self.of_each: Counter[tuple[str, str]] = Counter()
        self.stopping = False
        self._open: set[asyncio.Timeout] = set()

    def written(self, behaviour: Callable[[Any, Any], AsyncGenerator[Any, None]]) -> Callable[[Any, Any], Any]:
        """A servicer's generator of responses as a coroutine that writes them, within the bounds."""

        async def call(request: Any, context: Any) -> None:
            with self._place(authorization.caller()), telemetry.STREAMS.track_inprogress():
                async with self._time(), aclosing(behaviour(request, context)) as responses:
                    async for response in responses:
                        await _write(context, response)

        return call

    def stop(self) -> None:
        """Ends all streams and lets none begin, with SERVER_STOPPING: their clients go on at another replica."""
        self.stopping = True
        for over in self._open:
            if not over.expired():
                over.reschedule(asyncio.get_running_loop().time())

    @contextmanager
    def _place(self, caller: authorization.Caller) -> Iterator[None]:
        who = (caller.id, caller.on_behalf_of)
        if self.of_each[who] >= self.bounds.of_one_max:
            raise Overloaded("TOO_MANY_STREAMS", "you have too many streams open; end one first", most=self.bounds.of_one_max)
        self.of_each[who] += 1
        try:
            yield
        finally:
            self.of_each[who] -= 1
            if not self.of_each[who]:
                del self.of_each[who]

    @asynccontextmanager
    async def _time(self) -> AsyncIterator[None]:
        """The time a stream has: when it is over, what happens inside is cancelled and all is well, unless the process stops."""
        over = asyncio.timeout(self.bounds.seconds_max * random.uniform(1 - EARLIER_MAX, 1))
        try:
            async with over:
                if self.stopping:
                    raise _stopping()
                self._open.add(over)
                yield
        except TimeoutError:
            if not over.expired():
                raise
            if self.stopping:
                raise _stopping() from None
        finally:
            self._open.discard(over)


async def _write(context: Any, response: Any) -> None:
    try:
        async with asyncio.timeout(WRITE_SECONDS_MAX):
            await context.write(response)
    except TimeoutError:
        raise Overloaded("SUBSCRIBER_TOO_SLOW", "the stream was not read; ask again with your cursor") from None


def _stopping() -> Unavailable:
    return Unavailable("SERVER_STOPPING", "this server stops; ask again with your cursor")
