"""A lease: one holder at a time over all replicas, for the relay and for background work.

`until` is written and compared by MongoDB's own clock (`$$NOW`), so that no two replicas' clocks are ever held against each other.
The holder measures its time locally, from before it asked: its own end comes before the server's `until` by the time the answer
took and by `MARGIN`. The margin covers what is left: clocks that run at different rates, a primary elected meanwhile whose clock
differs, and the time the work needs to stop.
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
"""{_id: name, holder, until}; one row per lease, never deleted."""
TTL_SECONDS = 15.0
MARGIN = 0.2
"""The part of a lease's time that its holder does not use."""
RENEWALS = 3
"""Renewals tried within the time of one lease; others who want it look as often."""


def _seconds() -> float:
    # Linux's monotonic clock stands still while a machine sleeps; a lease does not.
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Lease:
    """The lease `name` as one process sees it. `clock` gives seconds that never step back."""

    def __init__(self, database: Database, name: str, *, ttl_seconds: float = TTL_SECONDS, clock: Callable[[], float] = _seconds) -> None:
        self.database, self.name, self.ttl_seconds, self.clock = database, name, ttl_seconds, clock
        self.holder = secrets.token_hex(8)
        self._ends = clock()

    @property
    def remaining_seconds(self) -> float:
        """How long work may go on; zero when the lease is not held."""
        return max(0.0, self._ends - self.clock())

    @property
    def held(self) -> bool:
        """Whether work may go on. Ask again after each wait: the process may have been paused."""
        return self.remaining_seconds > 0

    async def take(self) -> bool:
        """Takes the lease or renews it; False while another holds it. PyMongoError when the database does not say."""
        asked = self.clock()
        free = {"$or": [{"$eq": ["$holder", self.holder]}, {"$lte": [{"$ifNull": ["$until", "$$NOW"]}, "$$NOW"]}]}
        until = {"$add": ["$$NOW", int(self.ttl_seconds * 1000)]}
        taken = {"holder": {"$cond": [free, self.holder, "$holder"]}, "until": {"$cond": [free, until, "$until"]}}
        try:
            row = await self.database[COLLECTION].find_one_and_update(
                {"_id": self.name}, [{"$set": taken}], upsert=True, return_document=ReturnDocument.AFTER
            )
            mine = bool(row["holder"] == self.holder)
        except DuplicateKeyError:
            # Another made the row at the same moment.
            mine = False
        self._ends = asked + self.ttl_seconds * (1 - MARGIN) if mine else self.clock()
        return mine

    async def release(self) -> None:
        """Lets others have it at once. Work must have stopped."""
        self._ends = self.clock()
        await self.database[COLLECTION].update_one({"_id": self.name, "holder": self.holder}, [{"$set": {"until": "$$NOW"}}])

    async def keep(self, work: Callable[[], Awaitable[None]]) -> None:
        """Until cancelled: runs `work()` while this process holds the lease, and waits for it otherwise.

        When the lease cannot be renewed, work is cancelled before the lease ends and begins anew once it is held again.
        Work that returns has finished for this turn and is called again at the next renewal. What it raises ends this, too.
        """
        while True:
            if await self._try(self.ttl_seconds):
                await self._while_held(work)
            await asyncio.sleep(random.uniform(0.5, 1) * self.ttl_seconds / RENEWALS)

    async def _while_held(self, work: Callable[[], Awaitable[None]]) -> None:
        working = asyncio.ensure_future(work())
        try:
            while self.held and not working.done():
                await asyncio.wait({working}, timeout=min(self.ttl_seconds / RENEWALS, self.remaining_seconds))
                if self.held and not working.done():
                    await self._try(self.remaining_seconds)
            if not working.done():
                logger().warning("lease lost", lease=self.name)
        finally:
            working.cancel()
            await asyncio.wait({working})
            if self.held:
                await self._let_go()
        if not working.cancelled():
            working.result()

    async def _try(self, bound_seconds: float) -> bool:
        try:
            async with asyncio.timeout(bound_seconds):
                return await self.take()
        except (PyMongoError, TimeoutError) as error:
            logger().warning("lease not answered", lease=self.name, error=type(error).__name__)
            return False

    async def _let_go(self) -> None:
        # Unanswered, it ends by itself.
        with suppress(PyMongoError, TimeoutError):
            async with asyncio.timeout(self.remaining_seconds):
                await self.release()
