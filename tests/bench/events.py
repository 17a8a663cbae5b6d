"""Bench of events: events per second from the publishing transaction to the effect, against bare inserts of the same documents."""

import asyncio
import itertools
import secrets
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from statistics import median

from rich.table import Table

from services.kit.mongo.client import Database
from services.kit.settings import Settings
from services.local.mongod import free_port
from tests.services.kit.event_services import Publisher, visit_event, wait_until

EVENTS = 3200
KEYS = 800
EVENTS_A_TRANSACTION = 20
WRITERS = 16
ROUNDS = 5
SINGLE_EVENTS = 30
LEASE_SECONDS = 60.0
GOAL = 2000
ROOT = Path(__file__).parents[2]
EFFECTS = ("single", "batch")


class Bench:
    """A publisher in this process and two subscribers in others, of which one at a time gets events; they write effects differently."""

    def __init__(self, publisher_database: Database, subscriber: Database, addresses: Mapping[str, str]) -> None:
        self.publishers = {effect: Publisher(publisher_database, [effect]) for effect in addresses}
        self.subscriber, self.addresses = subscriber, addresses
        self.numbers = itertools.count()

    async def publish(self, effect: str = EFFECTS[0]) -> None:
        """Publishes EVENTS events by WRITERS writers, EVENTS_A_TRANSACTION in each transaction, all with different keys."""

        async def writer(events: int) -> None:
            for _ in range(events // EVENTS_A_TRANSACTION):
                numbers = [next(self.numbers) for _ in range(EVENTS_A_TRANSACTION)]
                await self.publishers[effect].publish(*(visit_event(f"key-{number % KEYS}", number) for number in numbers))

        await asyncio.gather(*(writer(EVENTS // WRITERS) for _ in range(WRITERS)))

    async def bare_inserts(self) -> None:
        """Inserts the documents of EVENTS effects one by one."""

        async def writer(documents: int) -> None:
            for _ in range(documents):
                number = next(self.numbers)
                await self.subscriber["bare"].insert_one({"key": f"key-{number % KEYS}", "number": number})

        await asyncio.gather(*(writer(EVENTS // WRITERS) for _ in range(WRITERS)))

    async def end_to_end(self, effect: str) -> None:
        """Publishes while the relay runs, until all events are applied."""
        async with self.publishers[effect].run_relay({effect: self.addresses[effect]}, lease_seconds=LEASE_SECONDS):
            await self.publish(effect)
            await wait_until(self.publishers[effect].has_no_deliveries)

    async def relay(self) -> None:
        """Relays the published events until all are applied."""
        async with self.publishers[EFFECTS[0]].run_relay(self.addresses, lease_seconds=LEASE_SECONDS):
            await wait_until(self.publishers[EFFECTS[0]].has_no_deliveries)

    async def measure_single(self) -> float:
        """Returns the median of milliseconds from the commit of one event to the deletion of its delivery."""
        measured = []
        publisher = self.publishers[EFFECTS[0]]
        async with publisher.run_relay(self.addresses, lease_seconds=LEASE_SECONDS):
            for _ in range(SINGLE_EVENTS):
                await publisher.publish(visit_event("single", next(self.numbers)))
                start = time.perf_counter()
                await wait_until(publisher.has_no_deliveries)
                measured.append(time.perf_counter() - start)
        return 1000 * median(measured[1:])


async def run(uri: str) -> Table:
    prefix = f"bench_{secrets.token_hex(4)}"
    publisher_database, subscriber = (Database(Settings(mongo_uri=uri), f"{prefix}_{name}") for name in ("publisher", "subscriber"))
    try:
        async with _run_subscriber(uri, subscriber.name, EFFECTS[0]) as first, _run_subscriber(uri, subscriber.name, EFFECTS[1]) as second:
            return await _measure(Bench(publisher_database, subscriber, dict(zip(EFFECTS, (first, second), strict=True))))
    finally:
        for database in (publisher_database, subscriber):
            await database.client.drop_database(database.name)
            await database.close()


async def _measure(bench: Bench) -> Table:
    await bench.publishers[EFFECTS[0]].outbox.prepare()
    variants: dict[str, Callable[[], Awaitable[None]]] = {
        "floor: bare inserts of the effects": bench.bare_inserts,
        "publish: into the outbox": bench.publish,
        "relay: from the outbox to the effects, an insert each": bench.relay,
        "end to end, an insert for each effect": partial(bench.end_to_end, EFFECTS[0]),
        "end to end, consecutive effects in one insert": partial(bench.end_to_end, EFFECTS[1]),
    }
    rounds = [{name: await _per_second(variant) for name, variant in variants.items()} for _ in range(ROUNDS + 1)][1:]
    medians = {name: median(measured[name] for measured in rounds) for name in variants}
    floor = next(iter(medians.values()))
    table = Table(
        title=f"events: {EVENTS:,} of {KEYS} keys, medians of {ROUNDS} rounds (goal: {GOAL:,}/s end to end)",
        caption=f"{EVENTS_A_TRANSACTION} events a transaction, {WRITERS} writers; one event takes {await bench.measure_single():.0f} ms",
    )
    for column in ("variant", "events/s", "x floor"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for name, value in medians.items():
        table.add_row(name, f"{value:,.0f}", f"{value / floor:.2f}")
    return table


async def _per_second(variant: Callable[[], Awaitable[None]]) -> float:
    start = time.perf_counter()
    await variant()
    return EVENTS / (time.perf_counter() - start)


@asynccontextmanager
async def _run_subscriber(uri: str, database: str, effect: str) -> AsyncIterator[str]:
    """Runs a subscriber in another process; yields its address."""
    address = f"127.0.0.1:{free_port()}"
    arguments = ("-m", "tests.faults.event_subscriber", uri, "motor", database, address, effect)
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT, stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None and process.stdout is not None
    try:
        assert await process.stdout.readline() == b"ready\n"
        yield address
    finally:
        process.stdin.close()
        await process.wait()
