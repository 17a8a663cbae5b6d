"""Tests of the change feed: no change is lost between streams, under concurrent writes, or if it is committed late."""

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
from tests.services.kit.feed_replicas import ANNA, Context, Replica, Task, serve_replicas, wait_until_live


@pytest.fixture
async def replicas(database: Database) -> AsyncIterator[list[Replica]]:
    async with serve_replicas(database) as replicas:
        yield replicas


async def test_inserts_and_updates_are_sent(replicas: list[Replica]) -> None:
    here, there = replicas
    await here.commit(Task("tsk_0"))
    async with here.read_stream() as by_staff, here.read_stream(field="store_id", subject="str_1") as by_store:
        await there.commit(Task("tsk_1"), Task("tsk_other", staff_id="stf_bert", store_id="str_2"))
        await by_staff.expect(("tsk_1", ""))
        await there.commit(Task("tsk_0", visit_id="a"))
        await there.commit(Task("tsk_1", visit_id="b"))
        await by_staff.expect(("tsk_1", ""), ("tsk_0", "a"), ("tsk_1", "b"))
        await by_store.expect(*by_staff.items)


async def test_each_cursor_resumes_at_any_replica(replicas: list[Replica]) -> None:
    here, there = replicas
    async with here.read_stream() as first:
        start = first.cursor
        for number in range(4):
            await here.commit(Task(f"tsk_{number}"))
        await first.wait_until(lambda: len(first.items) == 4)
    await here.commit(Task("tsk_0", visit_id="a"))
    await here.commit(Task("tsk_9"))
    for cursor, received in zip([start, *first.cursors], range(5), strict=True):
        async with there.read_stream(cursor) as again:
            rest = [(f"tsk_{number}", "") for number in range(max(received, 1), 4)]
            await again.expect(*rest, ("tsk_0", "a"), ("tsk_9", ""))
    async with here.read_stream(again.cursor) as last:
        await here.commit(Task("tsk_end"))
        await last.expect(("tsk_end", ""))


async def test_stream_interrupted_before_its_first_item_resumes(replicas: list[Replica]) -> None:
    here, there = replicas
    await here.commit(Task("tsk_0"))
    async with here.read_stream() as first:
        assert first.items == []
    await here.commit(Task("tsk_1"))
    async with there.read_stream(first.cursor) as again:
        await again.expect(("tsk_1", ""))


async def test_late_commit_with_earlier_time_is_sent(replicas: list[Replica]) -> None:
    """Documents have the start time of their transaction, perhaps by a slow clock; others are committed and sent before."""
    here, there = replicas
    for collection, inserts_only in ((here.tasks, False), (here.mail, True)):
        early, slow = ids.new("tsk"), clock.system_now() - timedelta(seconds=100)
        async with here.read_stream(inserts_only=inserts_only) as stream:
            await here.commit(Task(early), collection=collection)
            await stream.expect((early, ""))
        late = f"{ids.lower_bound('tsk', slow)}late" if inserts_only else ids.new("tsk")
        await collection.collection.insert_one({"_id": late, "staff_id": ANNA, "version": 1, CHANGED_AT: slow})
        async with there.read_stream(stream.cursor, inserts_only=inserts_only) as again:
            await again.expect((late, ""))


@pytest.mark.parametrize(("seed", "rewind_seconds"), [(1, 120.0), (2, 120.0), (3, 1.0), (4, 1.0)])
async def test_interrupted_readers_get_the_latest_state(
    replicas: list[Replica], monkeypatch: pytest.MonkeyPatch, seed: int, rewind_seconds: float
) -> None:
    """Six writers with short and long transactions, three readers that disconnect at random and resume at any replica."""
    monkeypatch.setattr(change_feed, "REWIND", timedelta(seconds=rewind_seconds))
    rng, written = random.Random(seed), asyncio.Event()
    final: dict[str, str] = {}

    async def writer(number: int) -> None:
        replica = replicas[number % 2]
        for step in range(1, 13):
            task = Task(f"tsk_{number}_{rng.randrange(4)}")
            if task.id in final:
                task = replace(await replica.tasks.load(task.id), visit_id=str(step))
            await replica.database.transact(partial(_write_slowly, replica, task, rng.choice([0, 0, 0.2])))
            final[task.id] = task.visit_id

    async def reader(cursor: str, seen: dict[str, str]) -> None:
        while not (written.is_set() and seen == final):
            async with rng.choice(replicas).read_stream(cursor) as stream:
                await asyncio.wait([stream.ended], timeout=rng.uniform(0, 0.2))
            seen.update(stream.items)
            cursor = stream.cursor

    async with replicas[0].read_stream() as first:
        start = first.cursor
    seen: list[dict[str, str]] = [{} for _ in range(3)]
    async with asyncio.timeout(60), asyncio.TaskGroup() as readers:
        for each in seen:
            readers.create_task(reader(start, each))
        async with asyncio.TaskGroup() as writers:
            for number in range(6):
                writers.create_task(writer(number))
        written.set()
    assert len(final) > 12 and all(each == final for each in seen)


async def _write_slowly(replica: Replica, task: Task, seconds: float, session: Any) -> None:
    await replica.write(replica.tasks, session, task)
    await asyncio.sleep(seconds)


async def test_versions_beyond_the_cursor_are_sent_again(replicas: list[Replica]) -> None:
    here, there = replicas
    tasks = [Task(f"tsk_{number:03}") for number in range(2 * CURSOR_VERSIONS_MAX)]
    async with here.read_stream() as stream:
        for task in tasks:
            await here.commit(task)
        await stream.wait_until(lambda: len(stream.items) == len(tasks))
    await here.commit(Task("tsk_new"))
    async with there.read_stream(stream.cursor) as again:
        await again.wait_until(lambda: ("tsk_new", "") in again.items)
        assert {id for id, _ in again.items} == {task.id for task in tasks[:CURSOR_VERSIONS_MAX]} | {"tsk_new"}


async def test_old_cursor_catches_up_in_batches(replicas: list[Replica]) -> None:
    here, there = replicas
    long_ago = clock.system_now() - timedelta(days=9)
    documents = [
        {"_id": f"tsk_{number:03}", "staff_id": ANNA, "version": 1, CHANGED_AT: long_ago + timedelta(minutes=number // 2)}
        for number in range(2 * BATCH_MAX + 30)
    ]
    await here.tasks.collection.insert_many(random.Random(1).sample(documents, len(documents)))
    start = pagination.encode_token(Cursor("tasks:staff_id", ANNA, long_ago))
    async with here.read_stream(start) as everything:
        await everything.wait_until(lambda: len(everything.items) == len(documents))
    assert [id for id, _ in everything.items] == [document["_id"] for document in documents]
    for index in (0, BATCH_MAX // 2, BATCH_MAX + 1, 2 * BATCH_MAX):
        async with there.read_stream(everything.cursors[index]) as rest:
            await rest.wait_until(lambda stream=rest: stream.items[-1:] == [(documents[-1]["_id"], "")])
        assert [id for id, _ in rest.items] == [document["_id"] for document in documents[index + 1 :]]


async def test_only_documents_in_scope_are_sent(replicas: list[Replica]) -> None:
    here, _ = replicas
    caller = Caller("anna", reach={ScopeKind.STAFF: frozenset({ANNA}), ScopeKind.STORE: frozenset({"str_2"})})
    caller_context.set(caller)
    async with here.read_stream(field="store_id", subject="str_1") as stream:
        caller_context.set(SYSTEM)
        await here.commit(Task("tsk_0", staff_id="stf_bert"))
        await here.commit(Task("tsk_1"))
        await stream.expect(("tsk_1", ""))
        await here.commit(Task("tsk_1", staff_id="stf_bert", visit_id="a"), Task("tsk_2"))
        await stream.expect(("tsk_1", ""), ("tsk_2", ""))
        start = stream.cursor
    caller_context.set(caller)
    async with here.read_stream(start, field="store_id", subject="str_1") as stream:
        caller_context.set(SYSTEM)
        await here.commit(Task("tsk_1", visit_id="b", version=2))
        await stream.expect(("tsk_1", "b"))


async def test_each_cursor_within_a_batch_loses_nothing(replicas: list[Replica], monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch has changes that were committed far apart; a resume after the first of them gets the second."""
    monkeypatch.setattr(change_feed, "REWIND", timedelta(seconds=0.5))
    here, there = replicas
    async with aclosing(here.changes.follow(Context(), "", "staff_id", ANNA)) as slow, there.read_stream() as quick:
        await wait_until_live(here, slow)
        early = clock.system_now()
        await here.commit(Task("tsk_first"))
        await asyncio.sleep(1.5)  # the cluster time of a change has a resolution of one second
        await here.tasks.collection.insert_one({"_id": "tsk_second", "staff_id": ANNA, "version": 1, CHANGED_AT: early})
        await quick.wait_until(lambda: ("tsk_second", "") in quick.items)
        async with asyncio.timeout(20):
            items = [each for each in await anext(slow) if each.document["id"] in ("tsk_first", "tsk_second")]
        assert [each.document["id"] for each in items] == ["tsk_first", "tsk_second"]
    async with there.read_stream(items[0].cursor) as again:
        await again.wait_until(lambda: ("tsk_second", "") in again.items)


async def test_task_that_leaves_the_subject_is_not_sent(replicas: list[Replica]) -> None:
    here, there = replicas
    await here.commit(Task("tsk_0"))
    async with aclosing(here.changes.follow(Context(), "", "staff_id", ANNA)) as slow, there.read_stream() as quick:
        await wait_until_live(here, slow)
        await here.commit(Task("tsk_0", visit_id="a"))
        await quick.wait_until(lambda: ("tsk_0", "a") in quick.items)
        await here.commit(Task("tsk_0", staff_id="stf_bert", visit_id="b", version=2))
        await here.commit(Task("tsk_1"))
        await quick.wait_until(lambda: ("tsk_1", "") in quick.items)
        async with asyncio.timeout(20):
            ids_read = [each.document["id"] for each in await anext(slow)]
        assert "tsk_1" in ids_read and "tsk_0" not in ids_read


async def test_stream_with_lost_changes_fails_and_resumes(replicas: list[Replica]) -> None:
    here, there = replicas
    async with here.read_stream() as stream:
        await here.commit(Task("tsk_0"))
        await stream.expect(("tsk_0", ""))
        await here.database.client.drop_database(here.database.name)
        with pytest.raises(Unavailable) as refused:
            await asyncio.wait_for(stream.ended, 20)
        assert refused.value.reason == "CHANGES_LOST"
    await here.tasks.prepare()
    await here.commit(Task("tsk_1"))
    async with there.read_stream(stream.cursor) as again:
        await again.expect(("tsk_1", ""))


async def test_inserts_are_sent_once(replicas: list[Replica]) -> None:
    here, there = replicas
    first, second = ids.new("tsk"), ids.new("tsk")
    async with here.read_stream(inserts_only=True) as stream:
        await here.commit(Task(first), collection=here.mail)
        await here.commit(Task(first, visit_id="read"), collection=here.mail)
        await here.commit(Task(second), collection=here.mail)
        await stream.wait_until(lambda: len(stream.items) == 2)
        assert [id for id, _ in stream.items] == [first, second]
    await here.commit(Task(second, visit_id="read"), collection=here.mail)
    third = ids.new("tsk")
    await here.commit(Task(third), collection=here.mail)
    async with there.read_stream(stream.cursor, inserts_only=True) as again:
        await again.expect((third, ""))


async def test_link_of_the_subject_ends_the_stream(replicas: list[Replica]) -> None:
    here, _ = replicas
    async with here.read_stream(inserts_only=True) as stream:
        here.linked_ids = {ANNA: [ANNA, "stf_anne"]}
        await here.database["links"].insert_one({"_id": "lnk_1", "staff_id": ANNA})
        async with asyncio.timeout(20):
            await stream.ended
        assert stream.items == []
    other = ids.new("tsk")
    await here.commit(Task(other, staff_id="stf_anne"), collection=here.mail)
    async with here.read_stream(stream.cursor, inserts_only=True) as again:
        await again.expect((other, ""))


async def test_link_at_the_start_ends_the_stream(replicas: list[Replica], monkeypatch: pytest.MonkeyPatch) -> None:
    here, _ = replicas
    results = iter([[ANNA], [ANNA, "stf_anne"]])

    async def ids_of(id: str) -> list[str]:
        return next(results)

    monkeypatch.setattr(here.inserts, "ids_of", ids_of)
    async with here.read_stream(inserts_only=True) as stream:
        async with asyncio.timeout(20):
            await stream.ended
        assert stream.items == []
