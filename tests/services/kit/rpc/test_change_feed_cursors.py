"""The cursors of a feed: theirs alone, small enough, and read by an index."""

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
from tests.services.kit.following import ANNA, Replica, Task, serving


@pytest.fixture
async def replicas(database: Database) -> AsyncIterator[list[Replica]]:
    async with serving(database) as found:
        yield found


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
async def test_a_cursor_of_something_else_is_refused(replicas: list[Replica], cursor: str) -> None:
    with pytest.raises(Invalid) as refused:
        async with replicas[0].following(cursor):
            pass
    assert (refused.value.reason, refused.value.metadata) == ("INVALID_CURSOR", {"field": "after"})


versions = st.tuples(st.integers(0, 300).map("tsk_{}".format), st.integers(1, 10**6))


@given(st.lists(versions, max_size=300))
def test_a_cursor_stays_within_what_is_taken_and_knows_the_last_versions(told: list[tuple[str, int]]) -> None:
    at = datetime(2026, 5, 20, tzinfo=UTC)
    place = ResumePoint(Cursor("tasks:staff_id", "stf_" + 32 * "0", at))
    highest: dict[str, int] = {}
    recent: list[str] = []
    for id, version in told:
        if place.note(id, version, at):
            highest[id] = version
            recent = [*(one for one in recent if one != id), id][-CURSOR_VERSIONS_MAX:]
    again = pagination.decode_token(place.token, Cursor)
    assert again is not None and len(place.token) <= pagination.CURSOR_LENGTH_MAX
    assert not any(ResumePoint(again).note(id, highest[id], at) for id in recent)
    assert all(ResumePoint(again).note(id, highest[id] + 1, at) for id in recent)


async def test_a_feed_reads_by_its_index_and_lists_do_not(replicas: list[Replica]) -> None:
    here, _ = replicas
    await here.commit(*(Task(f"tsk_{number}") for number in range(20)))
    await here.commit(*(Task(ids.new("tsk")) for _ in range(20)), table=here.mail)
    for feed_, floor in ((here.changes, clock.system_now() - REWIND), (here.births, ids.lower_bound("tsk", clock.system_now() - REWIND))):
        key, *_ = feed_.order[0]
        query = {"$and": [{"staff_id": {"$in": [ANNA]}}, {key: {"$gte": floor}}]}
        plan = await _plan(feed_.table, query, dict(feed_.order), hint={"staff_id": 1, **dict(feed_.order)})
        assert "IXSCAN" in plan and "COLLSCAN" not in plan and "'SORT'" not in plan, plan
    assert "COLLSCAN" in await _plan(here.tasks, {"staff_id": ANNA}, {"visit_id": 1})


async def _plan(table: ScopedCollection[Task], query: dict[str, Any], sort: dict[str, int], **more: Any) -> str:
    explained = await table.database.raw.command({"explain": {"find": table.name, "filter": query, "sort": sort, **more}})
    return str(explained["queryPlanner"]["winningPlan"])
