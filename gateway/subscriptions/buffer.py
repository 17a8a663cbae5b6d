"""Events between the service that tells them and the client that takes them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from msgspec import Struct

from services.kit.errors import Overloaded

T = TypeVar("T")
TOO_SLOW = "SUBSCRIBER_TOO_SLOW"
FULL_SECONDS_MAX = 5.0
"""For which a buffer may stay full: who catches up gets many events at once, and the service waits meanwhile."""


class _End(Struct, frozen=True):
    failure: Exception | None = None


async def buffered(source: AsyncGenerator[T, None], most: int) -> AsyncGenerator[T, None]:
    """The events of the source, of which `most` wait at a time; the source's failure ends them.

    When nothing is taken from a full buffer, what waits is forgotten: `Overloaded` (SUBSCRIBER_TOO_SLOW). The source is closed with this.
    """
    waiting: asyncio.Queue[T | _End] = asyncio.Queue(most)
    task = asyncio.create_task(_fill(source, waiting))
    try:
        while not isinstance(event := await waiting.get(), _End):
            yield event
        if event.failure is not None:
            raise event.failure
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _fill(source: AsyncGenerator[T, None], waiting: "asyncio.Queue[T | _End]") -> None:
    try:
        async with aclosing(source):
            async for event in source:
                await _put(waiting, event)
        await _put(waiting, _End())
    except Exception as failure:
        while not waiting.empty():
            waiting.get_nowait()
        waiting.put_nowait(_End(failure))


async def _put(waiting: "asyncio.Queue[T | _End]", event: T | _End) -> None:
    if not waiting.full():
        waiting.put_nowait(event)
        return
    try:
        async with asyncio.timeout(FULL_SECONDS_MAX):
            await waiting.put(event)
    except TimeoutError:
        raise Overloaded(TOO_SLOW, "events come faster than you take them; subscribe again after your last cursor") from None
