"""Group commit: many callers, one transaction, and nobody can tell but by the clock."""

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
    group_commit = lane_on(database)
    yield group_commit
    await group_commit.close()


def lane_on(database: Database, **bounds: int) -> GroupCommit:
    return GroupCommit(database, Outbox(database, "commerce", {"store_changed": ["member"]}), clock.now, **bounds)


async def stock(database: Database, *ids: str, on_hand: int = 100) -> None:
    await database["stock"].insert_many([{"_id": id, "on_hand": on_hand, "reserved": 0, "version": 1} for id in ids])


def taking(amounts: Mapping[DocumentRef, int], **more: Any) -> Any:
    """The decision that takes so many of each, all or none, and answers what is reserved of all of them then."""

    def decide(state: Snapshot) -> ChangeSet:
        documents = {ref: state[ref] or {} for ref in amounts}
        if any(documents[ref]["reserved"] + amount > documents[ref]["on_hand"] for ref, amount in amounts.items()):
            raise Exhausted("SOLD_OUT")
        total = sum(documents[ref]["reserved"] + amount for ref, amount in amounts.items())
        return ChangeSet(increments={ref: {"reserved": amount} for ref, amount in amounts.items()}, answer=Int64Value(value=total), **more)

    return decide


async def take(group_commit: GroupCommit, ref: DocumentRef = STOCK, amount: int = 1, key: IdempotencyKey | None = None, **more: Any) -> int:
    return (await group_commit.run(key, [ref], taking({ref: amount}, **more), Int64Value)).value


async def reserved(database: Database, id: str = "a") -> int:
    return int((await database["stock"].find_one({"_id": id}))["reserved"])


@asynccontextmanager
async def written_elsewhere(database: Database, ref: DocumentRef) -> AsyncIterator[None]:
    """While it lasts another process's transaction has written the document, so that a flight on it cannot land."""
    async with database.session() as session:
        starting = session.start_transaction()
        if database.driver == "pymongo":
            await starting
        await database[ref.collection].update_one({"_id": ref.id}, {"$set": {"touched": True}}, session=session)
        yield
        await session.abort_transaction()


# --- The same as one by one -------------------------------------------------------------------------------------------------


class Wish(Struct, frozen=True):
    """A generated command: take these amounts, insert that hold, move this flag on if it stands where it was seen."""

    amounts: dict[str, int]
    hold: str | None
    flag_seen: int | None
    key_id: str | None
    fingerprint: bytes


wishes = st.builds(
    Wish,
    amounts=st.dictionaries(st.sampled_from("abc"), st.integers(0, 4), min_size=1),
    hold=st.none() | st.sampled_from(["old", "h1", "h2", "h3"]),
    flag_seen=st.none() | st.integers(0, 2),
    key_id=st.none() | st.sampled_from(["o1", "o2", "o3"]),
    fingerprint=st.sampled_from([b"x", b"x", b"x", b"y"]),
)


class OneByOne:
    """The specification: what the commands do when each is alone in the world."""

    def __init__(self, on_hand: int) -> None:
        self.on_hand = on_hand
        self.reserved = dict.fromkeys("abc", 0)
        self.versions = dict.fromkeys("abc", 1)
        self.holds, self.flag = {"old"}, 0
        self.said: dict[str, tuple[bytes, str]] = {}

    def hear(self, wish: Wish) -> str:
        if wish.key_id in self.said:
            fingerprint, verdict = self.said[wish.key_id]
            return verdict if fingerprint == wish.fingerprint else "REQUEST_ID_REUSED"
        verdict = self._decide(wish)
        if wish.key_id is not None:
            self.said[wish.key_id] = (wish.fingerprint, verdict)
        return verdict

    def _decide(self, wish: Wish) -> str:
        after = {name: self.reserved[name] + amount for name, amount in wish.amounts.items()}
        if max(after.values()) > self.on_hand:
            return "SOLD_OUT"
        if wish.hold in self.holds:
            return "ALREADY_EXISTS"
        if wish.flag_seen not in (None, self.flag):
            return "STATE_CHANGED"
        self.reserved |= after
        self.versions |= {name: self.versions[name] + 1 for name in after}
        self.holds |= {wish.hold} if wish.hold else set()
        self.flag += wish.flag_seen is not None
        return str(sum(after.values()))


@given(st.lists(wishes, max_size=14), st.integers(0, 12), st.sampled_from([1, 3, 100]))
@example_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_commands_together_come_to_what_they_come_to_one_by_one(
    database: Database, commands: list[Wish], on_hand: int, batch_max: int
) -> None:
    world, group_commit = secrets.token_hex(4), lane_on(database, batch_max=batch_max, transactions_max=1)
    await stock(database, *(f"{world}{name}" for name in "abc"), on_hand=on_hand)
    await database["holds"].insert_one({"_id": f"{world}old"})
    await database["flags"].insert_one({"_id": world, "n": 0})

    async def hear(wish: Wish) -> str:
        amounts = {DocumentRef("stock", f"{world}{name}"): amount for name, amount in wish.amounts.items()}
        inserts = [] if wish.hold is None else [("holds", {"_id": f"{world}{wish.hold}"})]
        updates = [] if wish.flag_seen is None else [("flags", {"_id": world, "n": wish.flag_seen}, {"$inc": {"n": 1}})]
        key = None if wish.key_id is None else IdempotencyKey(f"{world}{wish.key_id}", wish.fingerprint)
        try:
            return str((await group_commit.run(key, list(amounts), taking(amounts, inserts=inserts, updates=updates), Int64Value)).value)
        except Refusal as refusal:
            return refusal.reason

    model = OneByOne(on_hand)
    assert await asyncio.gather(*(hear(wish) for wish in commands)) == [model.hear(wish) for wish in commands]
    for name in "abc":
        found = await database["stock"].find_one({"_id": f"{world}{name}"})
        assert (found["reserved"], found["version"]) == (model.reserved[name], model.versions[name])
    assert {row["_id"] async for row in database["holds"].find({"_id": {"$regex": f"^{world}"}})} == {world + hold for hold in model.holds}
    assert (await database["flags"].find_one({"_id": world}))["n"] == model.flag
    assert await database[idempotency.COLLECTION].count_documents({"_id": {"$regex": f"^{world}"}}) == len(model.said)
    await group_commit.close()


async def test_takes_survive_a_kill(settings: Settings) -> None:
    await takes_survive_a_kill(settings, takes=100, pieces=25)


async def test_commands_over_six_counters_are_atomic_under_concurrency(settings: Settings, database: Database) -> None:
    budgets = [DocumentRef("stock", f"budget{number}") for number in range(8)]
    await stock(database, *(budget.id for budget in budgets), on_hand=12)
    elsewhere = Database(settings, database.name)
    replicas = [lane_on(database, batch_max=4), lane_on(elsewhere, batch_max=4)]

    async def issue(number: int) -> tuple[bool, Sequence[DocumentRef]]:
        six = [budgets[(number * 3 + step) % 8] for step in range(6)]
        try:
            await replicas[number % 2].run(None, six, taking(dict.fromkeys(six, 1)), Int64Value)
        except Exhausted:
            return False, six
        return True, six

    packs = await asyncio.gather(*(issue(number) for number in range(40)))
    spent = {budget: await reserved(database, budget.id) for budget in budgets}
    assert spent == {budget: sum(issued and budget in six for issued, six in packs) for budget in budgets}
    assert max(spent.values()) == 12
    assert all(issued or max(spent[budget] for budget in six) == 12 for issued, six in packs), "a pack was refused while all six could pay"
    await elsewhere.close()


async def test_the_same_request_fifty_times_has_one_effect_and_fifty_equal_answers(database: Database, group_commit: GroupCommit) -> None:
    await stock(database, "a")
    same = IdempotencyKey("usr:HoldStock:1", b"body")
    assert await asyncio.gather(*(take(group_commit, key=same) for _ in range(50))) == [1] * 50
    assert await reserved(database) == 1
    with pytest.raises(Conflict, match="REQUEST_ID_REUSED"):
        await take(group_commit, key=IdempotencyKey("usr:HoldStock:1", b"another body"))


# --- What a command may ask for ---------------------------------------------------------------------------------------------


async def test_a_missing_counter_is_created_once_and_counted_by_all(settings: Settings, database: Database) -> None:
    day = DocumentRef("days", "str_1:2026-11")
    await database["days"].insert_one({"_id": "another"})
    elsewhere = Database(settings, database.name)
    replicas = [lane_on(database), lane_on(elsewhere)]

    def count(state: Snapshot) -> ChangeSet:
        inserts = [] if state[day] else [("days", {"_id": day.id, "days": {}})]
        return ChangeSet(increments={day: {"days.2026-11-23": 1, "total": 2}}, inserts=inserts, answer=Int64Value())

    await asyncio.gather(*(replicas[number % 2].run(None, [day], count, Int64Value) for number in range(20)))
    assert await database["days"].find_one({"_id": day.id}) == {"_id": day.id, "days": {"2026-11-23": 20}, "total": 40, "version": 20}
    await elsewhere.close()


async def test_a_document_that_one_command_updates_and_another_counts_is_right_for_both(database: Database) -> None:
    group_commit = lane_on(database, transactions_max=1)
    await stock(database, "a", "b", on_hand=5)
    raise_b = ("stock", {"_id": "b", "on_hand": 5}, {"$inc": {"on_hand": 1}})
    heard = await asyncio.gather(
        take(group_commit, updates=[raise_b]),
        take(group_commit, DocumentRef("stock", "b"), 6),
        take(group_commit, updates=[raise_b]),
        return_exceptions=True,
    )
    first, second, third = heard
    assert (first, second) == (1, 6)
    assert isinstance(third, Conflict) and third.reason == "STATE_CHANGED"
    assert [await reserved(database, "a"), await reserved(database, "b")] == [1, 6]


async def test_an_empty_increment_holds_the_decision_to_what_it_read(database: Database, group_commit: GroupCommit) -> None:
    await stock(database, "a")
    await group_commit.run(None, [STOCK], lambda _: ChangeSet(increments={STOCK: {}}, answer=Int64Value()), Int64Value)
    assert await database["stock"].find_one({"_id": "a"}) == {"_id": "a", "on_hand": 100, "reserved": 0, "version": 2}


class StoreChanged(Event, frozen=True):
    kind = "store_changed"
    store_id: str
    name: str


async def test_events_are_told_in_order_and_only_by_what_happened(database: Database, group_commit: GroupCommit) -> None:
    await stock(database, "a", on_hand=6)
    told = [take(group_commit, amount=amount, events=[StoreChanged("str_1", f"takes {amount}")]) for amount in (1, 2, 9, 3)]
    await asyncio.gather(*told, return_exceptions=True)
    rows = [row async for row in database[DELIVERIES].find().sort("sequence")]
    assert [row["sequence"] for row in rows] == [1, 2, 3]
    assert [f"takes {amount}".encode() in row["event"] for amount, row in zip((1, 2, 3), rows, strict=True)] == [True] * 3


async def test_time_and_context_are_those_of_the_caller(database: Database, group_commit: GroupCommit) -> None:
    await stock(database, "a")
    guide: ContextVar[str] = ContextVar("guide", default="nobody")
    seen: list[str] = []

    async def submit(name: str, hours: int) -> None:
        clock.offset.set(timedelta(hours=hours))
        guide.set(name)

        def decide(state: Snapshot) -> ChangeSet:
            seen.append(guide.get())
            outcome: ChangeSet = taking({STOCK: 1})(state)
            return outcome

        await group_commit.run(IdempotencyKey(name, b""), [STOCK], decide, Int64Value)

    await asyncio.gather(submit("lin", 0), submit("wei", 5))
    assert seen == ["lin", "wei"]
    kept = {record["_id"]: record["expires_at"] async for record in database[idempotency.COLLECTION].find()}
    assert abs(kept["lin"] - datetime.now(UTC) - idempotency.RETENTION) < timedelta(minutes=5)
    assert abs(kept["wei"] - kept["lin"] - timedelta(hours=5)) < timedelta(minutes=5)


# --- What goes wrong alone --------------------------------------------------------------------------------------------------


def poisons() -> Iterator[Any]:
    def bug(_: Snapshot) -> ChangeSet:
        raise ZeroDivisionError

    yield pytest.param(bug, id="a decision with a bug")
    yield pytest.param(taking({STOCK: 1}, inserts=[("holds", {"_id": "x", "odd": object()})]), id="a document that cannot be stored")
    yield pytest.param(taking({STOCK: 1}, updates=[("holds", {"_id": "x"}, {"$odd": 1})]), id="an update that the database rejects")
    yield pytest.param(taking({STOCK: 1}, updates=[("stock", {"_id": "a"}, {"$inc": {"reserved": 1}})]), id="an update of its own counter")
    yield pytest.param(lambda _: ChangeSet(increments={DocumentRef("stock", "b"): {}}, answer=Int64Value()), id="a counter it did not name")
    yield pytest.param(taking({STOCK: 1}, events=[Struct()]), id="an event nobody knows")


@pytest.mark.parametrize("poison", list(poisons()))
async def test_a_poison_command_fails_alone(database: Database, group_commit: GroupCommit, poison: Any) -> None:
    await stock(database, "a", "b")
    neighbours = [take(group_commit) for _ in range(6)]
    poisoned = group_commit.run(IdempotencyKey("poison", b""), [STOCK], poison, Int64Value)
    heard = await asyncio.gather(*neighbours[:3], poisoned, *neighbours[3:], return_exceptions=True)
    failed = heard.pop(3)
    assert isinstance(failed, Exception) and not isinstance(failed, Refusal)
    assert heard == [1, 2, 3, 4, 5, 6]
    assert await reserved(database) == 6
    assert await database[idempotency.COLLECTION].count_documents({}) == 0


async def test_a_database_that_is_away_is_said_to_everyone(settings: Settings) -> None:
    away = Database(Settings(mongo_uri="mongodb://127.0.0.1:1", mongo_driver=settings.mongo_driver, mongo_timeout_seconds=0.2), "away")
    group_commit = lane_on(away)
    heard = await asyncio.gather(*(take(group_commit) for _ in range(5)), return_exceptions=True)
    assert [type(each) for each in heard] == [Unavailable] * 5
    await group_commit.close()
    await away.close()


# --- The queue --------------------------------------------------------------------------------------------------------------


async def test_a_full_queue_refuses_before_it_begins(database: Database) -> None:
    await stock(database, "a")
    group_commit = lane_on(database, queue_max=3)
    heard = await asyncio.gather(*(take(group_commit) for _ in range(5)), return_exceptions=True)
    assert heard[:3] == [1, 2, 3]
    for refused in heard[3:]:
        assert isinstance(refused, Overloaded) and refused.retry_after and refused.retryable
    assert await take(group_commit) == 4


async def test_disjoint_counters_do_not_wait_for_each_other_and_shared_ones_keep_their_order(
    database: Database, group_commit: GroupCommit
) -> None:
    await stock(database, "a", "b", "c")
    both = [STOCK, DocumentRef("stock", "b")]
    async with written_elsewhere(database, STOCK):
        first = asyncio.create_task(take(group_commit))
        second = asyncio.create_task(group_commit.run(None, both, taking(dict.fromkeys(both, 1)), Int64Value))
        await asyncio.sleep(0)
        assert await take(group_commit, DocumentRef("stock", "c")) == 1
        behind = asyncio.create_task(take(group_commit, DocumentRef("stock", "b"), 10))
        assert await take(group_commit, DocumentRef("stock", "c")) == 2
        assert not first.done() and not second.done()
    assert (await first, (await second).value, await behind) == (1, 3, 11)


async def test_a_caller_cancelled_while_waiting_leaves_no_trace(database: Database, group_commit: GroupCommit) -> None:
    await stock(database, "a")
    async with written_elsewhere(database, STOCK):
        first = asyncio.create_task(take(group_commit))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        cancelled, third = asyncio.create_task(take(group_commit, amount=50)), asyncio.create_task(take(group_commit))
        await asyncio.sleep(0)
        cancelled.cancel()
    assert (await first, await third) == (1, 2)
    assert await reserved(database) == 2


async def test_closing_answers_those_who_wait_and_refuses_newcomers(database: Database) -> None:
    await stock(database, "a")
    group_commit = lane_on(database, batch_max=2)
    waiting = [asyncio.create_task(take(group_commit)) for _ in range(7)]
    await asyncio.sleep(0)
    await group_commit.close()
    assert [task.result() for task in waiting] == [1, 2, 3, 4, 5, 6, 7]
    with pytest.raises(Unavailable):
        await take(group_commit)


async def test_the_database_sees_one_transaction_for_many_takes(
    database: Database, group_commit: GroupCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stock(database, "a", on_hand=1000)
    transactions: list[Session] = []
    transact = database.transact

    async def counted(body: Any) -> Any:
        transactions.append(body)
        return await transact(body)

    monkeypatch.setattr(database, "transact", counted)
    await asyncio.gather(*(take(group_commit) for _ in range(300)))
    assert len(transactions) == 1
