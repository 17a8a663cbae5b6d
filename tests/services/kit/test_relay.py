"""The relay: every fact arrives, in order for each key, whatever happens to the listeners, the lease and the facts before it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from prometheus_client import REGISTRY
from services.kit.facts import relay as relay_module
from services.kit.facts.deliveries import Deliveries
from services.kit.facts.outbox import PARKED, RETRYING, SHARDS, WAITING, shard_of
from services.kit.mongo import Database
from services.kit.settings import Settings
from tests.services.kit.hearing import QUICK, SOURCE, Listener, Sender, until, visit


@pytest.fixture
async def listener(settings: Settings) -> AsyncIterator[Listener]:
    database = Database(settings, f"{settings.database_prefix}_member")
    listener = Listener(database)
    await listener.start()
    yield listener
    await listener.stop()
    await database.client.drop_database(database.name)
    await database.close()


@pytest.fixture
async def sender(database: Database) -> Sender:
    sender = Sender(database, ["member"])
    await sender.outbox.prepare()
    return sender


async def test_facts_arrive_in_order_for_each_key(sender: Sender, listener: Listener) -> None:
    async with sender.relaying({"member": listener.address}):
        for number in range(1, 21):
            await sender.tell(*(visit(key, number) for key in "abc"))
        await until(sender.nothing_left)
    assert await listener.applied() == {key: list(range(1, 21)) for key in "abc"}


async def test_a_new_fact_wakes_the_relay_at_once(sender: Sender, listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "LOOK_SECONDS", 600.0)
    async with sender.relaying({"member": listener.address}, lease_seconds=60.0):
        for number in (1, 2, 3):
            await sender.tell(visit("a", number))
            await until(sender.nothing_left)
    assert await listener.applied() == {"a": [1, 2, 3]}
