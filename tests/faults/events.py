"""Fault test of events: three processes are killed at random; each effect happens exactly once, in order for each key."""

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
from tests.faults.event_subscriber import FAILING_EVENT

ROOT = Path(__file__).parents[2]
PUBLISHER, SUBSCRIBERS = "publisher", ("member", "commerce")
STALL_SECONDS_MAX = 90.0
"""The test fails without progress for this long. MongoDB ends the transactions of a killed process after at most a minute."""


class EventProcesses:
    """The three processes, their databases, and the expected effects of `events` events with `keys` keys."""

    def __init__(self, settings: Settings, events: int, keys: int) -> None:
        self.settings, self.events, self.keys = settings, events, keys
        self.prefix = f"proof_{secrets.token_hex(4)}"
        self.databases = {name: Database(settings, f"{self.prefix}_{name}") for name in (PUBLISHER, *SUBSCRIBERS)}
        self.addresses = {name: f"127.0.0.1:{free_port()}" for name in SUBSCRIBERS}
        self.processes: dict[str, Process] = {}
        self.kills: Counter[str] = Counter()
        self.limit = 0

    async def start(self, name: str) -> None:
        """Starts one of the processes and waits until it is ready."""
        own = (self.settings.mongo_uri, self.settings.mongo_driver, self.databases[name].name)
        publisher = ("tests.faults.event_publisher", *own, str(self.keys), *(f"{name}={at}" for name, at in self.addresses.items()))
        arguments = publisher if name == PUBLISHER else ("tests.faults.event_subscriber", *own, self.addresses[name], "numbered")
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", *arguments, cwd=ROOT, stdin=PIPE, stdout=PIPE)
        self.processes[name] = process
        assert process.stdout is not None
        while line := await process.stdout.readline():
            if line == b"ready\n":
                break
        else:
            raise AssertionError(f"{name} did not start")
        self._reading = asyncio.create_task(_drain(process))
        if name == PUBLISHER and self.limit:
            self.publish(self.limit)

    async def kill(self, name: str) -> None:
        """Kills a process with SIGKILL and starts a new one at once."""
        process = self.processes[name]
        process.kill()
        await process.wait()
        self.kills[name] += 1
        await self.start(name)

    def publish(self, limit: int) -> None:
        """Makes the publisher publish the events below `limit`."""
        self.limit = limit
        stdin = self.processes[PUBLISHER].stdin
        assert stdin is not None
        stdin.write(f"{limit}\n".encode())

    def expected(self, limit: int, repaired: bool = False) -> dict[str, list[int]]:
        """Returns the numbers of the first `limit` events that take effect, by key."""
        by_key: dict[str, list[int]] = {}
        for number in range(limit):
            by_key.setdefault(key_of(number, self.keys), []).append(number)
        key, position = FAILING_EVENT
        if not repaired and key in by_key:
            del by_key[key][position - 1 :]
        return by_key

    def expected_count(self, limit: int) -> int:
        """Returns the expected number of effects of both subscribers before the repair."""
        return len(SUBSCRIBERS) * sum(len(numbers) for numbers in self.expected(limit).values())

    async def count(self) -> int:
        """Returns the number of effects of both subscribers."""
        return sum([await self.databases[name]["effects"].count_documents({}) for name in SUBSCRIBERS])

    async def wait_for_effects(self, effects: int) -> None:
        """Waits until there are this many effects."""
        await _wait_until(lambda: self.count(), lambda count: count >= effects, f"{effects} effects")

    async def check(self, *, repaired: bool) -> None:
        """Asserts that each effect happened once and in order at both subscribers."""
        for name in SUBSCRIBERS:
            effects = await self.databases[name]["effects"].find().sort([("key", 1), ("position", 1)]).to_list(None)
            by_key: dict[str, list[dict[str, Any]]] = {}
            for effect in effects:
                by_key.setdefault(effect["key"], []).append(effect)
            numbers = {key: [effect["number"] for effect in of_key] for key, of_key in by_key.items()}
            assert numbers == self.expected(self.events, repaired), f"{name} has other effects than published"
            assert all([effect["position"] for effect in of_key] == list(range(1, len(of_key) + 1)) for of_key in by_key.values())

    async def count_deliveries(self) -> Counter[tuple[str, str]]:
        """Counts the remaining deliveries by key and state."""
        return Counter([(delivery["key"], delivery["state"]) async for delivery in self.databases[PUBLISHER][DELIVERIES].find()])

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
    """Asserts the invariants and returns the figures. The kills are spread over the processes and the events."""
    world, started = EventProcesses(settings, events, keys), time.perf_counter()
    victims = [(PUBLISHER, *SUBSCRIBERS)[number % 3] for number in range(kills)]
    random.shuffle(victims)
    try:
        await asyncio.gather(*(world.start(name) for name in (PUBLISHER, *SUBSCRIBERS)))
        for number, victim in enumerate(victims):
            before, world_limit = world.expected_count(world.limit), events * (number + 1) // (kills + 1)
            world.publish(world_limit)
            # Between the events that were just started, and not always right after a commit.
            await world.wait_for_effects(before + int(random.random() * (world.expected_count(world_limit) - before)))
            await asyncio.sleep(random.uniform(0, 0.03))
            await world.kill(victim)
        world.publish(events)
        await world.wait_for_effects(world.expected_count(events))
        await world.check(repaired=False)

        key, position = FAILING_EVENT
        waiting = len(world.expected(events, repaired=True)[key]) - position
        remaining = Counter({(key, PARKED): len(SUBSCRIBERS), (key, WAITING): len(SUBSCRIBERS) * waiting})
        await _wait_until(world.count_deliveries, lambda deliveries: deliveries == remaining, f"only {remaining}")
        for name in SUBSCRIBERS:
            await world.databases[name]["repaired"].insert_one({})
        replayed = await ParkedEvents(world.databases[PUBLISHER]).replay()
        await _wait_until(world.count_deliveries, lambda deliveries: not deliveries, "no deliveries")
        await world.check(repaired=True)
        return {
            "events": f"{events:,}",
            "keys": f"{keys}",
            "killed": ", ".join(f"{name} {count}" for name, count in sorted(world.kills.items())),
            "effects": f"{await world.count():,}",
            "parked, then replayed": f"{replayed}",
            "waited behind the parked": f"{len(SUBSCRIBERS) * waiting}",
            "seconds": f"{time.perf_counter() - started:.0f}",
        }
    finally:
        await world.close()


async def _wait_until(read: Any, condition: Any, wanted: str) -> None:
    """Waits until the condition is true; fails without progress for STALL_SECONDS_MAX."""
    last, since = None, time.monotonic()
    while not condition(found := await read()):
        if found != last:
            last, since = found, time.monotonic()
        assert time.monotonic() - since < STALL_SECONDS_MAX, f"stalled at {found}; {wanted} expected"
        await asyncio.sleep(0.005)


async def _drain(process: Process) -> None:
    """Reads the output of a process, which would block on a full pipe."""
    assert process.stdout is not None
    while await process.stdout.read(65536):
        pass
