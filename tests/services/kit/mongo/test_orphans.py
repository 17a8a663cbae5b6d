"""Tests of orphaned transactions: those of dead processes and cancelled callers release their documents within seconds."""

import asyncio
import time
from typing import Any

import pytest
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient
from pymongo.monitoring import CommandListener

from services.kit.mongo import client
from services.kit.mongo.client import Database
from services.kit.settings import Settings


async def test_transaction_of_a_dead_process_is_released(settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ORPHANED_SECONDS", 0.3)
    await database["stock"].insert_one({"_id": "s", "reserved": 0})
    dead = Database(settings, database.name)
    abandoned = asyncio.Event()

    async def never_ends(session: client.Session) -> None:
        await dead["stock"].update_one({"_id": "s"}, {"$inc": {"reserved": 100}}, session=session)
        abandoned.set()
        await asyncio.Event().wait()

    dying = asyncio.create_task(dead.transact(never_ends))
    await abandoned.wait()

    async def take(session: client.Session) -> None:
        await database["stock"].update_one({"_id": "s"}, {"$inc": {"reserved": 1}}, session=session)

    async with asyncio.timeout(10):
        await database.transact(take)
    assert (await database["stock"].find_one({"_id": "s"}))["reserved"] == 1
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    await dead.close()


class SlowSend(CommandListener):
    """A command listener that delays each update in the thread that sends it."""

    def __init__(self) -> None:
        self.delayed, self.done = asyncio.Event(), asyncio.Event()
        self.loop = asyncio.get_running_loop()

    def started(self, event: Any) -> None:
        if event.command_name == "update":
            self.loop.call_soon_threadsafe(self.delayed.set)
            time.sleep(0.2)

    def succeeded(self, event: Any) -> None:
        if event.command_name == "update":
            self.loop.call_soon_threadsafe(self.done.set)

    failed = succeeded


async def test_cancelled_caller_leaves_no_open_transaction(settings: Settings, database: Database) -> None:
    """Also if the abort would overtake the operation that starts the transaction."""
    await database["stock"].insert_one({"_id": "s", "reserved": 0})
    listener = SlowSend()
    driver: Any = AsyncIOMotorClient if settings.mongo_driver == "motor" else AsyncMongoClient
    slow = Database(settings, database.name)
    await slow.close()
    slow.client = driver(settings.mongo_uri, event_listeners=[listener], appname=database.name, retryWrites=True)
    slow.raw = slow.client[database.name]

    async def take(session: client.Session) -> None:
        await slow["stock"].update_one({"_id": "s"}, {"$inc": {"reserved": 1}}, session=session)
        await asyncio.Event().wait()

    taking = asyncio.create_task(slow.transact(take))
    await listener.delayed.wait()
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    async with asyncio.timeout(10):
        await listener.done.wait()
    await slow.close()
    ours = {"appName": database.name, "transaction": {"$exists": True}}
    pipeline = [{"$currentOp": {"allUsers": False, "idleSessions": True}}, {"$match": ours}]
    found = await database.client.admin.command({"aggregate": 1, "pipeline": pipeline, "cursor": {}})
    assert found["cursor"]["firstBatch"] == []
    assert (await database["stock"].find_one({"_id": "s"}))["reserved"] == 0
