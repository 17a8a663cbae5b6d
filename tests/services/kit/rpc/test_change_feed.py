"""A feed loses nothing: not between two streams, not while many write, not what is committed later than its time says."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from services.kit import clock, ids
from services.kit.enums import ScopeKind
from services.kit.errors import Unavailable
from services.kit.mongo import pagination
from services.kit.mongo.client import Database
from services.kit.mongo.scoped_collection import CHANGED_AT
from services.kit.rpc import change_feed
from services.kit.rpc.change_feed import BATCH_MAX, CURSOR_VERSIONS_MAX, Cursor
from services.kit.security.caller import SYSTEM, Caller, caller_context
from tests.services.kit.following import ANNA, Context, Replica, Task, serving, standing


@pytest.fixture
async def replicas(database: Database) -> AsyncIterator[list[Replica]]:
    async with serving(database) as found:
        yield found


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
        early, slow = ids.new("tsk"), clock.system_now() - timedelta(seconds=100)
        async with here.following(births=births) as stream:
            await here.commit(Task(early), table=table)
            await stream.hears((early, ""))
        late = f"{ids.lower_bound('tsk', slow)}late" if births else ids.new("tsk")
        await table.collection.insert_one({"_id": late, "staff_id": ANNA, "version": 1, CHANGED_AT: slow})
        async with there.following(stream.cursor, births=births) as again:
            await again.hears((late, ""))


@pytest.mark.parametrize(("seed", "rewind_seconds"), [(1, 120.0), (2, 120.0), (3, 1.0), (4, 1.0)])
async def test_whatever_breaks_while_many_write_the_newest_state_of_all_is_told(
    replicas: list[Replica], monkeypatch: pytest.MonkeyPatch, seed: int, rewind_seconds: float
) -> None:
    """Six writers in transactions short and long, three readers that break off at any moment and go on at any replica."""
    monkeypatch.setattr(change_feed, "REWIND", timedelta(seconds=rewind_seconds))
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
    tasks = [Task(f"tsk_{number:03}") for number in range(2 * CURSOR_VERSIONS_MAX)]
    async with here.following() as stream:
        for task in tasks:
            await here.commit(task)
        await stream.until(lambda: len(stream.told) == len(tasks))
    await here.commit(Task("tsk_new"))
    async with there.following(stream.cursor) as again:
        await again.until(lambda: ("tsk_new", "") in again.told)
        assert {id for id, _ in again.told} == {task.id for task in tasks[:CURSOR_VERSIONS_MAX]} | {"tsk_new"}


async def test_a_long_absence_is_made_up_for_page_by_page_and_goes_on_where_that_broke(replicas: list[Replica]) -> None:
    here, there = replicas
    long_ago = clock.system_now() - timedelta(days=9)
    rows = [
        {"_id": f"tsk_{number:03}", "staff_id": ANNA, "version": 1, CHANGED_AT: long_ago + timedelta(minutes=number // 2)}
        for number in range(2 * BATCH_MAX + 30)
    ]
    await here.tasks.collection.insert_many(random.Random(1).sample(rows, len(rows)))
    begun = pagination.encode_token(Cursor("tasks:staff_id", ANNA, long_ago))
    async with here.following(begun) as all_of_it:
        await all_of_it.until(lambda: len(all_of_it.told) == len(rows))
    assert [id for id, _ in all_of_it.told] == [row["_id"] for row in rows]
    for broken in (0, BATCH_MAX // 2, BATCH_MAX + 1, 2 * BATCH_MAX):
        async with there.following(all_of_it.cursors[broken]) as rest:
            await rest.until(lambda stream=rest: stream.told[-1:] == [(rows[-1]["_id"], "")])
        assert [id for id, _ in rest.told] == [row["_id"] for row in rows[broken + 1 :]]


async def test_only_what_the_caller_reaches_is_told_and_nothing_once_it_was_handed_away(replicas: list[Replica]) -> None:
    here, _ = replicas
    mine = Caller("anna", reach={ScopeKind.STAFF: frozenset({ANNA}), ScopeKind.STORE: frozenset({"str_2"})})
    caller_context.set(mine)
    async with here.following(field="store_id", subject="str_1") as stream:
        caller_context.set(SYSTEM)
        await here.commit(Task("tsk_0", staff_id="stf_bert"))
        await here.commit(Task("tsk_1"))
        await stream.hears(("tsk_1", ""))
        await here.commit(Task("tsk_1", staff_id="stf_bert", visit_id="a"), Task("tsk_2"))
        await stream.hears(("tsk_1", ""), ("tsk_2", ""))
        begun = stream.cursor
    caller_context.set(mine)
    async with here.following(begun, field="store_id", subject="str_1") as stream:
        caller_context.set(SYSTEM)
        await here.commit(Task("tsk_1", visit_id="b", version=2))
        await stream.hears(("tsk_1", "b"))


async def test_what_waited_together_is_told_with_cursors_that_lose_none_of_it(
    replicas: list[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes that were committed far apart are read in one batch; whoever goes after the first of them hears the second."""
    monkeypatch.setattr(change_feed, "REWIND", timedelta(seconds=0.5))
    here, there = replicas
    async with aclosing(here.changes.follow(Context(), "", "staff_id", ANNA)) as slow, there.following() as quick:
        await standing(here, slow)
        early = clock.system_now()
        await here.commit(Task("tsk_first"))
        await asyncio.sleep(1.5)  # a change's time is told to the second
        await here.tasks.collection.insert_one({"_id": "tsk_second", "staff_id": ANNA, "version": 1, CHANGED_AT: early})
        await quick.until(lambda: ("tsk_second", "") in quick.told)
        async with asyncio.timeout(20):
            told = [each for each in await anext(slow) if each.row["id"] in ("tsk_first", "tsk_second")]
        assert [each.row["id"] for each in told] == ["tsk_first", "tsk_second"]
    async with there.following(told[0].cursor) as again:
        await again.until(lambda: ("tsk_second", "") in again.told)


async def test_a_task_that_went_before_it_was_read_is_not_told(replicas: list[Replica]) -> None:
    here, there = replicas
    await here.commit(Task("tsk_0"))
    async with aclosing(here.changes.follow(Context(), "", "staff_id", ANNA)) as slow, there.following() as quick:
        await standing(here, slow)
        await here.commit(Task("tsk_0", visit_id="a"))
        await quick.until(lambda: ("tsk_0", "a") in quick.told)
        await here.commit(Task("tsk_0", staff_id="stf_bert", visit_id="b", version=2))
        await here.commit(Task("tsk_1"))
        await quick.until(lambda: ("tsk_1", "") in quick.told)
        async with asyncio.timeout(20):
            told = [each.row["id"] for each in await anext(slow)]
        assert "tsk_1" in told and "tsk_0" not in told


async def test_a_stream_whose_changes_were_lost_says_so_and_its_cursor_goes_on(replicas: list[Replica]) -> None:
    here, there = replicas
    async with here.following() as stream:
        await here.commit(Task("tsk_0"))
        await stream.hears(("tsk_0", ""))
        await here.database.client.drop_database(here.database.name)
        with pytest.raises(Unavailable) as lost:
            await asyncio.wait_for(stream.ended, 20)
        assert lost.value.reason == "CHANGES_LOST"
    await here.tasks.prepare()
    await here.commit(Task("tsk_1"))
    async with there.following(stream.cursor) as again:
        await again.hears(("tsk_1", ""))


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
    async with there.following(stream.cursor, inserts_only=True) as again:
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
    async with here.following(stream.cursor, inserts_only=True) as again:
        await again.hears((other, ""))


async def test_a_stream_that_begins_while_its_subject_becomes_somebody_else_ends_well(
    replicas: list[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = replicas
    answers = iter([[ANNA], [ANNA, "stf_anne"]])

    async def ids_of(id: str) -> list[str]:
        return next(answers)

    monkeypatch.setattr(here.births, "ids_of", ids_of)
    async with here.following(births=True) as stream:
        async with asyncio.timeout(20):
            await stream.ended
        assert stream.told == []
