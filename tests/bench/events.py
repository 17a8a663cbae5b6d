"""Events per second from the transaction that tells them to the effect at the subscriber, against bare inserts of the same rows."""

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
ALONE = 30
LEASE_SECONDS = 60.0
GOAL = 2000
ROOT = Path(__file__).parents[2]
EFFECTS = ("bare", "together")


class Bench:
    """A publisher in this process, and two subscribers in others, one of which hears at a time: their effects are written differently."""

    def __init__(self, sending: Database, hearing: Database, addresses: Mapping[str, str]) -> None:
        self.publishers = {effect: Publisher(sending, [effect]) for effect in addresses}
        self.hearing, self.addresses = hearing, addresses
        self.numbers = itertools.count()

    async def tell(self, effect: str = EFFECTS[0]) -> None:
        """EVENTS events by WRITERS writers, several in each transaction and each of a key of its own."""

        async def teller(events: int) -> None:
            for _ in range(events // EVENTS_A_TRANSACTION):
                numbers = [next(self.numbers) for _ in range(EVENTS_A_TRANSACTION)]
                await self.publishers[effect].publish(*(visit_event(f"key-{number % KEYS}", number) for number in numbers))

        await asyncio.gather(*(teller(EVENTS // WRITERS) for _ in range(WRITERS)))

    async def bare_inserts(self) -> None:
        """The rows of EVENTS effects, each inserted by itself."""

        async def writer(rows: int) -> None:
            for _ in range(rows):
                number = next(self.numbers)
                await self.hearing["bare"].insert_one({"key": f"key-{number % KEYS}", "number": number})

        await asyncio.gather(*(writer(EVENTS // WRITERS) for _ in range(WRITERS)))

    async def from_end_to_end(self, effect: str) -> None:
        """Told while they are relayed, until all stand."""
        async with self.publishers[effect].run_relay({effect: self.addresses[effect]}, lease_seconds=LEASE_SECONDS):
            await self.publish(effect)
            await wait_until(self.publishers[effect].has_no_deliveries)

    async def relay(self) -> None:
        """What was told before is delivered and applied."""
        async with self.publishers[EFFECTS[0]].run_relay(self.addresses, lease_seconds=LEASE_SECONDS):
            await wait_until(self.publishers[EFFECTS[0]].has_no_deliveries)

    async def alone(self) -> float:
        """Milliseconds from the end of the transaction that tells one event to its row's being gone; median."""
        measured = []
        publisher = self.publishers[EFFECTS[0]]
        async with publisher.run_relay(self.addresses, lease_seconds=LEASE_SECONDS):
            for _ in range(ALONE):
                await publisher.publish(visit_event("alone", next(self.numbers)))
                start = time.perf_counter()
                await wait_until(publisher.has_no_deliveries)
                measured.append(time.perf_counter() - start)
        return 1000 * median(measured[1:])


async def run(uri: str) -> Table:
    prefix = f"bench_{secrets.token_hex(4)}"
    sending, hearing = (Database(Settings(mongo_uri=uri), f"{prefix}_{name}") for name in ("publisher", "subscriber"))
    try:
        async with _listener(uri, hearing.name, EFFECTS[0]) as first, _listener(uri, hearing.name, EFFECTS[1]) as second:
            return await _measure(Bench(sending, hearing, dict(zip(EFFECTS, (first, second), strict=True))))
    finally:
        for database in (sending, hearing):
            await database.client.drop_database(database.name)
            await database.close()


async def _measure(bench: Bench) -> Table:
    await bench.senders[EFFECTS[0]].outbox.prepare()
    ways: dict[str, Callable[[], Awaitable[None]]] = {
        "floor: bare inserts of the effects' rows": bench.bare_inserts,
        "told: into the outbox": bench.tell,
        "relayed: from the outbox to the effects, an insert each": bench.relay,
        "from end to end, an insert for each effect": partial(bench.from_end_to_end, EFFECTS[0]),
        "from end to end, neighbours inserted together": partial(bench.from_end_to_end, EFFECTS[1]),
    }
    rounds = [{name: await _per_second(way) for name, way in ways.items()} for _ in range(ROUNDS + 1)][1:]
    medians = {name: median(measured[name] for measured in rounds) for name in ways}
    floor = next(iter(medians.values()))
    table = Table(
        title=f"events: {EVENTS:,} of {KEYS} keys, medians of {ROUNDS} rounds (goal: {GOAL:,}/s from end to end)",
        caption=f"{EVENTS_A_TRANSACTION} events a transaction, {WRITERS} writers; an event alone is applied after {await bench.alone():.0f} ms",
    )
    for column in ("way", "events/s", "x floor"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for name, value in medians.items():
        table.add_row(name, f"{value:,.0f}", f"{value / floor:.2f}")
    return table


async def _per_second(way: Callable[[], Awaitable[None]]) -> float:
    start = time.perf_counter()
    await way()
    return EVENTS / (time.perf_counter() - start)


@asynccontextmanager
async def _listener(uri: str, database: str, effect: str) -> AsyncIterator[str]:
    """The address of a subscriber in a process of its own."""
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
