"""Bounded buffer of events between the stream of a service and a client."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from msgspec import Struct

from services.kit.errors import Overloaded

T = TypeVar("T")
TOO_SLOW = "SUBSCRIBER_TOO_SLOW"
FULL_SECONDS_MAX = 5.0
"""A buffer may stay full this long. Meanwhile the service waits, because a client that resumes receives many events at once."""


class _End(Struct, frozen=True):
    """The end of the events, or the failure that ended them."""

    failure: Exception | None = None


async def buffer_events(source: AsyncGenerator[T, None], events_max: int) -> AsyncGenerator[T, None]:
    """Yields the events of the source, of which at most `events_max` are buffered. Raises the failure of the source.

    If the buffer stays full, its events are dropped and `Overloaded` (SUBSCRIBER_TOO_SLOW) is raised. The source is closed at the end.
    """
    buffer: asyncio.Queue[T | _End] = asyncio.Queue(events_max)
    task = asyncio.create_task(_fill(source, buffer))
    try:
        while not isinstance(event := await buffer.get(), _End):
            yield event
        if event.failure is not None:
            raise event.failure
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _fill(source: AsyncGenerator[T, None], buffer: "asyncio.Queue[T | _End]") -> None:
    try:
        async with aclosing(source):
            async for event in source:
                await _put(buffer, event)
        await _put(buffer, _End())
    except Exception as failure:
        while not buffer.empty():
            buffer.get_nowait()
        buffer.put_nowait(_End(failure))


async def _put(buffer: "asyncio.Queue[T | _End]", event: T | _End) -> None:
    if not buffer.full():
        buffer.put_nowait(event)
        return
    try:
        async with asyncio.timeout(FULL_SECONDS_MAX):
            await buffer.put(event)
    except TimeoutError:
        raise Overloaded(TOO_SLOW, "Events arrive faster than you read them. Subscribe again after your last cursor.") from None
