"""Task streams of a member of staff and of a store."""

from datetime import timedelta

import pytest

from quanyu.organization.v1 import tasks_pb2 as pb
from services.kit.errors import Denied, Invalid
from services.kit.rpc.change_feed import REWIND
from services.kit.security.principals import Grant
from tests.services.organization.conftest import GUIDE_1, GUIDE_1B, MANAGER_1, MANAGER_2, OTHER_BRAND, SUPERVISOR, Organization
from tests.services.organization.events import AT, consumer_bound, deliver
from tests.services.organization.test_tasks import create_task, task_answered, task_id_of, visit_left
from tests.services.streams import StreamReader, read_stream

OPEN, SEEN, DONE = pb.TASK_STATE_OPEN, pb.TASK_STATE_ACKNOWLEDGED, pb.TASK_STATE_DONE


def received(stream: StreamReader) -> list[tuple[str, int]]:
    return [(response.task.visit_id, response.task.state) for response in stream.responses]


async def acknowledge(service: Organization, id: str) -> None:
    await service.tasks(*GUIDE_1).AcknowledgeTask(pb.AcknowledgeTaskRequest(request_id=service.new_request_id(), task_id=id))


async def test_stream_has_task_from_creation_to_outcome(tenant: Organization) -> None:
    await deliver(tenant, consumer_bound("stf_guide1"), source="member")
    async with (
        read_stream(tenant.tasks(*GUIDE_1).WatchTasks, pb.WatchTasksRequest(staff_id="stf_guide1")) as guide,
        read_stream(tenant.tasks(*MANAGER_1).WatchTasks, pb.WatchTasksRequest(store_id="str_1")) as manager,
        read_stream(tenant.tasks(*SUPERVISOR).WatchTasks, pb.WatchTasksRequest(store_id="str_1")) as supervisor,
    ):
        streams = (guide, manager, supervisor)
        for stream in streams:
            await stream.wait_until_started()
        await deliver(tenant, visit_left(), source="district")
        id = task_id_of("vis_1")
        for stream in streams:
            await stream.expect_responses(1)
        await acknowledge(tenant, id)
        for stream in streams:
            await stream.expect_responses(2)
        await deliver(tenant, task_answered(id), source="member")
        for stream in streams:
            await stream.expect_responses(3)
            assert received(stream) == [("vis_1", OPEN), ("vis_1", SEEN), ("vis_1", DONE)]
        task = (await tenant.tasks(*GUIDE_1).GetTask(pb.GetTaskRequest(id=id))).task
        assert guide.responses[-1].task == task


async def test_stream_after_cursor_begins_with_missed_changes(tenant: Organization) -> None:
    id = await create_task(tenant)
    stub = tenant.tasks(*GUIDE_1)
    async with read_stream(stub.WatchTasks, pb.WatchTasksRequest(staff_id="stf_guide1")) as stream:
        await stream.wait_until_started()
    await acknowledge(tenant, id)
    await deliver(tenant, visit_left("vis_2", "brd_a"), source="district")
    async with read_stream(stub.WatchTasks, pb.WatchTasksRequest(staff_id="stf_guide1", after=stream.cursor)) as again:
        await again.expect_responses(2)
        assert received(again) == [("vis_1", SEEN), ("vis_2", OPEN)]
    async with read_stream(stub.WatchTasks, pb.WatchTasksRequest(staff_id="stf_guide1", after=again.cursor)) as last:
        await deliver(tenant, visit_left("vis_3", "brd_a"), source="district")
        await last.expect_responses(1)
        assert received(last) == [("vis_3", OPEN)]


async def test_reassigned_task_is_sent_to_new_assignee_only(tenant: Organization) -> None:
    await create_task(tenant)
    async with (
        read_stream(tenant.tasks(*GUIDE_1).WatchTasks, pb.WatchTasksRequest(staff_id="stf_guide1")) as first,
        read_stream(tenant.tasks(*GUIDE_1B).WatchTasks, pb.WatchTasksRequest(staff_id="stf_guide1b")) as second,
    ):
        await first.wait_until_started(), await second.wait_until_started()
        await deliver(tenant, consumer_bound("stf_guide1b"), source="member")
        (sent,) = await second.expect_responses(1)
        assert (sent.task.visit_id, sent.task.staff_id) == ("vis_1", "stf_guide1b")
        await deliver(tenant, consumer_bound("stf_guide1"), source="member")
        (returned,) = await first.expect_responses(1)
        assert (returned.task.visit_id, returned.task.staff_id) == ("vis_1", "stf_guide1")


@pytest.mark.parametrize("who", [GUIDE_1B, MANAGER_2, OTHER_BRAND], ids=["colleague", "another store", "another brand"])
async def test_stream_outside_scope_stays_empty(tenant: Organization, who: tuple[Grant, ...]) -> None:
    await deliver(tenant, consumer_bound("stf_guide1"), source="member")
    for number, subject in enumerate(({"staff_id": "stf_guide1"}, {"store_id": "str_1"})):
        async with (
            read_stream(tenant.tasks(*who).WatchTasks, pb.WatchTasksRequest(**subject)) as stranger,
            read_stream(tenant.tasks(*MANAGER_1).WatchTasks, pb.WatchTasksRequest(**subject)) as manager,
        ):
            await stranger.wait_until_started(), await manager.wait_until_started()
            begun = manager.cursor
            await deliver(tenant, visit_left(f"vis_{number}", "brd_a"), source="district")
            await manager.expect_responses(1)
            await acknowledge(tenant, manager.responses[0].task.id)
            await manager.expect_responses(2)
            assert not stranger.responses
        async with (
            read_stream(tenant.tasks(*who).WatchTasks, pb.WatchTasksRequest(**subject, after=begun)) as stranger,
            read_stream(tenant.tasks(*MANAGER_1).WatchTasks, pb.WatchTasksRequest(**subject, after=begun)) as manager,
        ):
            await manager.expect_responses(1), await stranger.wait_until_started()
            assert not stranger.responses


async def test_stream_with_wrong_subject_or_cursor_is_refused(tenant: Organization) -> None:
    stub = tenant.tasks(*MANAGER_1)
    async with read_stream(stub.WatchTasks, pb.WatchTasksRequest()) as stream:
        refused = await stream.wait_until_ended()
        assert isinstance(refused, Invalid) and refused.reason == "SUBJECT_REQUIRED"
    async with read_stream(stub.WatchTasks, pb.WatchTasksRequest(store_id="str_1")) as stream:
        await stream.wait_until_started()
    for request in (
        pb.WatchTasksRequest(store_id="str_2", after=stream.cursor),
        pb.WatchTasksRequest(staff_id="str_1", after=stream.cursor),
    ):
        async with read_stream(stub.WatchTasks, request) as wrong:
            refused = await wrong.wait_until_ended()
            assert isinstance(refused, Invalid) and refused.reason == "INVALID_CURSOR"
    consumer = Grant("ROLE_CONSUMER", "SCOPE_KIND_CONSUMER", "con_1")
    async with read_stream(tenant.tasks(consumer).WatchTasks, pb.WatchTasksRequest(store_id="str_1")) as stream:
        assert isinstance(await stream.wait_until_ended(), Denied)


async def test_change_feed_uses_an_index(tenant: Organization) -> None:
    await create_task(tenant)
    for field, id, scope in (
        ("staff_id", "stf_guide1", {"staff_id": {"$in": ["stf_guide1"]}}),
        ("store_id", "str_1", {"brand_id": {"$in": ["brd_a"]}}),
    ):
        query = {"$and": [{"$and": [{field: {"$in": [id]}}, {"changed_at": {"$gte": AT - REWIND - timedelta(days=9)}}]}, {"$or": [scope]}]}
        plan = await tenant.plan("tasks", query, [("changed_at", 1), ("_id", 1)])
        assert f"{field}_1_changed_at_1__id_1" in plan and "COLLSCAN" not in plan and "'SORT'" not in plan, plan
