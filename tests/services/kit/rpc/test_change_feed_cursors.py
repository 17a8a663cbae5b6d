"""Tests of the cursors of a change feed: valid for one subject, bounded in size, and read by an index."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit import clock, ids
from services.kit.errors import Invalid
from services.kit.mongo import pagination
from services.kit.mongo.client import Database
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.rpc.change_feed import CURSOR_VERSIONS_MAX, REWIND, Cursor, ResumePoint
from tests.services.kit.feed_replicas import ANNA, Replica, Task, serve_replicas


@pytest.fixture
async def replicas(database: Database) -> AsyncIterator[list[Replica]]:
    async with serve_replicas(database) as replicas:
        yield replicas


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "!" * 2_000,
        pagination.encode_cursor("tasks", [ANNA, 1]),
        pagination.encode_token(Cursor("tasks:staff_id", "stf_bert", datetime.now(UTC))),
        pagination.encode_token(Cursor("tasks:store_id", ANNA, datetime.now(UTC))),
        pagination.encode_token(Cursor("mail:staff_id", ANNA, datetime.now(UTC))),
        pagination.encode_token(["tasks:staff_id", ANNA, datetime(2026, 1, 1), {}]),
        pagination.encode_token(Cursor("tasks:staff_id", ANNA, datetime(9999, 12, 31, 23, 59, tzinfo=UTC), {1: 1})),
        pagination.encode_token(["tasks:staff_id", ANNA, datetime.now(UTC), {"$gt": 1}]),
        pagination.encode_token(["tasks:staff_id", ANNA, {"$gt": 1}, {}]),
    ],
    ids=lambda cursor: cursor[:16],
)
async def test_foreign_cursor_is_refused(replicas: list[Replica], cursor: str) -> None:
    with pytest.raises(Invalid) as refused:
        async with replicas[0].read_stream(cursor):
            pass
    assert (refused.value.reason, refused.value.metadata) == ("INVALID_CURSOR", {"field": "after"})


versions = st.tuples(st.integers(0, 300).map("tsk_{}".format), st.integers(1, 10**6))


@given(st.lists(versions, max_size=300))
def test_cursor_is_bounded_and_has_the_last_versions(versions_sent: list[tuple[str, int]]) -> None:
    at = datetime(2026, 5, 20, tzinfo=UTC)
    position = ResumePoint(Cursor("tasks:staff_id", "stf_" + 32 * "0", at))
    highest: dict[str, int] = {}
    recent: list[str] = []
    for id, version in versions_sent:
        if position.record(id, version, at):
            highest[id] = version
            recent = [*(one for one in recent if one != id), id][-CURSOR_VERSIONS_MAX:]
    decoded = pagination.decode_token(position.token, Cursor)
    assert decoded is not None and len(position.token) <= pagination.CURSOR_LENGTH_MAX
    assert not any(ResumePoint(decoded).record(id, highest[id], at) for id in recent)
    assert all(ResumePoint(decoded).record(id, highest[id] + 1, at) for id in recent)


async def test_feed_uses_its_index_and_lists_do_not(replicas: list[Replica]) -> None:
    here, _ = replicas
    await here.commit(*(Task(f"tsk_{number}") for number in range(20)))
    await here.commit(*(Task(ids.new("tsk")) for _ in range(20)), collection=here.mail)
    for feed, floor in ((here.changes, clock.system_now() - REWIND), (here.inserts, ids.lower_bound("tsk", clock.system_now() - REWIND))):
        key, *_ = feed.order[0]
        query = {"$and": [{"staff_id": {"$in": [ANNA]}}, {key: {"$gte": floor}}]}
        plan = await _plan(feed.collection, query, dict(feed.order), hint={"staff_id": 1, **dict(feed.order)})
        assert "IXSCAN" in plan and "COLLSCAN" not in plan and "'SORT'" not in plan, plan
    assert "COLLSCAN" in await _plan(here.tasks, {"staff_id": ANNA}, {"visit_id": 1})


async def _plan(collection: ScopedCollection[Task], query: dict[str, Any], sort: dict[str, int], **more: Any) -> str:
    explained = await collection.database.raw.command({"explain": {"find": collection.name, "filter": query, "sort": sort, **more}})
    return str(explained["queryPlanner"]["winningPlan"])
