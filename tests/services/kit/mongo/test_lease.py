"""Tests of the lease: one holder at a time; a holder that loses it stops before the next one starts."""

import asyncio
from itertools import pairwise

import pytest
from pymongo.errors import AutoReconnect

from services.kit.mongo.client import Database
from services.kit.mongo.lease import COLLECTION, MARGIN, Lease
from tests.services.kit.event_services import wait_until

TTL = 1.0


class ManualClock:
    """A clock that a test sets."""

    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


async def test_one_of_many_concurrent_requests_acquires_it(database: Database) -> None:
    leases = [Lease(database, "work", ttl_seconds=60) for _ in range(12)]
    results = await asyncio.gather(*(lease.acquire() for lease in leases))
    assert sum(results) == 1
    assert [lease.is_held for lease in leases] == results
    assert await database[COLLECTION].count_documents({}) == 1


async def test_holder_renews_and_others_wait(database: Database) -> None:
    mine, other = Lease(database, "work", ttl_seconds=60), Lease(database, "work", ttl_seconds=60)
    assert await mine.acquire() and await mine.acquire()
    assert not await other.acquire()
    assert await Lease(database, "other work", ttl_seconds=60).acquire()


async def test_released_lease_is_free_at_once(database: Database) -> None:
    mine, other = Lease(database, "work", ttl_seconds=60), Lease(database, "work", ttl_seconds=60)
    await mine.acquire()
    await other.release()
    assert not await other.acquire()
    await mine.release()
    assert not mine.is_held
    assert await other.acquire()


async def test_lease_ends_locally_before_the_server_time(database: Database) -> None:
    manual_clock = ManualClock()
    lease = Lease(database, "work", ttl_seconds=10, clock=manual_clock)
    await lease.acquire()
    assert lease.remaining_seconds == pytest.approx(10 * (1 - MARGIN))
    manual_clock.seconds += 10 * (1 - MARGIN)
    assert not lease.is_held


async def test_expired_lease_is_free(database: Database) -> None:
    mine, other = Lease(database, "work", ttl_seconds=0.2), Lease(database, "work", ttl_seconds=60)
    await mine.acquire()
    await wait_until(other.acquire)
    assert not mine.is_held
    assert not await mine.acquire()


async def test_work_moves_to_another_process_without_overlap(database: Database) -> None:
    events: list[tuple[str, int]] = []
    both_worked = asyncio.Event()

    async def work(number: int) -> None:
        events.append(("begins", number))
        if len({number for _, number in events}) == 2:
            both_worked.set()
        try:
            await asyncio.Event().wait()
        finally:
            events.append(("ends", number))

    def run(number: int) -> asyncio.Task[None]:
        return asyncio.create_task(Lease(database, "work", ttl_seconds=TTL).run_while_held(lambda: work(number)))

    tasks = [run(1), run(2)]

    async def has_begun() -> bool:
        return bool(events)

    await wait_until(has_begun)
    first = events[0][1]
    tasks[first - 1].cancel()
    async with asyncio.timeout(20):
        await both_worked.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [what for what, _ in events] == ["begins", "ends"] * (len(events) // 2)
    assert all(first[1] == second[1] for first, second in list(pairwise(events))[::2])


async def test_holder_that_cannot_renew_stops_in_time(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    lease, other = Lease(database, "work", ttl_seconds=TTL), Lease(database, "work", ttl_seconds=60)
    working, stopped = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        working.set()
        try:
            await asyncio.Event().wait()
        finally:
            # No other process may acquire the lease while this work runs.
            assert not await other.acquire()
            stopped.set()

    running = asyncio.create_task(lease.run_while_held(work))
    await working.wait()

    async def unreachable() -> bool:
        raise AutoReconnect("no response")

    monkeypatch.setattr(lease, "acquire", unreachable)
    async with asyncio.timeout(20):
        await stopped.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await wait_until(other.acquire)


async def test_exception_of_work_is_raised(database: Database) -> None:
    async def work() -> None:
        raise ValueError("broken")

    lease = Lease(database, "work", ttl_seconds=TTL)
    with pytest.raises(ValueError, match="broken"):
        await lease.run_while_held(work)
    assert await Lease(database, "work", ttl_seconds=TTL).acquire()
