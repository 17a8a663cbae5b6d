"""Takes per second of one stock document by 200 concurrent takers: the group_commit, one bare conditional update each, one transaction each."""

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


def take(state: Snapshot) -> ChangeSet:
    """The decision of every taker: one piece, while there are any."""
    stock = state[STOCK]
    assert stock is not None
    if stock["reserved"] >= stock["on_hand"]:
        raise Exhausted("SOLD_OUT")
    return ChangeSet(increments={STOCK: {"reserved": 1}}, answer=Int64Value(value=stock["reserved"] + 1))


async def run(uri: str) -> Table:
    settings = Settings(mongo_uri=uri)
    database = Database(settings, f"bench_{secrets.token_hex(4)}_lane")
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

    async def through_the_lane() -> None:
        await group_commit.run(_key(), [STOCK], take, Int64Value)

    async def through_the_lane_unrecorded() -> None:
        await group_commit.run(None, [STOCK], take, Int64Value)

    async def bare_update() -> None:
        result = await database["stock"].update_one({"_id": STOCK.id, "reserved": {"$lt": ON_HAND}}, {"$inc": {"reserved": 1}})
        assert result.modified_count == 1

    async def own_transaction() -> None:
        async def body(session: Session) -> None:
            stock = await database["stock"].find_one({"_id": STOCK.id}, session=session)
            outcome = take({STOCK: stock})
            await database["stock"].update_one({"_id": STOCK.id}, {"$inc": outcome.increments[STOCK]}, session=session)
            guard = idempotency.IdempotencyGuard(database)
            guard.record(_key(), clock.now(), outcome.answer)
            await guard.write(session)

        await database.transact(body)

    ways: dict[str, Take] = {
        "group_commit, each take with its idempotency record": through_the_lane,
        "group_commit, no idempotency record": through_the_lane_unrecorded,
        "floor: one bare conditional update per take": bare_update,
        "one transaction per take, with its idempotency record": own_transaction,
    }
    rounds = [{name: await _takes_per_second(way, database) for name, way in ways.items()} for _ in range(ROUNDS)]
    await group_commit.close()
    medians = {name: median(measured[name] for measured in rounds) for name in ways}
    floor = medians["floor: one bare conditional update per take"]
    table = Table(title=f"group_commit: {TAKERS} takers of one document, medians of {ROUNDS} rounds (goal: at least {GOAL}x the floor)")
    for column in ("way", "takes/s", "x floor"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for name, value in medians.items():
        table.add_row(name, f"{value:,.0f}", f"{value / floor:.2f}")
    return table


def _key() -> IdempotencyKey:
    return IdempotencyKey(f"usr_1:quanyu.commerce.v1.StockService/HoldStock:{secrets.token_hex(16)}", b"f" * 32)


async def _takes_per_second(take_one: Take, database: Database) -> float:
    """Takes done by `TAKERS` that each take again as soon as they have been answered."""
    done = 0
    start = time.perf_counter()

    async def taker() -> None:
        nonlocal done
        while True:
            with suppress(Unavailable):  # contention without end: what a transaction per take comes to
                await take_one()
                done += 1

    takers = [asyncio.create_task(taker()) for _ in range(TAKERS)]
    ended, _ = await asyncio.wait(takers, timeout=ROUND_SECONDS, return_when=asyncio.FIRST_EXCEPTION)
    rate = done / (time.perf_counter() - start)
    for one in takers:
        one.cancel()
    await asyncio.gather(*takers, return_exceptions=True)
    # What was under way when it was cancelled must not stand in the way of the next round.
    await database.release_orphans(0)
    for one in ended:
        one.result()
    return rate
