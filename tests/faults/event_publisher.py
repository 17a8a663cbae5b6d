"""A process that publishes visits and relays them, and may be killed at any time.

`python -m tests.faults.event_publisher URI DRIVER DATABASE KEYS NAME=ADDRESS …` prints "ready". Each input line is a number N: it publishes
the events below N that are not yet published. Each is in one transaction with its cause, and those of a key are in order.
"""

import asyncio
import sys
from typing import Any

import grpc
import uvloop

from services.kit.events.relay import WATCHED_DELIVERIES, Relay
from services.kit.mongo.change_streams import ChangeStreamHub
from services.kit.mongo.client import Database
from services.kit.settings import Settings
from services.kit.transactions.outbox import Outbox
from tests.services.kit.event_services import SHORT_BACKOFF, SOURCE, visit_event

LEASE_SECONDS = 2.5
ATTEMPTS_MAX = 4


def key_of(number: int, keys: int) -> str:
    """Returns the key of an event, round robin."""
    return f"key-{number % keys}"


async def publish(database: Database, outbox: Outbox, number: int, key: str) -> None:
    """Writes cause and event in one transaction, at most once."""

    async def body(session: Any) -> None:
        await database["causes"].insert_one({"_id": number}, session=session)
        await outbox.write(session, [visit_event(key, number)])

    await database.transact(body)


async def publish_up_to(limit: int, database: Database, outbox: Outbox, keys: int) -> None:
    published = {cause["_id"] async for cause in database["causes"].find({"_id": {"$lt": limit}})}
    missing = [number for number in range(limit) if number not in published]
    # A wave has each key at most once, so that the events of a key are published one after the other.
    for wave in range(limit // keys + 1):
        numbers = [number for number in missing if number // keys == wave]
        await asyncio.gather(*(publish(database, outbox, number, key_of(number, keys)) for number in numbers))


async def main(uri: str, driver: Any, name: str, keys: int, addresses: dict[str, str]) -> None:
    database = Database(Settings(mongo_uri=uri, mongo_driver=driver), name)
    outbox = Outbox(database, SOURCE, subscribers={"visit_started": list(addresses)})
    await outbox.prepare()
    change_streams = ChangeStreamHub(database, [WATCHED_DELIVERIES])
    channels = {subscriber: grpc.aio.insecure_channel(address) for subscriber, address in addresses.items()}
    relay = Relay(
        database,
        channels,
        source=SOURCE,
        change_streams=change_streams,
        lease_seconds=LEASE_SECONDS,
        attempts_max=ATTEMPTS_MAX,
        retry=SHORT_BACKOFF,
    )
    background = [asyncio.create_task(loop()) for loop in (change_streams.run, relay.run)]
    print("ready", flush=True)  # noqa: T201 - the parent waits for it
    while line := await asyncio.to_thread(sys.stdin.readline):
        await publish_up_to(int(line), database, outbox, keys)
    for task in background:
        task.cancel()
    await asyncio.gather(*background, return_exceptions=True)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:4], int(sys.argv[4]), dict(pair.split("=", 1) for pair in sys.argv[5:])))
