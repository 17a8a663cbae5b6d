"""A feed loses nothing: not between two streams, not while many write, not what is committed later than its time says."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from quanyu.organization.v1 import tasks_pb2
from services.kit import access, clock, feed, ids, pages
from services.kit.access import Caller, Kind
from services.kit.channel import CURSOR_KEY
from services.kit.errors import Invalid
from services.kit.facts.outbox import Outbox
from services.kit.feed import BATCH_MAX, KNOWN_MAX, REWIND, Cursor, Feed, Place, feed_index
from services.kit.mongo import Database
from services.kit.table import CHANGED_AT, Table
from services.kit.unit import Unit
from services.kit.watch import Watch, Watched

ANNA = "stf_anna"


class Task(Struct, frozen=True):
    """What of a task this suite looks at: `visit_id` is its state."""

    id: str
    staff_id: str = ANNA
    store_id: str = "str_1"
    visit_id: str = ""
    version: int = 1


class Context:
    """What a feed asks of a stream's context: to send its first cursor ahead."""

    def __init__(self) -> None:
        self.cursor: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def send_initial_metadata(self, metadata: Sequence[tuple[str, str]]) -> None:
        self.cursor.set_result(dict(metadata)[CURSOR_KEY])


class Stream:
    """One client's stream, read in the background: `told` are id and state, `cursor` the last one."""

    def __init__(self, several: Any, context: Context, after: str) -> None:
        self.told: list[tuple[str, str]] = []
        self.cursors: list[str] = []
        self.cursor, self.context = after, context
        self.ended: asyncio.Task[None] = asyncio.create_task(self._read(several))
        self._news = asyncio.Condition()

    async def _read(self, several: Any) -> None:
        async with aclosing(several):
            async for batch in several:
                for row, cursor in batch:
                    self.told.append((row["id"], row.get("visit_id", "")))
                    self.cursors.append(cursor)
                    self.cursor = cursor
                async with self._news:
                    self._news.notify_all()

    async def began(self) -> None:
        """Waits until it stands."""
        async with asyncio.timeout(20):
            await asyncio.wait([self.context.cursor, self.ended], return_when=asyncio.FIRST_COMPLETED)
        if self.ended.done():
            await self.ended
        self.cursor = self.cursor or self.context.cursor.result()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30), self._news:
            await self._news.wait_for(condition)

    async def hears(self, *told: tuple[str, str]) -> None:
        """Exactly these, in this order, so far."""
        await self.until(lambda: len(self.told) >= len(told))
        assert self.told == list(told)

    async def close(self) -> None:
        self.ended.cancel()
        await asyncio.gather(self.ended, return_exceptions=True)


class Replica:
    """A process that serves the feeds of this suite: tasks as they change, and as they are born."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.watch = Watch(database)
        scopes = {Kind.STAFF: "staff_id", Kind.STORE: "store_id"}
        keys = ("staff_id", "store_id")
        self.tasks = Table(
            database, "tasks", struct=Task, message=tasks_pb2.Task, scopes=scopes, stamped=True, indexes=list(map(feed_index, keys))
        )  # fmt: skip
        self.changes = Feed(self.watch, self.tasks, keys=keys)
        self.mail = Table(
            database, "mail", struct=Task, message=tasks_pb2.Task, scopes=scopes, indexes=[feed_index("staff_id", births=True)]
        )
        self.births = Feed(
            self.watch, self.mail, keys=("staff_id",), born_as="tsk", ids_of=self.ids_of, until=Watched("links", keys=("staff_id",))
        )  # fmt: skip
        self.same: dict[str, list[str]] = {}

    async def ids_of(self, id: str) -> list[str]:
        return self.same.get(id, [id])

    @asynccontextmanager
    async def following(self, after: str = "", field: str = "staff_id", subject: str = ANNA, births: bool = False) -> AsyncIterator[Stream]:
        context = Context()
        stream = Stream((self.births if births else self.changes).follow(context, after, field, subject), context, after)
        try:
            await stream.began()
            yield stream
        finally:
            await stream.close()

    async def write(self, table: Table[Task], session: Any, *tasks: Task) -> None:
        """Inserts tasks whose state is empty, and replaces the others."""
        unit = Unit(session, clock.now(), Outbox(self.database, "organization"))
        for task in tasks:
            await (table.replace(unit, task) if task.visit_id else table.insert(unit, task))

    async def commit(self, *tasks: Task, table: Table[Task] | None = None) -> None:
        await self.database.transact(lambda session: self.write(table or self.tasks, session, *tasks))


@pytest.fixture
async def replicas(database: Database) -> AsyncIterator[list[Replica]]:
    access.current.set(access.SYSTEM)
    found = [Replica(database), Replica(database)]
    for table in (found[0].tasks, found[0].mail):
        await table.prepare()
    reading = [asyncio.create_task(replica.watch.run()) for replica in found]
    yield found
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)


async def test_from_now_on_each_task_is_told_when_it_is_born_and_when_it_changes(replicas: list[Replica]) -> None:
    here, there = replicas
    await here.commit(Task("tsk_0"))
    async with here.following() as hers, here.following(field="store_id", subject="str_1") as stores:
        await there.commit(Task("tsk_1"), Task("tsk_other", staff_id="stf_bert", store_id="str_2"))
        await hers.hears(("tsk_1", ""))
        await there.commit(Task("tsk_0", visit_id="a"))
        await there.commit(Task("tsk_1", visit_id="b"))
        await hers.hears(("tsk_1", ""), ("tsk_0", "a"), ("tsk_1", "b"))
        await stores.hears(*hers.told)


async def test_each_cursor_goes_on_where_it_was_given_at_any_replica(replicas: list[Replica]) -> None:
    here, there = replicas
    async with here.following() as first:
        begun = first.cursor
        for number in range(4):
            await here.commit(Task(f"tsk_{number}"))
        await first.until(lambda: len(first.told) == 4)
    await here.commit(Task("tsk_0", visit_id="a"))
    await here.commit(Task("tsk_9"))
    for cursor, left in zip([begun, *first.cursors], range(5), strict=True):
        async with there.following(cursor) as again:
            rest = [(f"tsk_{number}", "") for number in range(max(left, 1), 4)]
            await again.hears(*rest, ("tsk_0", "a"), ("tsk_9", ""))
    async with here.following(again.cursor) as last:
        await here.commit(Task("tsk_end"))
        await last.hears(("tsk_end", ""))


async def test_a_stream_that_broke_before_its_first_task_loses_nothing(replicas: list[Replica]) -> None:
    here, there = replicas
    await here.commit(Task("tsk_0"))
    async with here.following() as first:
        assert first.told == []
    await here.commit(Task("tsk_1"))
    async with there.following(first.cursor) as again:
        await again.hears(("tsk_1", ""))


async def test_what_is_committed_later_than_its_time_says_is_told(replicas: list[Replica]) -> None:
    """A transaction's rows carry the time it began at, perhaps by a clock that is behind; others commit and are told before it does."""
    here, there = replicas
    for table, births in ((here.tasks, False), (here.mail, True)):
        early, slow = ids.new("tsk"), clock.real() - timedelta(seconds=100)
        async with here.following(births=births) as stream:
            await here.commit(Task(early), table=table)
            await stream.hears((early, ""))
        late = f"{ids.least('tsk', slow)}late" if births else ids.new("tsk")
        await table.collection.insert_one({"_id": late, "staff_id": ANNA, "version": 1, CHANGED_AT: slow})
        async with there.following(stream.cursor, births=births) as again:
            await again.hears((late, ""))


@pytest.mark.parametrize(("seed", "rewind_seconds"), [(1, 120.0), (2, 120.0), (3, 1.0), (4, 1.0)])
async def test_whatever_breaks_while_many_write_the_newest_state_of_all_is_told(
    replicas: list[Replica], monkeypatch: pytest.MonkeyPatch, seed: int, rewind_seconds: float
) -> None:
    """Six writers in transactions short and long, three readers that break off at any moment and go on at any replica."""
    monkeypatch.setattr(feed, "REWIND", timedelta(seconds=rewind_seconds))
    chance, written = random.Random(seed), asyncio.Event()
    final: dict[str, str] = {}

    async def writer(number: int) -> None:
        at = replicas[number % 2]
        for step in range(1, 13):
            task = Task(f"tsk_{number}_{chance.randrange(4)}")
            if task.id in final:
                task = replace(await at.tasks.load(task.id), visit_id=str(step))
            await at.database.transact(partial(_slowly, at, task, chance.choice([0, 0, 0.2])))
            final[task.id] = task.visit_id

    async def reader(cursor: str, seen: dict[str, str]) -> None:
        while not (written.is_set() and seen == final):
            async with chance.choice(replicas).following(cursor) as stream:
                await asyncio.wait([stream.ended], timeout=chance.uniform(0, 0.2))
            seen.update(stream.told)
            cursor = stream.cursor

    async with replicas[0].following() as first:
        begun = first.cursor
    seen: list[dict[str, str]] = [{} for _ in range(3)]
    async with asyncio.timeout(60), asyncio.TaskGroup() as readers:
        for each in seen:
            readers.create_task(reader(begun, each))
        async with asyncio.TaskGroup() as writers:
            for number in range(6):
                writers.create_task(writer(number))
        written.set()
    assert len(final) > 12 and all(each == final for each in seen)


async def _slowly(replica: Replica, task: Task, seconds: float, session: Any) -> None:
    await replica.write(replica.tasks, session, task)
    await asyncio.sleep(seconds)


async def test_more_than_a_cursor_can_name_is_told_again_and_none_is_lost(replicas: list[Replica]) -> None:
    here, there = replicas
    tasks = [Task(f"tsk_{number:03}") for number in range(2 * KNOWN_MAX)]
    async with here.following() as stream:
        for task in tasks:
            await here.commit(task)
        await stream.until(lambda: len(stream.told) == len(tasks))
    await here.commit(Task("tsk_new"))
    async with there.following(stream.cursor) as again:
        await again.until(lambda: ("tsk_new", "") in again.told)
        assert {id for id, _ in again.told} == {task.id for task in tasks[:KNOWN_MAX]} | {"tsk_new"}


async def test_a_long_absence_is_made_up_for_page_by_page_and_goes_on_where_that_broke(replicas: list[Replica]) -> None:
    here, there = replicas
    long_ago = clock.real() - timedelta(days=9)
    rows = [
        {"_id": f"tsk_{number:03}", "staff_id": ANNA, "version": 1, CHANGED_AT: long_ago + timedelta(minutes=number // 2)}
        for number in range(2 * BATCH_MAX + 30)
    ]
    await here.tasks.collection.insert_many(random.Random(1).sample(rows, len(rows)))
    begun = pages.token(Cursor("tasks:staff_id", ANNA, long_ago))
    async with here.following(begun) as all_of_it:
        await all_of_it.until(lambda: len(all_of_it.told) == len(rows))
    assert [id for id, _ in all_of_it.told] == [row["_id"] for row in rows]
    for broken in (0, BATCH_MAX // 2, BATCH_MAX + 1, 2 * BATCH_MAX):
        async with there.following(all_of_it.cursors[broken]) as rest:
            await rest.until(lambda stream=rest: stream.told[-1:] == [(rows[-1]["_id"], "")])
        assert [id for id, _ in rest.told] == [row["_id"] for row in rows[broken + 1 :]]


async def test_only_what_the_caller_reaches_is_told_and_nothing_once_it_was_handed_away(replicas: list[Replica]) -> None:
    here, _ = replicas
    mine = Caller("anna", reach={Kind.STAFF: frozenset({ANNA}), Kind.STORE: frozenset({"str_2"})})
    access.current.set(mine)
    async with here.following(field="store_id", subject="str_1") as stream:
        access.current.set(access.SYSTEM)
        await here.commit(Task("tsk_0", staff_id="stf_bert"))
        await here.commit(Task("tsk_1"))
        await stream.hears(("tsk_1", ""))
        await here.commit(Task("tsk_1", staff_id="stf_bert", visit_id="a"), Task("tsk_2"))
        await stream.hears(("tsk_1", ""), ("tsk_2", ""))
        begun = stream.cursor
    access.current.set(mine)
    async with here.following(begun, field="store_id", subject="str_1") as stream:
        access.current.set(access.SYSTEM)
        await here.commit(Task("tsk_1", visit_id="b", version=2))
        await stream.hears(("tsk_1", "b"))


async def test_births_are_told_once(replicas: list[Replica]) -> None:
    here, there = replicas
    first, second = ids.new("tsk"), ids.new("tsk")
    async with here.following(births=True) as stream:
        await here.commit(Task(first), table=here.mail)
        await here.commit(Task(first, visit_id="read"), table=here.mail)
        await here.commit(Task(second), table=here.mail)
        await stream.until(lambda: len(stream.told) == 2)
        assert [id for id, _ in stream.told] == [first, second]
    await here.commit(Task(second, visit_id="read"), table=here.mail)
    third = ids.new("tsk")
    await here.commit(Task(third), table=here.mail)
    async with there.following(stream.cursor, births=True) as again:
        await again.hears((third, ""))


async def test_a_stream_ends_well_when_its_subject_is_somebody_else_and_goes_on_as_that(replicas: list[Replica]) -> None:
    here, _ = replicas
    async with here.following(births=True) as stream:
        here.same = {ANNA: [ANNA, "stf_anne"]}
        await here.database["links"].insert_one({"_id": "lnk_1", "staff_id": ANNA})
        async with asyncio.timeout(20):
            await stream.ended
        assert stream.told == []
    other = ids.new("tsk")
    await here.commit(Task(other, staff_id="stf_anne"), table=here.mail)
    async with here.following(stream.cursor, births=True) as again:
        await again.hears((other, ""))


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "!" * 2_000,
        pages.cursor("tasks", [ANNA, 1]),
        pages.token(Cursor("tasks:staff_id", "stf_bert", datetime.now(UTC))),
        pages.token(Cursor("tasks:store_id", ANNA, datetime.now(UTC))),
        pages.token(Cursor("mail:staff_id", ANNA, datetime.now(UTC))),
        pages.token(["tasks:staff_id", ANNA, datetime(2026, 1, 1), {}]),
        pages.token(["tasks:staff_id", ANNA, datetime.now(UTC), {"$gt": 1}]),
        pages.token(["tasks:staff_id", ANNA, {"$gt": 1}, {}]),
    ],
)
async def test_a_cursor_of_something_else_is_refused(replicas: list[Replica], cursor: str) -> None:
    with pytest.raises(Invalid) as refused:
        async with replicas[0].following(cursor):
            pass
    assert (refused.value.reason, refused.value.metadata) == ("INVALID_CURSOR", {"field": "after"})


versions = st.tuples(st.integers(0, 300).map("tsk_{}".format), st.integers(1, 10**6))


@given(st.lists(versions, max_size=300))
def test_a_cursor_stays_within_what_is_taken_and_knows_the_last_versions(told: list[tuple[str, int]]) -> None:
    at = datetime(2026, 5, 20, tzinfo=UTC)
    place = Place(Cursor("tasks:staff_id", "stf_" + 32 * "0", at))
    highest: dict[str, int] = {}
    recent: list[str] = []
    for id, version in told:
        if place.note(id, version, at):
            highest[id] = version
            recent = [*(one for one in recent if one != id), id][-KNOWN_MAX:]
    again = pages.opened(place.token, Cursor)
    assert again is not None and len(place.token) <= pages.CURSOR_LENGTH_MAX
    assert not any(Place(again).note(id, highest[id], at) for id in recent)
    assert all(Place(again).note(id, highest[id] + 1, at) for id in recent)


async def test_a_feed_reads_by_its_index_and_lists_do_not(replicas: list[Replica]) -> None:
    here, _ = replicas
    await here.commit(*(Task(f"tsk_{number}") for number in range(20)))
    await here.commit(*(Task(ids.new("tsk")) for _ in range(20)), table=here.mail)
    for feed_, floor in ((here.changes, clock.real() - REWIND), (here.births, ids.least("tsk", clock.real() - REWIND))):
        key, *_ = feed_.order[0]
        query = {"$and": [{"staff_id": {"$in": [ANNA]}}, {key: {"$gte": floor}}]}
        plan = await _plan(feed_.table, query, dict(feed_.order), hint={"staff_id": 1, **dict(feed_.order)})
        assert "IXSCAN" in plan and "COLLSCAN" not in plan and "'SORT'" not in plan, plan
    assert "COLLSCAN" in await _plan(here.tasks, {"staff_id": ANNA}, {"visit_id": 1})


async def _plan(table: Table[Task], query: dict[str, Any], sort: dict[str, int], **more: Any) -> str:
    explained = await table.database.raw.command({"explain": {"find": table.name, "filter": query, "sort": sort, **more}})
    return str(explained["queryPlanner"]["winningPlan"])
