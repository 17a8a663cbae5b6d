"""Lease: a named lock with one holder at a time over all replicas, for the relay and for background work.

MongoDB writes and compares `until` by its own clock (`$$NOW`), so that clocks of replicas are never compared. The holder measures its time
locally, from before it sent the request. So its lease ends locally before it ends at the server: earlier by the duration of the request and
by `MARGIN`. The margin covers clocks that run at different rates, a new primary whose clock differs, and the time that work needs to
stop.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError, PyMongoError

from services.kit.mongo.client import Database
from services.kit.observability.logs import logger

COLLECTION = "leases"
"""The documents are {_id: name, holder, until}: one per lease, never deleted."""
TTL_SECONDS = 15.0
"""A lease that is not renewed ends after this long."""
MARGIN = 0.2
"""The holder does not use this part of the lease's time."""
RENEWALS = 3
"""A holder renews this many times within the time of a lease; the other replicas try to acquire it as often."""


def _seconds() -> float:
    # The monotonic clock of Linux pauses while a machine is suspended; a lease does not.
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Lease:
    """The lease `name` as seen by one process. `clock` returns seconds that never decrease."""

    def __init__(self, database: Database, name: str, *, ttl_seconds: float = TTL_SECONDS, clock: Callable[[], float] = _seconds) -> None:
        self.database, self.name, self.ttl_seconds, self.clock = database, name, ttl_seconds, clock
        self.holder = secrets.token_hex(8)
        self._ends = clock()

    @property
    def remaining_seconds(self) -> float:
        """Seconds for which work may continue; zero if the lease is not held."""
        return max(0.0, self._ends - self.clock())

    @property
    def is_held(self) -> bool:
        """True if work may continue. Check it again after each wait: the process may have been suspended."""
        return self.remaining_seconds > 0

    async def acquire(self) -> bool:
        """Acquires or renews the lease; False while another process holds it. PyMongoError if the database fails."""
        started = self.clock()
        free = {"$or": [{"$eq": ["$holder", self.holder]}, {"$lte": [{"$ifNull": ["$until", "$$NOW"]}, "$$NOW"]}]}
        until = {"$add": ["$$NOW", int(self.ttl_seconds * 1000)]}
        update = {"holder": {"$cond": [free, self.holder, "$holder"]}, "until": {"$cond": [free, until, "$until"]}}
        try:
            lease = await self.database[COLLECTION].find_one_and_update(
                {"_id": self.name}, [{"$set": update}], upsert=True, return_document=ReturnDocument.AFTER
            )
            is_mine = bool(lease["holder"] == self.holder)
        except DuplicateKeyError:
            # Another process has inserted the document at the same moment.
            is_mine = False
        self._ends = started + self.ttl_seconds * (1 - MARGIN) if is_mine else self.clock()
        return is_mine

    async def release(self) -> None:
        """Releases the lease, so that another process can acquire it at once. Work must have stopped."""
        self._ends = self.clock()
        await self.database[COLLECTION].update_one({"_id": self.name, "holder": self.holder}, [{"$set": {"until": "$$NOW"}}])

    async def run_while_held(self, work: Callable[[], Awaitable[None]]) -> None:
        """Runs `work()` while this process holds the lease, and waits for the lease otherwise, until cancelled.

        If the lease cannot be renewed, `work` is cancelled before the lease ends and starts again once it is held. When `work` returns,
        it is called again at the next renewal. An exception of `work` is raised.
        """
        while True:
            if await self._try_acquire(self.ttl_seconds):
                await self._run(work)
            await asyncio.sleep(random.uniform(0.5, 1) * self.ttl_seconds / RENEWALS)

    async def _run(self, work: Callable[[], Awaitable[None]]) -> None:
        working = asyncio.ensure_future(work())
        try:
            while self.is_held and not working.done():
                await asyncio.wait({working}, timeout=min(self.ttl_seconds / RENEWALS, self.remaining_seconds))
                if self.is_held and not working.done():
                    await self._try_acquire(self.remaining_seconds)
            if not working.done():
                logger().warning("lease lost", lease=self.name)
        finally:
            working.cancel()
            await asyncio.wait({working})
            if self.is_held:
                await self._try_release()
        if not working.cancelled():
            working.result()

    async def _try_acquire(self, seconds_max: float) -> bool:
        try:
            async with asyncio.timeout(seconds_max):
                return await self.acquire()
        except (PyMongoError, TimeoutError) as error:
            logger().warning("lease not renewed", lease=self.name, error=type(error).__name__)
            return False

    async def _try_release(self) -> None:
        # If this fails, the lease ends after its time.
        with suppress(PyMongoError, TimeoutError):
            async with asyncio.timeout(self.remaining_seconds):
                await self.release()
