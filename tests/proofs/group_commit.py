"""Two processes take from one counter, one is killed: exactly what was there is taken, and every taker hears one truth."""

import asyncio
import random
import secrets
import sys
import time
from asyncio.subprocess import PIPE, Process
from pathlib import Path

from rich.table import Table

from services.kit.mongo.client import Database
from services.kit.settings import Settings
from services.kit.transactions import idempotency
from services.kit.transactions.outbox import DELIVERIES
from tests.faults.group_commit_taker import SOLD_OUT, STOCK, lane_on, take

ROOT = Path(__file__).parents[2]
TAKES, PIECES, ROUNDS = 2000, 500, 5
Heard = dict[str, str]


async def run(uri: str) -> Table:
    """Full size: 2,000 takes of 500 pieces."""
    table = Table(title=f"group_commit: {TAKES:,} takes of {PIECES} pieces by two processes, one killed; {ROUNDS} times")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        figures = await takes_survive_a_kill(Settings(mongo_uri=uri), TAKES, PIECES)
        if not table.columns:
            for name in (*figures, "seconds"):
                table.add_column(name, justify="right")
        table.add_row(*(f"{value:,}" for value in figures.values()), f"{time.perf_counter() - start:.1f}")
    return table


async def takes_survive_a_kill(settings: Settings, takes: int, pieces: int) -> dict[str, int]:
    """Asserts the invariant and returns what was counted."""
    database = Database(settings, f"proof_{secrets.token_hex(4)}_lane")
    try:
        await idempotency.prepare(database)
        await database[STOCK.collection].insert_one({"_id": STOCK.id, "on_hand": pieces, "reserved": 0, "version": 1})
        before_kill, survivor = await _race(database, settings, takes // 2)
        group_commit = lane_on(database, max(1, takes // 20))
        names = [f"victim-{number}" for number in range(takes // 2)]
        victim = dict(zip(names, await asyncio.gather(*(take(group_commit, name) for name in names)), strict=True))
        await group_commit.close()

        assert before_kill.items() <= victim.items(), "a take that was answered before the kill heard something else after it"
        everybody = victim | survivor
        assert len(everybody) == takes
        got = sorted(int(piece) for piece in everybody.values() if piece != SOLD_OUT)
        assert got == list(range(1, pieces + 1)), f"{len(got)} takes succeeded; {pieces} pieces were there"
        await _recount(database, takes, pieces)
        return {
            "takes": takes,
            "pieces": pieces,
            "taken": len(got),
            "taken by the killed one": sum(piece != SOLD_OUT for piece in victim.values()),
            "answered before the kill": len(before_kill),
            "sold out": takes - len(got),
        }
    finally:
        await database.release_orphans(0)
        await database.client.drop_database(database.name)
        await database.close()


async def _recount(database: Database, takes: int, pieces: int) -> None:
    """The counter, the idempotency records, the rows inserted and the events told all say the same."""
    stock = await database[STOCK.collection].find_one({"_id": STOCK.id})
    assert stock == {"_id": STOCK.id, "on_hand": pieces, "reserved": pieces, "version": pieces + 1}
    assert await database[idempotency.COLLECTION].count_documents({"answer": {"$exists": True}}) == pieces
    assert await database[idempotency.COLLECTION].count_documents({"refusal.reason": SOLD_OUT}) == takes - pieces
    assert sorted(await database["holds"].distinct("piece")) == list(range(1, pieces + 1))
    assert sorted(await database[DELIVERIES].distinct("sequence")) == list(range(1, pieces + 1))


async def _race(database: Database, settings: Settings, takes_each: int) -> tuple[Heard, Heard]:
    """What the victim had been answered when it was killed, and all the survivor's answers."""
    victim, survivor = await asyncio.gather(
        _taker(settings, database.name, "victim", takes_each, "forever"), _taker(settings, database.name, "survivor", takes_each, "once")
    )
    try:
        for process in (victim, survivor):
            assert process.stdin is not None
            process.stdin.write(b"go\n")
        before_kill, all_answers = await asyncio.gather(_listen(victim, kill_after=takes_each // 4), _listen(survivor))
        assert await survivor.wait() == 0
        return before_kill, all_answers
    finally:
        for process in (victim, survivor):
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _taker(settings: Settings, database: str, name: str, takes: int, how_often: str) -> Process:
    own = (settings.mongo_uri, settings.mongo_driver, database)
    arguments = ("-m", "tests.faults.group_commit_taker", *own, name, str(takes), how_often)
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT, stdin=PIPE, stdout=PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    return process


async def _listen(process: Process, kill_after: int | None = None) -> Heard:
    assert process.stdout is not None
    heard: Heard = {}
    async for line in process.stdout:
        if line.endswith(b"\n"):  # the last one may be cut off
            name, piece = line.decode().split()
            heard[name] = piece
        if len(heard) == kill_after and process.returncode is None:
            await asyncio.sleep(random.uniform(0, 0.02))  # answers come right after a commit: let chance choose the moment of a transaction
            process.kill()
            kill_after = None
    await process.wait()
    return heard
