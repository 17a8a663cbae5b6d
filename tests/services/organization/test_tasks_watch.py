"""Following tasks: of a member of staff, and of a store."""

from datetime import timedelta

import pytest

from quanyu.organization.v1 import tasks_pb2 as pb
from services.kit.errors import Denied, Invalid
from services.kit.rpc.change_feed import REWIND
from services.kit.security.principals import Grant
from tests.services.organization.conftest import GUIDE_1, GUIDE_1B, MANAGER_1, MANAGER_2, OTHER_BRAND, SUPERVISOR, House
from tests.services.organization.test_targets import applied
from tests.services.organization.test_tasks import AT, answered, born, bound, left, task_of
from tests.services.streams import Stream, listening

OPEN, SEEN, DONE = pb.TASK_STATE_OPEN, pb.TASK_STATE_ACKNOWLEDGED, pb.TASK_STATE_DONE


def heard(stream: Stream) -> list[tuple[str, int]]:
    return [(response.task.visit_id, response.task.state) for response in stream.responses]


async def acknowledge(runtime: House, id: str) -> None:
    await runtime.tasks(*GUIDE_1).AcknowledgeTask(pb.AcknowledgeTaskRequest(request_id=runtime.once(), task_id=id))


async def test_guide_and_manager_hear_of_a_task_from_birth_to_outcome(shop: House) -> None:
    await applied(shop, bound("stf_guide1"), source="member")
    async with (
        listening(shop.tasks(*GUIDE_1).WatchTasks, pb.WatchTasksRequest(staff_id="stf_guide1")) as guide,
        listening(shop.tasks(*MANAGER_1).WatchTasks, pb.WatchTasksRequest(store_id="str_1")) as manager,
        listening(shop.tasks(*SUPERVISOR).WatchTasks, pb.WatchTasksRequest(store_id="str_1")) as supervisor,
    ):
        everybody = (guide, manager, supervisor)
        for stream in everybody:
            await stream.began()
        await applied(shop, left(), source="district")
        id = task_of("vis_1")
        for stream in everybody:
            await stream.came(1)
        await acknowledge(shop, id)
        for stream in everybody:
            await stream.came(2)
        await applied(shop, answered(id), source="member")
        for stream in everybody:
            await stream.came(3)
            assert heard(stream) == [("vis_1", OPEN), ("vis_1", SEEN), ("vis_1", DONE)]
        task = (await shop.tasks(*GUIDE_1).GetTask(pb.GetTaskRequest(id=id))).task
        assert guide.responses[-1].task == task


async def test_what_changed_while_nobody_listened_comes_first(shop: House) -> None:
    id = await born(shop)
    stub = shop.tasks(*GUIDE_1)
    async with listening(stub.WatchTasks, pb.WatchTasksRequest(staff_id="stf_guide1")) as stream:
        await stream.began()
    await acknowledge(shop, id)
    await applied(shop, left("vis_2", "brd_a"), source="district")
    async with listening(stub.WatchTasks, pb.WatchTasksRequest(staff_id="stf_guide1", after=stream.cursor)) as again:
        await again.came(2)
        assert heard(again) == [("vis_1", SEEN), ("vis_2", OPEN)]
    async with listening(stub.WatchTasks, pb.WatchTasksRequest(staff_id="stf_guide1", after=again.cursor)) as last:
        await applied(shop, left("vis_3", "brd_a"), source="district")
        await last.came(1)
        assert heard(last) == [("vis_3", OPEN)]


async def test_a_task_that_is_handed_away_is_told_to_its_new_assignee_only(shop: House) -> None:
    await born(shop)
    async with (
        listening(shop.tasks(*GUIDE_1).WatchTasks, pb.WatchTasksRequest(staff_id="stf_guide1")) as hers,
        listening(shop.tasks(*GUIDE_1B).WatchTasks, pb.WatchTasksRequest(staff_id="stf_guide1b")) as his,
    ):
        await hers.began(), await his.began()
        await applied(shop, bound("stf_guide1b"), source="member")
        (told,) = await his.came(1)
        assert (told.task.visit_id, told.task.staff_id) == ("vis_1", "stf_guide1b")
        await applied(shop, bound("stf_guide1"), source="member")
        (back,) = await hers.came(1)
        assert (back.task.visit_id, back.task.staff_id) == ("vis_1", "stf_guide1")


@pytest.mark.parametrize("who", [GUIDE_1B, MANAGER_2, OTHER_BRAND], ids=["colleague", "another store", "another brand"])
async def test_nobody_hears_of_anothers_tasks(shop: House, who: tuple[Grant, ...]) -> None:
    await applied(shop, bound("stf_guide1"), source="member")
    for number, subject in enumerate(({"staff_id": "stf_guide1"}, {"store_id": "str_1"})):
        async with (
            listening(shop.tasks(*who).WatchTasks, pb.WatchTasksRequest(**subject)) as stranger,
            listening(shop.tasks(*MANAGER_1).WatchTasks, pb.WatchTasksRequest(**subject)) as manager,
        ):
            await stranger.began(), await manager.began()
            begun = manager.cursor
            await applied(shop, left(f"vis_{number}", "brd_a"), source="district")
            await manager.came(1)
            await acknowledge(shop, manager.responses[0].task.id)
            await manager.came(2)
            assert not stranger.responses
        async with (
            listening(shop.tasks(*who).WatchTasks, pb.WatchTasksRequest(**subject, after=begun)) as stranger,
            listening(shop.tasks(*MANAGER_1).WatchTasks, pb.WatchTasksRequest(**subject, after=begun)) as manager,
        ):
            await manager.came(1), await stranger.began()
            assert not stranger.responses


async def test_a_stream_of_nobody_or_after_anothers_cursor_is_refused(shop: House) -> None:
    stub = shop.tasks(*MANAGER_1)
    async with listening(stub.WatchTasks, pb.WatchTasksRequest()) as stream:
        refused = await stream.ended()
        assert isinstance(refused, Invalid) and refused.reason == "SUBJECT_REQUIRED"
    async with listening(stub.WatchTasks, pb.WatchTasksRequest(store_id="str_1")) as stream:
        await stream.began()
    for request in (
        pb.WatchTasksRequest(store_id="str_2", after=stream.cursor),
        pb.WatchTasksRequest(staff_id="str_1", after=stream.cursor),
    ):
        async with listening(stub.WatchTasks, request) as wrong:
            refused = await wrong.ended()
            assert isinstance(refused, Invalid) and refused.reason == "INVALID_CURSOR"
    consumer = Grant("ROLE_CONSUMER", "SCOPE_KIND_CONSUMER", "con_1")
    async with listening(shop.tasks(consumer).WatchTasks, pb.WatchTasksRequest(store_id="str_1")) as stream:
        assert isinstance(await stream.ended(), Denied)


async def test_what_changed_is_read_by_an_index(shop: House) -> None:
    await born(shop)
    for field, id, scope in (
        ("staff_id", "stf_guide1", {"staff_id": {"$in": ["stf_guide1"]}}),
        ("store_id", "str_1", {"brand_id": {"$in": ["brd_a"]}}),
    ):
        query = {"$and": [{"$and": [{field: {"$in": [id]}}, {"changed_at": {"$gte": AT - REWIND - timedelta(days=9)}}]}, {"$or": [scope]}]}
        plan = await shop.plan("tasks", query, [("changed_at", 1), ("_id", 1)])
        assert f"{field}_1_changed_at_1__id_1" in plan and "COLLSCAN" not in plan and "'SORT'" not in plan, plan
