"""Lifetime of a long-lived connection: it ends by its client, the expiry of its token, a failure, or the stop of the process."""

import asyncio
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from gateway.auth.bearer_tokens import CLOCK_SKEW_SECONDS, token_expired_error
from services.kit.errors import Unavailable

STOPPING = "SERVER_STOPPING"
STOP_SECONDS_MAX = 2.0
"""At a stop, the process waits this long for its connections to send their last message."""


def server_stopping_error() -> Unavailable:
    """Returns the reason of a connection's end when the process stops."""
    return Unavailable(STOPPING, "This server is stopping. Connect again.")


class LifetimeRegistry:
    """The lifetimes of all long-lived connections of this process."""

    def __init__(self) -> None:
        self.lifetimes: set[Lifetime] = set()
        self.all_ended = asyncio.Event()
        self.all_ended.set()
        self.is_stopping = False

    @contextmanager
    def register(self) -> Iterator["Lifetime"]:
        """Yields the lifetime of a new connection; `stop` waits until the block ends."""
        lifetime = Lifetime()
        self.lifetimes.add(lifetime)
        self.all_ended.clear()
        if self.is_stopping:
            lifetime.end(server_stopping_error())
        try:
            yield lifetime
        finally:
            self.lifetimes.discard(lifetime)
            if not self.lifetimes:
                self.all_ended.set()

    async def stop(self) -> None:
        """Ends all connections, and waits at most `STOP_SECONDS_MAX` until they are closed."""
        self.is_stopping = True
        for lifetime in self.lifetimes:
            lifetime.end(server_stopping_error())
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS_MAX):
                await self.all_ended.wait()


class Lifetime:
    """The lifetime of one connection, as an async block: its tasks and timers end with the block."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        """The reason of the end; None: all work is done or the client has disconnected."""
        self.tasks: set[asyncio.Task[None]] = set()
        self.timers: list[asyncio.TimerHandle] = []

    async def __aenter__(self) -> "Lifetime":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        for timer in self.timers:
            timer.cancel()
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks)

    def end(self, reason: Exception | None) -> None:
        """Ends the connection. The first reason counts."""
        if not self.ended.done():
            self.ended.set_result(reason)

    def end_after(self, seconds: float, reason: Exception) -> asyncio.TimerHandle:
        """Ends the connection after this time, unless the returned timer is cancelled."""
        timer = asyncio.get_running_loop().call_later(seconds, self.end, reason)
        self.timers.append(timer)
        return timer

    def end_with_token(self, expires_at: float | None) -> None:
        """Ends the connection when its token expires (Unix seconds); None: it has no token."""
        if expires_at is not None:
            self.end_after(max(0.0, expires_at + CLOCK_SKEW_SECONDS - time.time()), token_expired_error())

    def start_task(self, work: Coroutine[Any, Any, None], *, ends_connection: bool = True) -> "asyncio.Task[None]":
        """Starts a task. Its failure ends the connection; its normal end does so only if `ends_connection`."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._end_with if ends_connection else self._end_with_failure)
        return task

    def _end_with(self, task: "asyncio.Task[None]") -> None:
        self.tasks.discard(task)
        failure = None if task.cancelled() else task.exception()
        self.end(failure if isinstance(failure, Exception) else None)

    def _end_with_failure(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled() or task.exception() is None:
            self.tasks.discard(task)
        else:
            self._end_with(task)
