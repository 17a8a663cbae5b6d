"""How a connection that lasts comes to its end: its client goes, its token expires, the process stops, or it goes wrong itself."""

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


def stopping() -> Unavailable:
    """What is said when the process stops."""
    return Unavailable(STOPPING, "this server stops; connect again")


class Endings:
    """All connections of this process that last."""

    def __init__(self) -> None:
        self.open: set[Ending] = set()
        self.none = asyncio.Event()
        self.none.set()
        self.stopped = False

    @contextmanager
    def one(self) -> Iterator["Ending"]:
        """The end of a connection that begins; `stop` waits until the block is left."""
        ending = Ending()
        self.open.add(ending)
        self.none.clear()
        if self.stopped:
            ending.end(stopping())
        try:
            yield ending
        finally:
            self.open.discard(ending)
            if not self.open:
                self.none.set()

    async def stop(self) -> None:
        """Ends all of them, and waits until they have said so; at most `STOP_SECONDS_MAX`."""
        self.stopped = True
        for ending in self.open:
            ending.end(stopping())
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS_MAX):
                await self.none.wait()


class Ending:
    """The end of one connection, as a block: its tasks and timers end with it. `why` it ended; None: it was done or its client went."""

    def __init__(self) -> None:
        self.why: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.tasks: set[asyncio.Task[None]] = set()
        self.timers: list[asyncio.TimerHandle] = []

    async def __aenter__(self) -> "Ending":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        for timer in self.timers:
            timer.cancel()
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks)

    def end(self, failure: Exception | None) -> None:
        """Ends it, for the reason that is told first."""
        if not self.why.done():
            self.why.set_result(failure)

    def later(self, seconds: float, failure: Exception) -> asyncio.TimerHandle:
        """Ends it then unless the timer is cancelled."""
        timer = asyncio.get_running_loop().call_later(seconds, self.end, failure)
        self.timers.append(timer)
        return timer

    def expire(self, expires_at: float | None) -> None:
        """Ends it with the token that expires then; None: it has none."""
        if expires_at is not None:
            self.later(max(0.0, expires_at + CLOCK_SKEW_SECONDS - time.time()), token_expired_error())

    def task(self, work: Coroutine[Any, Any, None], *, ends: bool = True) -> "asyncio.Task[None]":
        """Does this meanwhile. `ends`: when it is done or fails, the connection ends; else only when it fails."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done if ends else self._left)
        return task

    def _done(self, task: "asyncio.Task[None]") -> None:
        self.tasks.discard(task)
        failure = None if task.cancelled() else task.exception()
        self.end(failure if isinstance(failure, Exception) else None)

    def _left(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled() or task.exception() is None:
            self.tasks.discard(task)
        else:
            self._done(task)
