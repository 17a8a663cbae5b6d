"""A lease: one holder at a time, and a holder that lost it stops before anybody else begins."""

import asyncio
from itertools import pairwise

import pytest
from pymongo.errors import AutoReconnect

from services.kit.mongo.client import Database
from services.kit.mongo.lease import COLLECTION, MARGIN, Lease
from tests.services.kit.hearing import until

TTL = 1.0


class Hand:
    """A clock that moves when told."""

    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


async def test_one_of_many_that_ask_at_once_holds_it(database: Database) -> None:
    leases = [Lease(database, "work", ttl_seconds=60) for _ in range(12)]
    answers = await asyncio.gather(*(lease.acquire() for lease in leases))
    assert sum(answers) == 1
    assert [lease.is_held for lease in leases] == answers
    assert await database[COLLECTION].count_documents({}) == 1


async def test_the_holder_renews_and_others_wait(database: Database) -> None:
    mine, other = Lease(database, "work", ttl_seconds=60), Lease(database, "work", ttl_seconds=60)
    assert await mine.take() and await mine.take()
    assert not await other.take()
    assert await Lease(database, "other work", ttl_seconds=60).take()


async def test_a_released_lease_is_free_at_once(database: Database) -> None:
    mine, other = Lease(database, "work", ttl_seconds=60), Lease(database, "work", ttl_seconds=60)
    await mine.take()
    await other.release()
    assert not await other.take()
    await mine.release()
    assert not mine.held
    assert await other.take()


async def test_the_holder_ends_a_margin_before_the_server_gives_it_away(database: Database) -> None:
    hand = Hand()
    lease = Lease(database, "work", ttl_seconds=10, clock=hand)
    await lease.acquire()
    assert lease.remaining_seconds == pytest.approx(10 * (1 - MARGIN))
    hand.seconds += 10 * (1 - MARGIN)
    assert not lease.is_held


async def test_a_lease_that_ran_out_goes_to_whoever_asks(database: Database) -> None:
    mine, other = Lease(database, "work", ttl_seconds=0.2), Lease(database, "work", ttl_seconds=60)
    await mine.take()
    await until(other.take)
    assert not mine.held
    assert not await mine.take()


async def test_work_goes_over_when_its_process_ends_and_never_runs_twice(database: Database) -> None:
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

    def keeping(number: int) -> asyncio.Task[None]:
        return asyncio.create_task(Lease(database, "work", ttl_seconds=TTL).run_while_held(lambda: work(number)))

    tasks = [keeping(1), keeping(2)]

    async def begun() -> bool:
        return bool(events)

    await until(begun)
    first = events[0][1]
    tasks[first - 1].cancel()
    async with asyncio.timeout(20):
        await both_worked.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [what for what, _ in events] == ["begins", "ends"] * (len(events) // 2)
    assert all(first[1] == second[1] for first, second in list(pairwise(events))[::2])


async def test_a_holder_that_cannot_renew_stops_before_the_lease_ends(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    lease, other = Lease(database, "work", ttl_seconds=TTL), Lease(database, "work", ttl_seconds=60)
    working, stopped = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        working.set()
        try:
            await asyncio.Event().wait()
        finally:
            # Whoever asks while this still works must not get it.
            assert not await other.take()
            stopped.set()

    keeping = asyncio.create_task(lease.run_while_held(work))
    await working.wait()

    async def unreachable() -> bool:
        raise AutoReconnect("no answer")

    monkeypatch.setattr(lease, "take", unreachable)
    async with asyncio.timeout(20):
        await stopped.wait()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert await until(other.take)


async def test_what_work_raises_is_heard(database: Database) -> None:
    async def work() -> None:
        raise ValueError("broken")

    lease = Lease(database, "work", ttl_seconds=TTL)
    with pytest.raises(ValueError, match="broken"):
        await lease.run_while_held(work)
    assert await Lease(database, "work", ttl_seconds=TTL).take()
