"""Rules of tasks: a follow-up that an event creates for a guide, and its states until it is closed."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from services.kit.errors import Conflict, Invalid
from services.kit.values.event import Event
from services.kit.values.money import Money
from services.organization.targets.rules import Binding
from services.organization.tasks.enums import Reason, TaskKind, TaskOutcome, TaskState

DUE_AFTER = timedelta(hours=24)
"""A task is due this long after the visit that created it."""
CLOSED = frozenset({TaskState.DONE, TaskState.WITHDRAWN})


class Coupon(Struct, frozen=True, kw_only=True):
    """A coupon as of the event, with what a guide needs to write about it."""

    coupon_id: str
    name: str = ""
    name_en: str = ""
    value: Money | None = None
    minimum_spend: Money | None = None
    expires_at: datetime | None = None


class Task(Struct, frozen=True, kw_only=True):
    """A request to a member of staff to do something for a consumer.

    `consumer_id` is the id that is bound to the guide, `visitor_id` the id that visited. Both belong to one person.
    """

    id: str
    kind: TaskKind
    state: TaskState = TaskState.OPEN
    staff_id: str
    store_id: str
    brand_id: str
    consumer_id: str
    visitor_id: str = ""
    district_id: str
    day: str = ""
    visit_id: str
    coupons: tuple[Coupon, ...] = ()
    created_at: datetime
    due_at: datetime
    acknowledged_at: datetime | None = None
    closed_at: datetime | None = None
    outcome: TaskOutcome | None = None
    outreach_id: str | None = None
    version: int = 1


class Visit(NamedTuple):
    """A visit that ended, with the unspent coupons of the day's pack for each brand."""

    id: str
    consumer_id: str
    district_id: str
    day: str
    unspent: Mapping[str, tuple[Coupon, ...]]
    left_at: datetime


Decision = tuple[Task, list[Event]]
"""The changed task and its events. Tasks publish no events yet."""


def task_id(consumer_id: str, brand_id: str, district_id: str, day: str) -> str:
    """Returns the id of a brand's follow-up on a day: the same for all visits of the consumer on that day."""
    return f"tsk_{hashlib.sha256(f'{consumer_id} {brand_id} {district_id} {day}'.encode()).hexdigest()[:32]}"


def follow_up(visit: Visit, guides: Mapping[str, Binding], existing: Sequence[Task]) -> tuple[list[Task], list[Task]]:
    """Returns the existing tasks of the day as they are after this visit, and new tasks for the other brands."""
    requested = {task.brand_id: task for task in _create_tasks(visit, guides)}
    updated = [update_after_visit(task, requested.get(task.brand_id), visit.left_at) for task in existing]
    followed = {task.brand_id for task in existing}
    return updated, [task for brand_id, task in requested.items() if brand_id not in followed]


def update_after_visit(task: Task, requested: Task | None, at: datetime) -> Task:
    """Returns a task after a later visit of its day. `requested` is the task of that visit, or None if no coupon is unspent.

    A done task does not change, since the guide has written about this pack. An open task gets the unspent coupons and keeps its due
    time; it is withdrawn if there are none. A withdrawn task is opened again.
    """
    if task.state is TaskState.DONE:
        return task
    if requested is None:
        return task if task.state is TaskState.WITHDRAWN else replace(task, state=TaskState.WITHDRAWN, closed_at=at)
    if task.state is TaskState.WITHDRAWN:
        return replace(requested, id=task.id, version=task.version)
    if task.coupons == requested.coupons:
        return task
    return replace(task, coupons=requested.coupons, visit_id=requested.visit_id)


def _create_tasks(visit: Visit, guides: Mapping[str, Binding]) -> list[Task]:
    """Returns a task for each brand that has unspent coupons and a guide of the consumer."""
    return [
        Task(
            id=task_id(visit.consumer_id, brand_id, visit.district_id, visit.day),
            kind=TaskKind.FOLLOW_UP_VISIT,
            staff_id=guides[brand_id].staff_id,
            store_id=guides[brand_id].store_id,
            brand_id=brand_id,
            consumer_id=guides[brand_id].consumer_id,
            visitor_id=visit.consumer_id,
            district_id=visit.district_id,
            day=visit.day,
            visit_id=visit.id,
            coupons=coupons,
            created_at=visit.left_at,
            due_at=visit.left_at + DUE_AFTER,
        )
        for brand_id, coupons in visit.unspent.items()
        if coupons and brand_id in guides
    ]


def group_by_brand(coupons: Iterable[tuple[str, Coupon]]) -> dict[str, tuple[Coupon, ...]]:
    """Groups (brand id, coupon) pairs by brand; the order of the coupons is kept."""
    grouped: dict[str, tuple[Coupon, ...]] = {}
    for brand_id, coupon in coupons:
        grouped[brand_id] = (*grouped.get(brand_id, ()), coupon)
    return grouped


def acknowledge(task: Task, at: datetime) -> Decision:
    """Returns the acknowledged task. A repeat changes nothing."""
    if task.state in CLOSED:
        raise closed_refusal(task)
    if task.acknowledged_at is not None:
        return task, []
    return replace(task, state=TaskState.ACKNOWLEDGED, acknowledged_at=at), []


def complete(task: Task, outcome: TaskOutcome | None, at: datetime, outreach_id: str | None = None) -> Decision:
    """Returns the task closed with its outcome. The same outcome again changes nothing; another one is a `Conflict`."""
    if outcome is None:
        raise Invalid(Reason.OUTCOME_REQUIRED, "The outcome is missing. Set `outcome`.", field="outcome")
    if task.state is TaskState.DONE and task.outcome is outcome:
        return task, []
    if task.state in CLOSED:
        raise closed_refusal(task)
    return replace(task, state=TaskState.DONE, outcome=outcome, closed_at=at, outreach_id=outreach_id), []


def close_by_outreach(task: Task, consumer_ids: Collection[str], brand_id: str, outreach_id: str, at: datetime) -> Task:
    """Returns the task, closed by a message to the person with these ids.

    The sender chooses the task, so a message to another person, for another brand or for a closed task changes nothing.
    """
    if task.state in CLOSED or task.consumer_id not in consumer_ids or task.brand_id != brand_id:
        return task
    return complete(task, TaskOutcome.REACHED, at, outreach_id)[0]


def reassign(task: Task, guide: Binding | None, at: datetime) -> Task:
    """Returns the task of the person's current guide. A new guide has not acknowledged it; without a guide it is withdrawn."""
    if task.state in CLOSED:
        return task
    if guide is None:
        return replace(task, state=TaskState.WITHDRAWN, closed_at=at)
    kept = replace(task, store_id=guide.store_id, consumer_id=guide.consumer_id)
    if guide.staff_id == task.staff_id:
        return kept
    return replace(kept, state=TaskState.OPEN, acknowledged_at=None, staff_id=guide.staff_id)


def closed_refusal(task: Task) -> Conflict:
    """Returns the refusal of a change to a task that is done or withdrawn."""
    return Conflict(Reason.TASK_CLOSED, "This task is closed. Read it to see its outcome.", task_id=task.id, state=task.state)
