"""Task rules: states go forward only, tasks follow the binding, and each brand has one task a day."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.errors import Conflict, Invalid
from services.organization.targets.rules import Binding
from services.organization.tasks import rules
from services.organization.tasks.enums import TaskOutcome, TaskState
from services.organization.tasks.rules import CLOSED, Coupon, Task, Visit

AT = datetime(2026, 11, 20, 13, 40, tzinfo=UTC)
GUIDES = {
    brand: Binding(consumer_id="con_1", brand_id=brand, staff_id=f"stf_{brand}", store_id=f"str_{brand}", bound_at=AT)
    for brand in ("brd_a", "brd_b")
}

moments = st.integers(0, 48).map(lambda hours: AT + timedelta(hours=hours))
coupons = st.uuids().map(lambda id: Coupon(coupon_id=f"cpn_{id}"))
unspent = st.dictionaries(st.sampled_from(["brd_a", "brd_b", "brd_c"]), st.lists(coupons, max_size=3).map(tuple))


def leaving(unspent: dict[str, tuple[Coupon, ...]], visit_id: str = "vis_1", at: datetime = AT) -> Visit:
    return Visit(visit_id, "con_1", "dst_1", "2026-11-20", unspent, at)


def task() -> Task:
    _, (created,) = rules.follow_up(leaving({"brd_a": (Coupon(coupon_id="cpn_1"),)}), GUIDES, [])
    return created


actions = st.lists(
    st.one_of(
        st.tuples(st.just("acknowledge"), st.none()),
        st.tuples(st.just("complete"), st.sampled_from(TaskOutcome)),
        st.tuples(st.just("reached"), st.sampled_from(["con_1", "con_2"])),
        st.tuples(st.just("rebind"), st.sampled_from([None, *GUIDES.values()])),
    ),
    max_size=8,
)


def after(created: Task, actions: list) -> list[Task]:
    states = [created]
    for hours, (what, argument) in enumerate(actions):
        at, last = AT + timedelta(hours=hours), states[-1]
        try:
            match what:
                case "acknowledge":
                    states.append(rules.acknowledge(last, at)[0])
                case "complete":
                    states.append(rules.complete(last, argument, at)[0])
                case "reached":
                    states.append(rules.close_by_outreach(last, {argument}, last.brand_id, "out_1", at))
                case _:
                    states.append(rules.reassign(last, argument, at))
        except Conflict as refused:
            assert refused.reason == "TASK_CLOSED"
            assert last.state in CLOSED
    return states


@given(actions)
def test_closed_task_never_changes(actions: list) -> None:
    states = after(task(), actions)
    for number, state in enumerate(states):
        if state.state in CLOSED:
            assert state.closed_at is not None
            assert set(states[number:]) == {state}
            return
        assert state.outcome is None and state.closed_at is None
        assert (state.state is TaskState.ACKNOWLEDGED) == (state.acknowledged_at is not None)


@given(st.lists(moments, min_size=1))
def test_repeated_acknowledgement_changes_nothing(times: list[datetime]) -> None:
    seen = rules.acknowledge(task(), times[0])[0]
    for at in times:
        assert rules.acknowledge(seen, at) == (seen, [])


@given(unspent)
def test_follow_up_creates_one_task_per_brand(unspent: dict[str, tuple[Coupon, ...]]) -> None:
    _, tasks = rules.follow_up(leaving(unspent), GUIDES, [])
    assert {one.brand_id: one.coupons for one in tasks} == {brand: unspent[brand] for brand in GUIDES if unspent.get(brand)}
    assert rules.follow_up(leaving(unspent, "vis_2"), GUIDES, tasks) == (tasks, [])
    assert len({one.id for one in tasks}) == len(tasks)
    assert all(one.created_at < one.due_at <= one.created_at + timedelta(hours=24) for one in tasks)


@given(st.lists(unspent, min_size=1, max_size=6), st.lists(st.sampled_from(["seen", "done", ""]), min_size=6, max_size=6))
def test_task_of_a_day_has_latest_unspent_coupons(leavings: list[dict[str, tuple[Coupon, ...]]], between: list[str]) -> None:
    standing: list[Task] = []
    for number, (left, then) in enumerate(zip(leavings, between, strict=False)):
        before = {one.brand_id: one for one in standing}
        again, fresh = rules.follow_up(leaving(left, f"vis_{number}", AT + timedelta(hours=number)), GUIDES, standing)
        standing = [*again, *fresh]
        assert len({one.id for one in standing}) == len({one.brand_id for one in standing}) == len(standing)
        for one in standing:
            was = before.get(one.brand_id)
            if was and was.state is TaskState.DONE:
                assert one == was
            elif not left.get(one.brand_id):
                assert one.state is TaskState.WITHDRAWN
            else:
                assert one.state not in CLOSED and one.coupons == left[one.brand_id]
                created = one if was is None or was.state is TaskState.WITHDRAWN else was
                assert (one.state, one.created_at, one.due_at) == (created.state, created.created_at, created.due_at)
        acts = {"seen": rules.acknowledge, "done": lambda one, at: rules.complete(one, TaskOutcome.REACHED, at)}
        standing = [acts[then](one, AT)[0] if then and one.state not in CLOSED else one for one in standing]


def test_later_visit_with_same_coupons_changes_nothing() -> None:
    seen = rules.acknowledge(task(), AT)[0]
    assert rules.follow_up(leaving({"brd_a": seen.coupons}, "vis_2", AT + timedelta(hours=1)), GUIDES, [seen]) == ([seen], [])


def test_coupons_are_grouped_in_their_order() -> None:
    one, two, three = (Coupon(coupon_id=f"cpn_{n}") for n in range(3))
    assert rules.group_by_brand([("brd_a", one), ("brd_b", two), ("brd_a", three)]) == {"brd_a": (one, three), "brd_b": (two,)}


def test_outreach_to_other_person_or_brand_closes_nothing() -> None:
    assert rules.close_by_outreach(task(), {"con_2"}, "brd_a", "out_1", AT) == task()
    assert rules.close_by_outreach(task(), {"con_1"}, "brd_b", "out_1", AT) == task()
    done = rules.close_by_outreach(task(), {"con_1", "con_2"}, "brd_a", "out_1", AT)
    assert (done.state, done.outcome, done.outreach_id) == (TaskState.DONE, TaskOutcome.REACHED, "out_1")


def test_reassigned_task_is_open_or_withdrawn() -> None:
    seen = rules.acknowledge(task(), AT)[0]
    handed = rules.reassign(seen, GUIDES["brd_b"], AT)
    assert (handed.state, handed.staff_id, handed.acknowledged_at) == (TaskState.OPEN, "stf_brd_b", None)
    assert rules.reassign(seen, None, AT).state is TaskState.WITHDRAWN
    assert rules.reassign(seen, GUIDES["brd_a"], AT) == seen


def test_second_outcome_and_missing_outcome_are_refused() -> None:
    done = rules.complete(task(), TaskOutcome.NOT_REACHED, AT)[0]
    with pytest.raises(Conflict):
        rules.complete(done, TaskOutcome.REACHED, AT)
    assert rules.complete(done, TaskOutcome.NOT_REACHED, AT) == (done, [])
    with pytest.raises(Invalid):
        rules.complete(task(), None, AT)
