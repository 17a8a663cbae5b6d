"""Proof of group commit: two processes take from one stock, one is killed; the stock is exact, and repeats get equal answers."""

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
from tests.faults.group_commit_taker import SOLD_OUT, STOCK, make_group_commit, take

ROOT = Path(__file__).parents[2]
TAKES, PIECES, ROUNDS = 2000, 500, 5
Answers = dict[str, str]
"""The piece or SOLD_OUT, by the name of the take."""


async def run(uri: str) -> Table:
    """Runs the full size: 2,000 takes of 500 pieces."""
    table = Table(title=f"group commit: {TAKES:,} takes of {PIECES} pieces by two processes, one killed; {ROUNDS} times")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        figures = await takes_survive_a_kill(Settings(mongo_uri=uri), TAKES, PIECES)
        if not table.columns:
            for name in (*figures, "seconds"):
                table.add_column(name, justify="right")
        table.add_row(*(f"{value:,}" for value in figures.values()), f"{time.perf_counter() - start:.1f}")
    return table


async def takes_survive_a_kill(settings: Settings, takes: int, pieces: int) -> dict[str, int]:
    """Asserts the invariants and returns the figures."""
    database = Database(settings, f"proof_{secrets.token_hex(4)}_group_commit")
    try:
        await idempotency.prepare(database)
        await database[STOCK.collection].insert_one({"_id": STOCK.id, "on_hand": pieces, "reserved": 0, "version": 1})
        before_kill, survivor = await _race(database, settings, takes // 2)
        group_commit = make_group_commit(database, max(1, takes // 20))
        names = [f"victim-{number}" for number in range(takes // 2)]
        victim = dict(zip(names, await asyncio.gather(*(take(group_commit, name) for name in names)), strict=True))
        await group_commit.close()

        assert before_kill.items() <= victim.items(), "a take has another answer after the kill than before"
        all_answers = victim | survivor
        assert len(all_answers) == takes
        taken = sorted(int(piece) for piece in all_answers.values() if piece != SOLD_OUT)
        assert taken == list(range(1, pieces + 1)), f"{len(taken)} takes succeeded; {pieces} pieces were in stock"
        await _recount(database, takes, pieces)
        return {
            "takes": takes,
            "pieces": pieces,
            "taken": len(taken),
            "taken by the killed one": sum(piece != SOLD_OUT for piece in victim.values()),
            "answered before the kill": len(before_kill),
            "sold out": takes - len(taken),
        }
    finally:
        await database.release_orphans(0)
        await database.client.drop_database(database.name)
        await database.close()


async def _recount(database: Database, takes: int, pieces: int) -> None:
    """Asserts that stock, idempotency records, holds and events agree."""
    stock = await database[STOCK.collection].find_one({"_id": STOCK.id})
    assert stock == {"_id": STOCK.id, "on_hand": pieces, "reserved": pieces, "version": pieces + 1}
    assert await database[idempotency.COLLECTION].count_documents({"answer": {"$exists": True}}) == pieces
    assert await database[idempotency.COLLECTION].count_documents({"refusal.reason": SOLD_OUT}) == takes - pieces
    assert sorted(await database["holds"].distinct("piece")) == list(range(1, pieces + 1))
    assert sorted(await database[DELIVERIES].distinct("sequence")) == list(range(1, pieces + 1))


async def _race(database: Database, settings: Settings, takes_each: int) -> tuple[Answers, Answers]:
    """Returns the answers of the victim before its kill, and all answers of the survivor."""
    victim, survivor = await asyncio.gather(
        _taker(settings, database.name, "victim", takes_each, "forever"), _taker(settings, database.name, "survivor", takes_each, "once")
    )
    try:
        for process in (victim, survivor):
            assert process.stdin is not None
            process.stdin.write(b"go\n")
        before_kill, of_survivor = await asyncio.gather(_read_answers(victim, kill_after=takes_each // 4), _read_answers(survivor))
        assert await survivor.wait() == 0
        return before_kill, of_survivor
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


async def _read_answers(process: Process, kill_after: int | None = None) -> Answers:
    assert process.stdout is not None
    answers: Answers = {}
    async for line in process.stdout:
        if line.endswith(b"\n"):  # the last one may be cut off
            name, piece = line.decode().split()
            answers[name] = piece
        if len(answers) == kill_after and process.returncode is None:
            await asyncio.sleep(
                random.uniform(0, 0.02)
            )  # answers arrive right after a commit: a random wait hits other moments of a transaction
            process.kill()
            kill_after = None
    await process.wait()
    return answers
