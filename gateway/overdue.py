"""Ends what takes too long: one timer for all that may take equally long, so that a bound on each costs a fraction of a microsecond."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


class Overdue:
    """Work of which each piece may take `seconds`. A task does one piece at a time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.until: dict[asyncio.Task[Any], float] = {}
        """The work under way. All may take equally long, so that the first to begin is the first to be overdue."""
        self.ended: set[asyncio.Task[Any]] = set()
        self.timer: asyncio.TimerHandle | None = None

    async def within(self, work: Awaitable[T]) -> T:
        """What the work comes to; TimeoutError when it took too long and was cancelled."""
        task = self.begun()
        try:
            return await work
        except asyncio.CancelledError:
            if self.late(task):
                raise TimeoutError from None
            raise
        finally:
            self.done(task)

    def begun(self) -> asyncio.Task[Any]:
        """The current task, which begins a piece now. Whoever says so says when it is done."""
        task = asyncio.current_task()
        assert task is not None
        loop = task.get_loop()
        self.until[task] = loop.time() + self.seconds
        if self.timer is None:
            self.timer = loop.call_later(self.seconds, self._end, loop)
        return task

    def late(self, task: asyncio.Task[Any]) -> bool:
        """Whether a task that is cancelled is so for its time only."""
        return task in self.ended and task.uncancel() == 0

    def done(self, task: asyncio.Task[Any]) -> None:
        """Its piece is done."""
        del self.until[task]
        self.ended.discard(task)

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancels what is overdue and looks again when the next piece will be."""
        now = loop.time()
        for task, until in self.until.items():
            if until > now:
                self.timer = loop.call_at(until, self._end, loop)
                return
            if task not in self.ended:
                self.ended.add(task)
                task.cancel()
        self.timer = None
