"""Tests of group commit: concurrent commands have the same result as sequential ones."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import Int64Value
from hypothesis import HealthCheck, given
from hypothesis import settings as example_settings
from hypothesis import strategies as st
from msgspec import Struct

from services.kit import clock
from services.kit.errors import Conflict, Exhausted, Overloaded, Refusal, Unavailable
from services.kit.mongo.client import Database, Session
from services.kit.settings import Settings
from services.kit.transactions import idempotency
from services.kit.transactions.group_commit import ChangeSet, DocumentRef, GroupCommit, Snapshot
from services.kit.transactions.idempotency import IdempotencyKey
from services.kit.transactions.outbox import DELIVERIES, Outbox
from services.kit.values.event import Event
from tests.proofs.group_commit import takes_survive_a_kill

STOCK = DocumentRef("stock", "a")


@pytest.fixture
async def group_commit(database: Database) -> AsyncIterator[GroupCommit]:
    group_commit = make_group_commit(database)
    yield group_commit
    await group_commit.close()


def make_group_commit(database: Database, **bounds: int) -> GroupCommit:
    return GroupCommit(database, Outbox(database, "commerce", {"store_changed": ["member"]}), clock.now, **bounds)


async def stock(database: Database, *ids: str, on_hand: int = 100) -> None:
    await database["stock"].insert_many([{"_id": id, "on_hand": on_hand, "reserved": 0, "version": 1} for id in ids])


def taking_decision(amounts: Mapping[DocumentRef, int], **more: Any) -> Any:
    """Returns a decision that reserves these amounts, all or none; its answer is the total reserved afterwards."""

    def decide(state: Snapshot) -> ChangeSet:
        documents = {ref: state[ref] or {} for ref in amounts}
        if any(documents[ref]["reserved"] + amount > documents[ref]["on_hand"] for ref, amount in amounts.items()):
            raise Exhausted("SOLD_OUT")
        total = sum(documents[ref]["reserved"] + amount for ref, amount in amounts.items())
        return ChangeSet(increments={ref: {"reserved": amount} for ref, amount in amounts.items()}, answer=Int64Value(value=total), **more)

    return decide


async def take(group_commit: GroupCommit, ref: DocumentRef = STOCK, amount: int = 1, key: IdempotencyKey | None = None, **more: Any) -> int:
    return (await group_commit.run(key, [ref], taking_decision({ref: amount}, **more), Int64Value)).value


async def reserved(database: Database, id: str = "a") -> int:
    return int((await database["stock"].find_one({"_id": id}))["reserved"])


@asynccontextmanager
async def locked_by_another_process(database: Database, ref: DocumentRef) -> AsyncIterator[None]:
    """Holds a write lock on the document by another transaction, so that a batch with it cannot commit."""
    async with database.session() as session:
        starting = session.start_transaction()
        if database.driver == "pymongo":
            await starting
        await database[ref.collection].update_one({"_id": ref.id}, {"$set": {"touched": True}}, session=session)
        yield
        await session.abort_transaction()


# --- Equal to sequential execution ------------------------------------------------------------------------------------------


class GeneratedCommand(Struct, frozen=True):
    """Reserves amounts, inserts a hold, and increments a flag if it still has the value that was read."""

    amounts: dict[str, int]
    hold: str | None
    flag_read: int | None
    key_id: str | None
    fingerprint: bytes


generated_commands = st.builds(
    GeneratedCommand,
    amounts=st.dictionaries(st.sampled_from("abc"), st.integers(0, 4), min_size=1),
    hold=st.none() | st.sampled_from(["old", "h1", "h2", "h3"]),
    flag_read=st.none() | st.integers(0, 2),
    key_id=st.none() | st.sampled_from(["o1", "o2", "o3"]),
    fingerprint=st.sampled_from([b"x", b"x", b"x", b"y"]),
)


class SequentialModel:
    """The specification: the results of the commands one after the other."""

    def __init__(self, on_hand: int) -> None:
        self.on_hand = on_hand
        self.reserved = dict.fromkeys("abc", 0)
        self.versions = dict.fromkeys("abc", 1)
        self.holds, self.flag = {"old"}, 0
        self.records: dict[str, tuple[bytes, str]] = {}

    def execute(self, command: GeneratedCommand) -> str:
        if command.key_id in self.records:
            fingerprint, result = self.records[command.key_id]
            return result if fingerprint == command.fingerprint else "REQUEST_ID_REUSED"
        result = self._decide(command)
        if command.key_id is not None:
            self.records[command.key_id] = (command.fingerprint, result)
        return result

    def _decide(self, command: GeneratedCommand) -> str:
        after = {name: self.reserved[name] + amount for name, amount in command.amounts.items()}
        if max(after.values()) > self.on_hand:
            return "SOLD_OUT"
        if command.hold in self.holds:
            return "ALREADY_EXISTS"
        if command.flag_read not in (None, self.flag):
            return "STATE_CHANGED"
        self.reserved |= after
        self.versions |= {name: self.versions[name] + 1 for name in after}
        self.holds |= {command.hold} if command.hold else set()
        self.flag += command.flag_read is not None
        return str(sum(after.values()))


@given(st.lists(generated_commands, max_size=14), st.integers(0, 12), st.sampled_from([1, 3, 100]))
@example_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_concurrent_commands_equal_sequential_ones(
    database: Database, commands: list[GeneratedCommand], on_hand: int, batch_max: int
) -> None:
    prefix, group_commit = secrets.token_hex(4), make_group_commit(database, batch_max=batch_max, transactions_max=1)
    await stock(database, *(f"{prefix}{name}" for name in "abc"), on_hand=on_hand)
    await database["holds"].insert_one({"_id": f"{prefix}old"})
    await database["flags"].insert_one({"_id": prefix, "n": 0})

    async def execute(command: GeneratedCommand) -> str:
        amounts = {DocumentRef("stock", f"{prefix}{name}"): amount for name, amount in command.amounts.items()}
        inserts = [] if command.hold is None else [("holds", {"_id": f"{prefix}{command.hold}"})]
        updates = [] if command.flag_read is None else [("flags", {"_id": prefix, "n": command.flag_read}, {"$inc": {"n": 1}})]
        key = None if command.key_id is None else IdempotencyKey(f"{prefix}{command.key_id}", command.fingerprint)
        try:
            return str(
                (await group_commit.run(key, list(amounts), taking_decision(amounts, inserts=inserts, updates=updates), Int64Value)).value
            )
        except Refusal as refusal:
            return refusal.reason

    model = SequentialModel(on_hand)
    assert await asyncio.gather(*(execute(command) for command in commands)) == [model.execute(command) for command in commands]
    for name in "abc":
        found = await database["stock"].find_one({"_id": f"{prefix}{name}"})
        assert (found["reserved"], found["version"]) == (model.reserved[name], model.versions[name])
    assert {document["_id"] async for document in database["holds"].find({"_id": {"$regex": f"^{prefix}"}})} == {
        prefix + hold for hold in model.holds
    }
    assert (await database["flags"].find_one({"_id": prefix}))["n"] == model.flag
    assert await database[idempotency.COLLECTION].count_documents({"_id": {"$regex": f"^{prefix}"}}) == len(model.records)
    await group_commit.close()


async def test_takes_survive_a_kill(settings: Settings) -> None:
    await takes_survive_a_kill(settings, takes=100, pieces=25)


async def test_commands_on_six_documents_are_atomic(settings: Settings, database: Database) -> None:
    budgets = [DocumentRef("stock", f"budget{number}") for number in range(8)]
    await stock(database, *(budget.id for budget in budgets), on_hand=12)
    other_connection = Database(settings, database.name)
    replicas = [make_group_commit(database, batch_max=4), make_group_commit(other_connection, batch_max=4)]

    async def issue(number: int) -> tuple[bool, Sequence[DocumentRef]]:
        six = [budgets[(number * 3 + step) % 8] for step in range(6)]
        try:
            await replicas[number % 2].run(None, six, taking_decision(dict.fromkeys(six, 1)), Int64Value)
        except Exhausted:
            return False, six
        return True, six

    packs = await asyncio.gather(*(issue(number) for number in range(40)))
    spent = {budget: await reserved(database, budget.id) for budget in budgets}
    assert spent == {budget: sum(issued and budget in six for issued, six in packs) for budget in budgets}
    assert max(spent.values()) == 12
    assert all(issued or max(spent[budget] for budget in six) == 12 for issued, six in packs), (
        "a pack was refused although all six budgets had a rest"
    )
    await other_connection.close()


async def test_repeated_request_has_one_effect_and_answer(database: Database, group_commit: GroupCommit) -> None:
    await stock(database, "a")
    same = IdempotencyKey("usr:HoldStock:1", b"body")
    assert await asyncio.gather(*(take(group_commit, key=same) for _ in range(50))) == [1] * 50
    assert await reserved(database) == 1
    with pytest.raises(Conflict, match="REQUEST_ID_REUSED"):
        await take(group_commit, key=IdempotencyKey("usr:HoldStock:1", b"another body"))


# --- Change sets ------------------------------------------------------------------------------------------------------------


async def test_missing_document_is_created_once(settings: Settings, database: Database) -> None:
    day = DocumentRef("days", "str_1:2026-11")
    await database["days"].insert_one({"_id": "another"})
    other_connection = Database(settings, database.name)
    replicas = [make_group_commit(database), make_group_commit(other_connection)]

    def count(state: Snapshot) -> ChangeSet:
        inserts = [] if state[day] else [("days", {"_id": day.id, "days": {}})]
        return ChangeSet(increments={day: {"days.2026-11-23": 1, "total": 2}}, inserts=inserts, answer=Int64Value())

    await asyncio.gather(*(replicas[number % 2].run(None, [day], count, Int64Value) for number in range(20)))
    assert await database["days"].find_one({"_id": day.id}) == {"_id": day.id, "days": {"2026-11-23": 20}, "total": 40, "version": 20}
    await other_connection.close()


async def test_overlapping_update_and_increment_are_both_exact(database: Database) -> None:
    group_commit = make_group_commit(database, transactions_max=1)
    await stock(database, "a", "b", on_hand=5)
    raise_b = ("stock", {"_id": "b", "on_hand": 5}, {"$inc": {"on_hand": 1}})
    results = await asyncio.gather(
        take(group_commit, updates=[raise_b]),
        take(group_commit, DocumentRef("stock", "b"), 6),
        take(group_commit, updates=[raise_b]),
        return_exceptions=True,
    )
    first, second, third = results
    assert (first, second) == (1, 6)
    assert isinstance(third, Conflict) and third.reason == "STATE_CHANGED"
    assert [await reserved(database, "a"), await reserved(database, "b")] == [1, 6]


async def test_empty_increment_increments_the_version(database: Database, group_commit: GroupCommit) -> None:
    await stock(database, "a")
    await group_commit.run(None, [STOCK], lambda _: ChangeSet(increments={STOCK: {}}, answer=Int64Value()), Int64Value)
    assert await database["stock"].find_one({"_id": "a"}) == {"_id": "a", "on_hand": 100, "reserved": 0, "version": 2}


class StoreChanged(Event, frozen=True):
    kind = "store_changed"
    store_id: str
    name: str


async def test_only_committed_commands_publish_events_in_order(database: Database, group_commit: GroupCommit) -> None:
    await stock(database, "a", on_hand=6)
    takes = [take(group_commit, amount=amount, events=[StoreChanged("str_1", f"takes {amount}")]) for amount in (1, 2, 9, 3)]
    await asyncio.gather(*takes, return_exceptions=True)
    deliveries = [delivery async for delivery in database[DELIVERIES].find().sort("sequence")]
    assert [delivery["sequence"] for delivery in deliveries] == [1, 2, 3]
    assert [f"takes {amount}".encode() in delivery["event"] for amount, delivery in zip((1, 2, 3), deliveries, strict=True)] == [True] * 3


async def test_decision_runs_with_the_callers_time_and_context(database: Database, group_commit: GroupCommit) -> None:
    await stock(database, "a")
    guide: ContextVar[str] = ContextVar("guide", default="")
    seen: list[str] = []

    async def submit(name: str, hours: int) -> None:
        clock.offset.set(timedelta(hours=hours))
        guide.set(name)

        def decide(state: Snapshot) -> ChangeSet:
            seen.append(guide.get())
            changes: ChangeSet = taking_decision({STOCK: 1})(state)
            return changes

        await group_commit.run(IdempotencyKey(name, b""), [STOCK], decide, Int64Value)

    await asyncio.gather(submit("lin", 0), submit("wei", 5))
    assert seen == ["lin", "wei"]
    expiries = {record["_id"]: record["expires_at"] async for record in database[idempotency.COLLECTION].find()}
    assert abs(expiries["lin"] - datetime.now(UTC) - idempotency.RETENTION) < timedelta(minutes=5)
    assert abs(expiries["wei"] - expiries["lin"] - timedelta(hours=5)) < timedelta(minutes=5)


# --- Failures ---------------------------------------------------------------------------------------------------------------


def broken_decisions() -> Iterator[Any]:
    def bug(_: Snapshot) -> ChangeSet:
        raise ZeroDivisionError

    yield pytest.param(bug, id="a decision with a bug")
    yield pytest.param(
        taking_decision({STOCK: 1}, inserts=[("holds", {"_id": "x", "odd": object()})]), id="a document that cannot be stored"
    )
    yield pytest.param(
        taking_decision({STOCK: 1}, updates=[("holds", {"_id": "x"}, {"$odd": 1})]), id="an update that the database rejects"
    )
    yield pytest.param(
        taking_decision({STOCK: 1}, updates=[("stock", {"_id": "a"}, {"$inc": {"reserved": 1}})]), id="an update of a document in refs"
    )
    yield pytest.param(
        lambda _: ChangeSet(increments={DocumentRef("stock", "b"): {}}, answer=Int64Value()),
        id="an increment of a document outside of refs",
    )
    yield pytest.param(taking_decision({STOCK: 1}, events=[Struct()]), id="an unknown event")


@pytest.mark.parametrize("broken", list(broken_decisions()))
async def test_broken_command_fails_alone(database: Database, group_commit: GroupCommit, broken: Any) -> None:
    await stock(database, "a", "b")
    neighbours = [take(group_commit) for _ in range(6)]
    failing = group_commit.run(IdempotencyKey("broken", b""), [STOCK], broken, Int64Value)
    results = await asyncio.gather(*neighbours[:3], failing, *neighbours[3:], return_exceptions=True)
    failed = results.pop(3)
    assert isinstance(failed, Exception) and not isinstance(failed, Refusal)
    assert results == [1, 2, 3, 4, 5, 6]
    assert await reserved(database) == 6
    assert await database[idempotency.COLLECTION].count_documents({}) == 0


async def test_unreachable_database_fails_all_commands(settings: Settings) -> None:
    away = Database(Settings(mongo_uri="mongodb://127.0.0.1:1", mongo_driver=settings.mongo_driver, mongo_timeout_seconds=0.2), "away")
    group_commit = make_group_commit(away)
    results = await asyncio.gather(*(take(group_commit) for _ in range(5)), return_exceptions=True)
    assert [type(each) for each in results] == [Unavailable] * 5
    await group_commit.close()
    await away.close()


# --- The queue --------------------------------------------------------------------------------------------------------------


async def test_full_queue_refuses_new_commands(database: Database) -> None:
    await stock(database, "a")
    group_commit = make_group_commit(database, queue_max=3)
    results = await asyncio.gather(*(take(group_commit) for _ in range(5)), return_exceptions=True)
    assert results[:3] == [1, 2, 3]
    for refused in results[3:]:
        assert isinstance(refused, Overloaded) and refused.retry_after and refused.retryable
    assert await take(group_commit) == 4


async def test_only_commands_on_shared_documents_wait(database: Database, group_commit: GroupCommit) -> None:
    await stock(database, "a", "b", "c")
    both = [STOCK, DocumentRef("stock", "b")]
    async with locked_by_another_process(database, STOCK):
        first = asyncio.create_task(take(group_commit))
        second = asyncio.create_task(group_commit.run(None, both, taking_decision(dict.fromkeys(both, 1)), Int64Value))
        await asyncio.sleep(0)
        assert await take(group_commit, DocumentRef("stock", "c")) == 1
        later = asyncio.create_task(take(group_commit, DocumentRef("stock", "b"), 10))
        assert await take(group_commit, DocumentRef("stock", "c")) == 2
        assert not first.done() and not second.done()
    assert (await first, (await second).value, await later) == (1, 3, 11)


async def test_command_cancelled_in_the_queue_has_no_effect(database: Database, group_commit: GroupCommit) -> None:
    await stock(database, "a")
    async with locked_by_another_process(database, STOCK):
        first = asyncio.create_task(take(group_commit))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        cancelled, third = asyncio.create_task(take(group_commit, amount=50)), asyncio.create_task(take(group_commit))
        await asyncio.sleep(0)
        cancelled.cancel()
    assert (await first, await third) == (1, 2)
    assert await reserved(database) == 2


async def test_close_completes_queued_commands_and_refuses_new(database: Database) -> None:
    await stock(database, "a")
    group_commit = make_group_commit(database, batch_max=2)
    waiting = [asyncio.create_task(take(group_commit)) for _ in range(7)]
    await asyncio.sleep(0)
    await group_commit.close()
    assert [task.result() for task in waiting] == [1, 2, 3, 4, 5, 6, 7]
    with pytest.raises(Unavailable):
        await take(group_commit)


async def test_many_takes_share_one_transaction(database: Database, group_commit: GroupCommit, monkeypatch: pytest.MonkeyPatch) -> None:
    await stock(database, "a", on_hand=1000)
    transactions: list[Session] = []
    transact = database.transact

    async def counted(body: Any) -> Any:
        transactions.append(body)
        return await transact(body)

    monkeypatch.setattr(database, "transact", counted)
    await asyncio.gather(*(take(group_commit) for _ in range(300)))
    assert len(transactions) == 1
