"""Tasks from creation to outcome, and their visibility."""

from datetime import UTC, datetime, timedelta

import pytest

from quanyu.common.v1.money_pb2 import Money
from quanyu.common.v1.page_pb2 import PageRequest
from quanyu.events.v1 import events_pb2
from quanyu.organization.v1 import tasks_pb2
from services.kit.errors import Conflict, Invalid, NotFound
from services.kit.security.principals import Grant
from services.organization.events import handlers
from services.organization.tasks import rules
from services.organization.tasks.enums import Reason
from tests.services.lists import assert_batch_equals_lists, count_documents_read, fetch_first_pages
from tests.services.organization.conftest import BRAND, GUIDE_1, GUIDE_1B, MANAGER_1, MANAGER_2, OTHER_BRAND, SUPERVISOR, Organization
from tests.services.organization.events import AT, consumer_bound, consumer_linked, consumer_unlinked, deliver, make_event


def test_every_routed_event_has_a_handler() -> None:
    bodies = events_pb2.Event.DESCRIPTOR.oneofs_by_name["body"].fields
    routed = {field.name for field in bodies if "organization" in field.message_type.GetOptions().Extensions[events_pb2.route].subscribers}

    class Nothing:
        def __getattr__(self, name: str) -> object:
            return name

    assert set(handlers(Nothing(), Nothing(), Nothing())) == routed  # type: ignore[arg-type]


def day_of(visit_id: str) -> str:
    """Returns the day of a visit: another one for each visit id."""
    return f"2026-05-2{visit_id[-1]}"


def task_id_of(visit_id: str, consumer_id: str = "con_1") -> str:
    """Returns the id of the task of brd_a about a visit."""
    return rules.task_id(consumer_id, "brd_a", "dst_1", day_of(visit_id))


def visit_left(visit_id: str = "vis_1", *brands: str, at: datetime = AT, consumer_id: str = "con_1", day: str = "") -> events_pb2.Event:
    unspent = [
        events_pb2.PackedCoupon(coupon_id=f"cpn_{n}", brand_id=brand) for n, brand in enumerate(brands or ("brd_a", "brd_none", "brd_a"))
    ]
    body = events_pb2.VisitLeft(
        visit_id=visit_id, consumer_id=consumer_id, district_id="dst_1", unspent=unspent, day=day or day_of(visit_id)
    )
    return make_event(body, consumer_id, at)


def task_answered(task_id: str, consumer_id: str = "con_1") -> events_pb2.Event:
    body = events_pb2.OutreachSent(
        outreach_id="out_1", consumer_id=consumer_id, brand_id="brd_a", staff_id="stf_guide1", store_id="str_1", task_id=task_id
    )
    return make_event(body, consumer_id, AT + timedelta(hours=1))


async def create_task(service: Organization) -> str:
    await deliver(service, consumer_bound("stf_guide1"), source="member")
    await deliver(service, visit_left(), source="district")
    return task_id_of("vis_1")


async def get(service: Organization, id: str, *who: Grant) -> tasks_pb2.Task:
    return (await service.tasks(*who).GetTask(tasks_pb2.GetTaskRequest(id=id))).task


async def test_unspent_coupons_create_one_task_for_guide(tenant: Organization) -> None:
    id = await create_task(tenant)
    (task,) = (await tenant.tasks(*GUIDE_1).ListTasks(tasks_pb2.ListTasksRequest(staff_id="stf_guide1"))).tasks
    assert (task.id, task.kind, task.state) == (id, tasks_pb2.TASK_KIND_FOLLOW_UP_VISIT, tasks_pb2.TASK_STATE_OPEN)
    assert (task.staff_id, task.store_id, task.brand_id, task.consumer_id) == ("stf_guide1", "str_1", "brd_a", "con_1")
    assert (task.visit_id, task.district_id, [one.coupon_id for one in task.coupons]) == ("vis_1", "dst_1", ["cpn_0", "cpn_2"])
    assert task.due_at.ToDatetime(tzinfo=UTC) == AT + timedelta(hours=24)
    assert await tenant.database["tasks"].count_documents({}) == 1


async def test_task_has_coupon_details_of_its_brand(tenant: Organization) -> None:
    await deliver(tenant, consumer_bound("stf_guide1"), source="member")
    leaving = visit_left()
    given = leaving.visit_left.unspent[0]
    given.MergeFrom(events_pb2.PackedCoupon(name="满300减60", name_en="60 off 300"))
    given.expires_at.FromDatetime(AT + timedelta(days=14))
    given.value.MergeFrom(Money(currency="CNY", minor=6_000))
    given.minimum_spend.MergeFrom(Money(currency="CNY", minor=30_000))
    await deliver(tenant, leaving, source="district")
    first, second = (await get(tenant, task_id_of("vis_1"), *GUIDE_1)).coupons
    assert first == tasks_pb2.TaskCoupon(
        coupon_id="cpn_0", name="满300减60", name_en="60 off 300", value=given.value, minimum_spend=given.minimum_spend,
        expires_at=given.expires_at,
    )  # fmt: skip
    assert second == tasks_pb2.TaskCoupon(coupon_id="cpn_2")


async def test_visit_without_coupons_or_guide_creates_no_task(tenant: Organization) -> None:
    await deliver(tenant, visit_left("vis_0"), source="district")
    await deliver(tenant, consumer_bound("stf_guide1"), source="member")
    await deliver(
        tenant, make_event(events_pb2.VisitLeft(visit_id="vis_2", consumer_id="con_1", district_id="dst_1"), "con_1"), source="district"
    )
    assert await tenant.database["tasks"].count_documents({}) == 0


async def test_repeated_visits_of_a_day_share_one_task(tenant: Organization) -> None:
    """A phone at the border of the district may report twenty visits an hour. The day has one pack, so it has one task."""
    await deliver(tenant, consumer_bound("stf_guide1"), source="member")
    day = "2026-05-20"
    leavings = [visit_left(f"vis_{n}", "brd_a", "brd_a", at=AT + timedelta(minutes=n), day=day) for n in range(5)]
    await deliver(tenant, *leavings, source="district")
    (task,) = (await tenant.tasks(*GUIDE_1).ListTasks(tasks_pb2.ListTasksRequest(staff_id="stf_guide1"))).tasks
    assert (task.visit_id, task.due_at.ToDatetime(tzinfo=UTC)) == ("vis_0", AT + timedelta(hours=24))
    await deliver(tenant, visit_left("vis_5", "brd_a", at=AT + timedelta(hours=1), day=day), source="district")
    one_spent = await get(tenant, task.id, *GUIDE_1)
    assert (one_spent.visit_id, [coupon.coupon_id for coupon in one_spent.coupons]) == ("vis_5", ["cpn_0"])
    assert (one_spent.state, one_spent.due_at) == (tasks_pb2.TASK_STATE_OPEN, task.due_at)
    await deliver(tenant, visit_left("vis_6", "brd_b", at=AT + timedelta(hours=2), day=day), source="district")
    assert (await get(tenant, task.id, *GUIDE_1)).state == tasks_pb2.TASK_STATE_WITHDRAWN
    await deliver(tenant, visit_left("vis_7", "brd_a", at=AT + timedelta(hours=3), day=day), source="district")
    assert (await get(tenant, task.id, *GUIDE_1)).state == tasks_pb2.TASK_STATE_OPEN
    await deliver(tenant, task_answered(task.id), source="member")
    await deliver(tenant, visit_left("vis_8", "brd_a", at=AT + timedelta(hours=4), day=day), source="district")
    assert (await get(tenant, task.id, *GUIDE_1)).state == tasks_pb2.TASK_STATE_DONE
    assert await tenant.database["tasks"].count_documents({}) == 1


async def test_visits_of_linked_ids_share_one_task(tenant: Organization) -> None:
    await deliver(tenant, consumer_linked(9), consumer_bound("stf_guide1", "con_twin", days=8), source="member")
    await deliver(
        tenant, visit_left("vis_1", day="2026-05-20"), visit_left("vis_2", consumer_id="con_twin", day="2026-05-20"), source="district"
    )
    assert await load_tasks_of(tenant) == [("vis_1", "con_twin", tasks_pb2.TASK_STATE_OPEN)]


async def test_outreach_closes_acknowledged_task(tenant: Organization) -> None:
    id = await create_task(tenant)
    seen = (await tenant.tasks(*GUIDE_1).AcknowledgeTask(tasks_pb2.AcknowledgeTaskRequest(request_id="a", task_id=id))).task
    assert (seen.state, seen.HasField("acknowledged_at")) == (tasks_pb2.TASK_STATE_ACKNOWLEDGED, True)
    again = (await tenant.tasks(*GUIDE_1).AcknowledgeTask(tasks_pb2.AcknowledgeTaskRequest(request_id="b", task_id=id))).task
    assert again == seen
    await deliver(tenant, task_answered(id, "con_2"), task_answered("tsk_none"), source="member")
    assert await get(tenant, id, *GUIDE_1) == seen
    await deliver(tenant, task_answered(id), source="member")
    done = await get(tenant, id, *GUIDE_1)
    assert (done.state, done.outcome, done.outreach_id) == (tasks_pb2.TASK_STATE_DONE, tasks_pb2.TASK_OUTCOME_REACHED, "out_1")
    assert done.closed_at.ToDatetime(tzinfo=UTC) == AT + timedelta(hours=1)
    with pytest.raises(Conflict) as refused:
        await tenant.tasks(*GUIDE_1).AcknowledgeTask(tasks_pb2.AcknowledgeTaskRequest(request_id="c", task_id=id))
    assert (refused.value.reason, refused.value.metadata["state"]) == ("TASK_CLOSED", "TASK_STATE_DONE")


async def test_complete_task_stores_its_outcome(tenant: Organization) -> None:
    id = await create_task(tenant)

    async def complete(request_id: str, outcome: tasks_pb2.TaskOutcome.ValueType) -> tasks_pb2.Task:
        request = tasks_pb2.CompleteTaskRequest(request_id=request_id, task_id=id, outcome=outcome)
        return (await tenant.tasks(*GUIDE_1).CompleteTask(request)).task

    with pytest.raises(Invalid):
        await complete("a", tasks_pb2.TASK_OUTCOME_UNSPECIFIED)
    done = await complete("b", tasks_pb2.TASK_OUTCOME_NOT_WANTED)
    assert (done.state, done.outcome) == (tasks_pb2.TASK_STATE_DONE, tasks_pb2.TASK_OUTCOME_NOT_WANTED)
    assert await complete("c", tasks_pb2.TASK_OUTCOME_NOT_WANTED) == done
    with pytest.raises(Conflict):
        await complete("d", tasks_pb2.TASK_OUTCOME_REACHED)
    await deliver(tenant, task_answered(id), source="member")
    assert await get(tenant, id, *GUIDE_1) == done


async def test_task_is_reassigned_or_withdrawn_with_binding(tenant: Organization) -> None:
    id = await create_task(tenant)
    await tenant.tasks(*GUIDE_1).AcknowledgeTask(tasks_pb2.AcknowledgeTaskRequest(request_id="a", task_id=id))
    await deliver(tenant, consumer_bound("stf_guide1b"), source="member")
    handed = await get(tenant, id, *GUIDE_1B)
    assert (handed.staff_id, handed.state, handed.HasField("acknowledged_at")) == ("stf_guide1b", tasks_pb2.TASK_STATE_OPEN, False)
    with pytest.raises(NotFound):
        await get(tenant, id, *GUIDE_1)
    await deliver(tenant, consumer_bound(""), source="member")
    assert (await get(tenant, id, *MANAGER_1)).state == tasks_pb2.TASK_STATE_WITHDRAWN


async def load_tasks_of(service: Organization, staff_id: str = "stf_guide1") -> list[tuple[str, str, int]]:
    """Returns visit, consumer and state of the tasks of a guide."""
    answer = await service.tasks().ListTasks(tasks_pb2.ListTasksRequest(staff_id=staff_id))
    return sorted((task.visit_id, task.consumer_id, task.state) for task in answer.tasks)


@pytest.mark.parametrize("link_first", [True, False], ids=["linked, then bound", "bound, then linked"])
@pytest.mark.parametrize("bound_id", ["con_1", "con_twin"])
async def test_guide_follows_up_visits_of_linked_ids(tenant: Organization, bound_id: str, link_first: bool) -> None:
    steps = [consumer_linked(9), consumer_bound("stf_guide1", bound_id, days=8)]
    await deliver(tenant, *(steps if link_first else steps[::-1]), source="member")
    await deliver(tenant, visit_left("vis_1"), visit_left("vis_2", consumer_id="con_twin"), source="district")
    # The task names the bound consumer id. The guide must not learn about the linked one.
    assert await load_tasks_of(tenant) == [(f"vis_{n}", bound_id, tasks_pb2.TASK_STATE_OPEN) for n in (1, 2)]
    await deliver(tenant, task_answered(task_id_of("vis_1"), "con_twin"), source="member")
    assert (await load_tasks_of(tenant))[0] == ("vis_1", bound_id, tasks_pb2.TASK_STATE_DONE)


async def test_unlinking_withdraws_tasks_of_the_other_id(tenant: Organization) -> None:
    await deliver(tenant, consumer_linked(9), consumer_bound("stf_guide1", "con_twin", days=8), source="member")
    await deliver(tenant, visit_left("vis_1"), visit_left("vis_2", consumer_id="con_twin"), source="district")
    await deliver(tenant, consumer_unlinked(7), source="member")
    await deliver(tenant, visit_left("vis_3"), visit_left("vis_4", consumer_id="con_twin"), source="district")
    states = {1: tasks_pb2.TASK_STATE_WITHDRAWN, 2: tasks_pb2.TASK_STATE_OPEN, 4: tasks_pb2.TASK_STATE_OPEN}
    assert await load_tasks_of(tenant) == [(f"vis_{n}", "con_twin", state) for n, state in states.items()]


async def test_linking_reassigns_open_tasks_to_latest_binding(tenant: Organization) -> None:
    await deliver(tenant, consumer_bound("stf_guide1", days=9), consumer_bound("stf_guide1b", "con_twin", days=8), source="member")
    await deliver(tenant, visit_left(), source="district")
    await deliver(tenant, consumer_linked(7), source="member")
    assert await load_tasks_of(tenant, "stf_guide1b") == [("vis_1", "con_twin", tasks_pb2.TASK_STATE_OPEN)]
    await deliver(tenant, consumer_unlinked(6), source="member")
    assert await load_tasks_of(tenant) == [("vis_1", "con_1", tasks_pb2.TASK_STATE_OPEN)]
    moved = consumer_bound("stf_guide1", "con_twin", days=4, ended_consumer_ids=["con_1"])
    await deliver(tenant, consumer_linked(5), moved, source="member")
    assert await load_tasks_of(tenant) == [("vis_1", "con_twin", tasks_pb2.TASK_STATE_OPEN)]


async def test_task_is_visible_to_assignee_and_above(tenant: Organization) -> None:
    id = await create_task(tenant)
    both = (*GUIDE_1B, *MANAGER_1)
    for who in (GUIDE_1, MANAGER_1, SUPERVISOR, BRAND, both):
        assert (await get(tenant, id, *who)).id == id
        assert len((await tenant.tasks(*who).BatchGetTasks(tasks_pb2.BatchGetTasksRequest(ids=[id, "tsk_none"]))).tasks) == 1
    for who in (GUIDE_1B, MANAGER_2, OTHER_BRAND):
        with pytest.raises(NotFound) as refused:
            await get(tenant, id, *who)
        assert refused.value.reason == Reason.TASK_NOT_FOUND
        assert not (await tenant.tasks(*who).BatchGetTasks(tasks_pb2.BatchGetTasksRequest(ids=[id]))).tasks
        for subject in ({"staff_id": "stf_guide1"}, {"store_id": "str_1"}):
            assert not (await tenant.tasks(*who).ListTasks(tasks_pb2.ListTasksRequest(**subject))).tasks
    for who in (GUIDE_1B, MANAGER_2):
        with pytest.raises(NotFound):
            await tenant.tasks(*who).AcknowledgeTask(tasks_pb2.AcknowledgeTaskRequest(request_id="x", task_id=id))


async def test_tasks_are_listed_by_state_and_due_time(tenant: Organization) -> None:
    await create_task(tenant)
    await deliver(tenant, *(visit_left(f"vis_{n}", "brd_a", at=AT - timedelta(hours=n)) for n in range(2, 6)), source="district")
    done = task_id_of("vis_3")
    await deliver(tenant, task_answered(done), source="member")

    async def listed(state: tasks_pb2.TaskState.ValueType, **subject: str) -> list[str]:
        visits, after = [], ""
        while True:
            request = tasks_pb2.ListTasksRequest(state=state, page=PageRequest(first=2, after=after), **subject)
            answer = await tenant.tasks(*MANAGER_1).ListTasks(request)
            visits += [task.visit_id for task in answer.tasks]
            if not answer.page.has_next_page:
                return visits
            after = answer.page.end_cursor

    for subject in ({"staff_id": "stf_guide1"}, {"store_id": "str_1"}):
        assert await listed(tasks_pb2.TASK_STATE_UNSPECIFIED, **subject) == ["vis_5", "vis_4", "vis_3", "vis_2", "vis_1"]
        assert await listed(tasks_pb2.TASK_STATE_OPEN, **subject) == ["vis_5", "vis_4", "vis_2", "vis_1"]
        assert await listed(tasks_pb2.TASK_STATE_DONE, **subject) == ["vis_3"]
    with pytest.raises(Invalid):
        await listed(tasks_pb2.TASK_STATE_OPEN)


async def test_batch_list_of_tasks_respects_scope(tenant: Organization) -> None:
    await create_task(tenant)
    await deliver(tenant, *(visit_left(f"vis_{n}", "brd_a", at=AT - timedelta(hours=n)) for n in range(2, 6)), source="district")
    await deliver(tenant, consumer_bound("stf_guide1b", "con_2"), source="member")
    await deliver(tenant, visit_left("vis_1", "brd_a", consumer_id="con_2"), source="district")
    await deliver(tenant, task_answered(task_id_of("vis_3")), source="member")
    rpc, staff, stores = "TaskService.BatchListTasks", ["stf_guide1", "stf_guide1b", "stf_guide2"], ["str_1", "str_2", "str_none"]
    for who, by_staff, by_store in (
        (MANAGER_1, {"stf_guide1": 5, "stf_guide1b": 1}, {"str_1": 6}),
        (GUIDE_1B, {"stf_guide1b": 1}, {"str_1": 1}),
        (MANAGER_2, {}, {}),
        (OTHER_BRAND, {}, {}),
    ):
        assert await assert_batch_equals_lists(tenant.tasks(*who), rpc, "staff_id", staff) == by_staff
        assert await assert_batch_equals_lists(tenant.tasks(*who), rpc, "store_id", stores) == by_store
    assert (
        await count_documents_read(tenant.database, "tasks", fetch_first_pages(tenant.tasks(*MANAGER_1), rpc, "staff_id", staff, 2))
        == 3 + 1
    )
    state = tasks_pb2.TASK_STATE_OPEN
    assert await assert_batch_equals_lists(tenant.tasks(*MANAGER_1), rpc, "staff_id", staff, state=state) == {
        "stf_guide1": 4,
        "stf_guide1b": 1,
    }
    for subjects in ({}, {"staff_ids": staff, "store_ids": stores}):
        with pytest.raises(Invalid, match="INVALID_FIELD"):
            await tenant.tasks(*MANAGER_1).BatchListTasks(tasks_pb2.BatchListTasksRequest(**subjects))


async def test_hot_queries_use_an_index(tenant: Organization) -> None:
    await create_task(tenant)
    states = ["TASK_STATE_ACKNOWLEDGED", "TASK_STATE_DONE", "TASK_STATE_OPEN", "TASK_STATE_WITHDRAWN"]
    for query, sort in [
        (
            {"$and": [{"staff_id": "stf_guide1", "state": {"$in": states}}, {"staff_id": {"$in": ["stf_guide1"]}}]},
            [("due_at", 1), ("_id", 1)],
        ),
        (
            {"$and": [{"store_id": "str_1", "state": {"$in": states}}, {"$or": [{"brand_id": {"$in": ["brd_a"]}}]}]},
            [("due_at", 1), ("_id", 1)],
        ),
        ({"visitor_id": {"$in": ["con_1", "con_twin"]}, "state": {"$in": states[:2]}}, None),
        ({"visitor_id": {"$in": ["con_1", "con_twin"]}, "district_id": "dst_1", "day": "2026-05-20"}, None),
    ]:
        plan = await tenant.plan("tasks", query, sort)
        assert "IXSCAN" in plan and "COLLSCAN" not in plan and "'SORT'" not in plan, plan
