"""Bench of group commit: takes per second of one stock document by 200 concurrent takers.

It compares group commit with one bare conditional update per take, and with one transaction per take.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from statistics import median

from google.protobuf.wrappers_pb2 import Int64Value
from rich.table import Table

from services.kit import clock
from services.kit.errors import Exhausted, Unavailable
from services.kit.mongo.client import Database, Session
from services.kit.settings import Settings
from services.kit.transactions import idempotency
from services.kit.transactions.group_commit import ChangeSet, DocumentRef, GroupCommit, Snapshot
from services.kit.transactions.idempotency import IdempotencyKey
from services.kit.transactions.outbox import Outbox

TAKERS = 200
ROUNDS = 5
ROUND_SECONDS = 1.5
GOAL = 5
ON_HAND = 10**9
STOCK = DocumentRef("stock", "var_1:str_1")
Take = Callable[[], Awaitable[object]]


def take(snapshot: Snapshot) -> ChangeSet:
    """The decision of each taker: takes one piece, if there is one."""
    stock = snapshot[STOCK]
    assert stock is not None
    if stock["reserved"] >= stock["on_hand"]:
        raise Exhausted("SOLD_OUT")
    return ChangeSet(increments={STOCK: {"reserved": 1}}, answer=Int64Value(value=stock["reserved"] + 1))


async def run(uri: str) -> Table:
    settings = Settings(mongo_uri=uri)
    database = Database(settings, f"bench_{secrets.token_hex(4)}_group_commit")
    try:
        return await _measure(database)
    finally:
        await database.client.drop_database(database.name)
        await database.close()


async def _measure(database: Database) -> Table:
    await idempotency.prepare(database)
    await database[idempotency.COLLECTION].insert_one({"_id": "first"})
    await database["stock"].insert_one({"_id": STOCK.id, "on_hand": ON_HAND, "reserved": 0, "version": 1})
    group_commit = GroupCommit(database, Outbox(database, "bench"), clock.now)

    async def group_commit_with_record() -> None:
        await group_commit.run(_key(), [STOCK], take, Int64Value)

    async def group_commit_without_record() -> None:
        await group_commit.run(None, [STOCK], take, Int64Value)

    async def bare_update() -> None:
        result = await database["stock"].update_one({"_id": STOCK.id, "reserved": {"$lt": ON_HAND}}, {"$inc": {"reserved": 1}})
        assert result.modified_count == 1

    async def one_transaction() -> None:
        async def body(session: Session) -> None:
            stock = await database["stock"].find_one({"_id": STOCK.id}, session=session)
            changes = take({STOCK: stock})
            await database["stock"].update_one({"_id": STOCK.id}, {"$inc": changes.increments[STOCK]}, session=session)
            guard = idempotency.IdempotencyGuard(database)
            guard.record(_key(), clock.now(), changes.answer)
            await guard.write(session)

        await database.transact(body)

    variants: dict[str, Take] = {
        "group commit, each take with its idempotency record": group_commit_with_record,
        "group commit, no idempotency record": group_commit_without_record,
        "floor: one bare conditional update per take": bare_update,
        "one transaction per take, with its idempotency record": one_transaction,
    }
    rounds = [{name: await _takes_per_second(variant, database) for name, variant in variants.items()} for _ in range(ROUNDS)]
    await group_commit.close()
    medians = {name: median(measured[name] for measured in rounds) for name in variants}
    floor = medians["floor: one bare conditional update per take"]
    table = Table(title=f"group commit: {TAKERS} takers of one document, medians of {ROUNDS} rounds (goal: at least {GOAL}x the floor)")
    for column in ("variant", "takes/s", "x floor"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for name, value in medians.items():
        table.add_row(name, f"{value:,.0f}", f"{value / floor:.2f}")
    return table


def _key() -> IdempotencyKey:
    return IdempotencyKey(f"usr_1:quanyu.commerce.v1.StockService/HoldStock:{secrets.token_hex(16)}", b"f" * 32)


async def _takes_per_second(take_one: Take, database: Database) -> float:
    """Runs TAKERS takers, each of which takes again as soon as it has an answer; returns the takes per second."""
    done = 0
    start = time.perf_counter()

    async def taker() -> None:
        nonlocal done
        while True:
            with suppress(Unavailable):  # a transaction per take ends in contention
                await take_one()
                done += 1

    takers = [asyncio.create_task(taker()) for _ in range(TAKERS)]
    ended, _ = await asyncio.wait(takers, timeout=ROUND_SECONDS, return_when=asyncio.FIRST_EXCEPTION)
    rate = done / (time.perf_counter() - start)
    for one in takers:
        one.cancel()
    await asyncio.gather(*takers, return_exceptions=True)
    # Cancelled transactions must not block the next round.
    await database.release_orphans(0)
    for one in ended:
        one.result()
    return rate
