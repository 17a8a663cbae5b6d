"""Tests of the patched `wait_for`: a cancelled database operation always ends its task."""

import asyncio
import random
import time
from typing import Any

import pytest

from services.kit.mongo.client import Database

ATTEMPTS = 60
END_SECONDS_MAX = 2.0


async def find(database: Database) -> None:
    await database["documents"].find({}).sort("n", 1).to_list(10)


async def write(database: Database) -> None:
    await database["documents"].update_one({"_id": 1}, {"$inc": {"n": 1}})


async def transact(database: Database) -> None:
    async def body(session: Any) -> None:
        await database["documents"].update_one({"_id": 1}, {"$inc": {"n": 1}}, session=session)

    await database.transact(body)


@pytest.mark.parametrize("operation", [find, write, transact])
async def test_no_cancellation_is_lost(database: Database, operation: Any) -> None:
    await database["documents"].insert_one({"_id": 1, "n": 0})
    started = time.perf_counter()
    await operation(database)
    usual_seconds = time.perf_counter() - started

    async def run_forever() -> None:
        await operation(database)
        await asyncio.Event().wait()

    for _ in range(ATTEMPTS):
        task = asyncio.create_task(run_forever())
        await asyncio.sleep(random.uniform(0, 1.5 * usual_seconds))
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=END_SECONDS_MAX)
        assert done, "the task has not ended"
