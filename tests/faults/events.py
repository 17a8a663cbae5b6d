"""Events go from one process to two others while all three are killed at random: every effect exactly once, in order for each key."""

import asyncio
import random
import secrets
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from pathlib import Path
from typing import Any

from services.kit.events.parked import ParkedEvents
from services.kit.mongo.client import Database
from services.kit.settings import Settings
from services.kit.transactions.outbox import DELIVERIES, PARKED, WAITING
from services.local.mongod import free_port
from tests.faults.event_publisher import key_of
from tests.faults.event_subscriber import POISON

ROOT = Path(__file__).parents[2]
SENDER, SUBSCRIBER = "sender", ("member", "commerce")
STALL_SECONDS_MAX = 90.0
"""A wait for progress ends the proof after this long. MongoDB itself holds what a killed process left open for at most a minute."""


class World:
    """The three processes, their databases, and what is expected of `events` events over `keys` keys."""

    def __init__(self, settings: Settings, events: int, keys: int) -> None:
        self.settings, self.events, self.keys = settings, events, keys
        self.prefix = f"proof_{secrets.token_hex(4)}"
        self.databases = {name: Database(settings, f"{self.prefix}_{name}") for name in (SENDER, *SUBSCRIBER)}
        self.addresses = {name: f"127.0.0.1:{free_port()}" for name in SUBSCRIBER}
        self.processes: dict[str, Process] = {}
        self.kills: Counter[str] = Counter()
        self.limit = 0

    async def start(self, name: str) -> None:
        """Starts one of the processes and waits until it is ready."""
        own = (self.settings.mongo_uri, self.settings.mongo_driver, self.databases[name].name)
        sender = ("tests.faults.event_publisher", *own, str(self.keys), *(f"{name}={at}" for name, at in self.addresses.items()))
        arguments = sender if name == SENDER else ("tests.faults.event_subscriber", *own, self.addresses[name], "placed")
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", *arguments, cwd=ROOT, stdin=PIPE, stdout=PIPE)
        self.processes[name] = process
        assert process.stdout is not None
        while line := await process.stdout.readline():
            if line == b"ready\n":
                break
        else:
            raise AssertionError(f"{name} did not start")
        self._reading = asyncio.create_task(_drain(process))
        if name == SENDER and self.limit:
            self.tell(self.limit)

    async def kill(self, name: str) -> None:
        """SIGKILL, and a new process at once."""
        process = self.processes[name]
        process.kill()
        await process.wait()
        self.kills[name] += 1
        await self.start(name)

    def tell(self, limit: int) -> None:
        """Lets the sender tell the events below `limit`."""
        self.limit = limit
        stdin = self.processes[SENDER].stdin
        assert stdin is not None
        stdin.write(f"{limit}\n".encode())

    def expected(self, limit: int, cured: bool = False) -> dict[str, list[int]]:
        """The numbers of the first `limit` events that take effect, by key."""
        by_key: dict[str, list[int]] = {}
        for number in range(limit):
            by_key.setdefault(key_of(number, self.keys), []).append(number)
        key, place = POISON
        if not cured and key in by_key:
            del by_key[key][place - 1 :]
        return by_key

    def expected_count(self, limit: int) -> int:
        """How many effects stand, at both subscribers together, while one event is not cured."""
        return len(SUBSCRIBER) * sum(len(numbers) for numbers in self.expected(limit).values())

    async def count(self) -> int:
        """How many effects stand at both subscribers together."""
        return sum([await self.databases[name]["effects"].count_documents({}) for name in SUBSCRIBER])

    async def reach(self, effects: int) -> None:
        """Waits until so many effects stand."""
        await _until(lambda: self.count(), lambda count: count >= effects, f"{effects} effects")

    async def check(self, *, cured: bool) -> None:
        """Every effect once, in order, at both subscribers."""
        for name in SUBSCRIBER:
            effects = await self.databases[name]["effects"].find().sort([("key", 1), ("place", 1)]).to_list(None)
            by_key: dict[str, list[dict[str, Any]]] = {}
            for effect in effects:
                by_key.setdefault(effect["key"], []).append(effect)
            numbers = {key: [effect["number"] for effect in several] for key, several in by_key.items()}
            assert numbers == self.expected(self.events, cured), f"{name} has other effects than were told"
            assert all([effect["place"] for effect in several] == list(range(1, len(several) + 1)) for several in by_key.values())

    async def held_back(self) -> Counter[tuple[str, str]]:
        """The rows that are left, counted by key and state."""
        return Counter([(row["key"], row["state"]) async for row in self.databases[SENDER][DELIVERIES].find()])

    async def close(self) -> None:
        """Ends the processes and drops the databases."""
        for process in self.processes.values():
            if process.returncode is None:
                process.kill()
                await process.wait()
        for database in self.databases.values():
            await database.release_orphans(0)
            await database.client.drop_database(database.name)
            await database.close()


async def events_survive_kills(settings: Settings, *, events: int, keys: int, kills: int) -> dict[str, str]:
    """Asserts the invariants and returns what was counted. `kills` are spread over the three processes and over the events."""
    world, started = World(settings, events, keys), time.perf_counter()
    victims = [(SENDER, *SUBSCRIBER)[number % 3] for number in range(kills)]
    random.shuffle(victims)
    try:
        await asyncio.gather(*(world.start(name) for name in (SENDER, *SUBSCRIBER)))
        for number, victim in enumerate(victims):
            before, world_limit = world.expected_count(world.limit), events * (number + 1) // (kills + 1)
            world.tell(world_limit)
            # Amid the events that were just let go: after some of them, and not always right after a commit.
            await world.reach(before + int(random.random() * (world.expected_count(world_limit) - before)))
            await asyncio.sleep(random.uniform(0, 0.03))
            await world.kill(victim)
        world.tell(events)
        await world.reach(world.expected_count(events))
        await world.check(cured=False)

        key, place = POISON
        behind = len(world.expected(events, cured=True)[key]) - place
        alone = Counter({(key, PARKED): len(SUBSCRIBER), (key, WAITING): len(SUBSCRIBER) * behind})
        await _until(world.held_back, lambda rows: rows == alone, f"only {alone} held back")
        for name in SUBSCRIBER:
            await world.databases[name]["cured"].insert_one({})
        replayed = await ParkedEvents(world.databases[SENDER]).replay()
        await _until(world.held_back, lambda rows: not rows, "nothing held back")
        await world.check(cured=True)
        return {
            "events": f"{events:,}",
            "keys": f"{keys}",
            "killed": ", ".join(f"{name} {count}" for name, count in sorted(world.kills.items())),
            "effects": f"{await world.count():,}",
            "parked, then replayed": f"{replayed}",
            "waited behind them": f"{len(SUBSCRIBER) * behind}",
            "seconds": f"{time.perf_counter() - started:.0f}",
        }
    finally:
        await world.close()


async def _until(read: Any, condition: Any, wanted: str) -> None:
    """Waits as long as there is progress."""
    last, since = None, time.monotonic()
    while not condition(found := await read()):
        if found != last:
            last, since = found, time.monotonic()
        assert time.monotonic() - since < STALL_SECONDS_MAX, f"stalled at {found}; {wanted} expected"
        await asyncio.sleep(0.005)


async def _drain(process: Process) -> None:
    """Reads on what the process logs, or it would stand still with a full pipe."""
    assert process.stdout is not None
    while await process.stdout.read(65536):
        pass
