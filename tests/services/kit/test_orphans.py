"""A process that dies inside a transaction does not hold its documents for MongoDB's whole minute."""

import asyncio

import pytest

from services.kit import mongo
from services.kit.mongo import Database
from services.kit.settings import Settings


async def test_what_a_dead_process_held_is_soon_free(settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mongo, "ORPHANED_SECONDS", 0.3)
    await database["stock"].insert_one({"_id": "s", "reserved": 0})
    dead = Database(settings, database.name)
    abandoned = asyncio.Event()

    async def never_ends(session: mongo.Session) -> None:
        await dead["stock"].update_one({"_id": "s"}, {"$inc": {"reserved": 100}}, session=session)
        abandoned.set()
        await asyncio.Event().wait()

    dying = asyncio.create_task(dead.transact(never_ends))
    await abandoned.wait()

    async def take(session: mongo.Session) -> None:
        await database["stock"].update_one({"_id": "s"}, {"$inc": {"reserved": 1}}, session=session)

    async with asyncio.timeout(10):
        await database.transact(take)
    assert (await database["stock"].find_one({"_id": "s"}))["reserved"] == 1
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    await dead.close()
