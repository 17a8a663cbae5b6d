"""What an event asks of a guide, and what may happen to it until it is closed."""

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

DUE = timedelta(hours=24)
CLOSED = frozenset({TaskState.DONE, TaskState.WITHDRAWN})


class Coupon(Struct, frozen=True, kw_only=True):
    """A coupon as the event told it: what a guide needs to write about it."""

    coupon_id: str
    name: str = ""
    name_en: str = ""
    value: Money | None = None
    minimum_spend: Money | None = None
    expires_at: datetime | None = None


class Task(Struct, frozen=True, kw_only=True):
    """What a member of staff is asked to do for a consumer.

    `consumer_id` is the one bound to her, `visitor_id` the one who came: two ids of one person, as far as anybody knows.
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
    """A visit that ended, with what of its day's pack is unspent: brand -> coupons."""

    id: str
    consumer_id: str
    district_id: str
    day: str
    unspent: Mapping[str, tuple[Coupon, ...]]
    left_at: datetime


Decided = tuple[Task, list[Event]]
"""What a task becomes and the events that tell it; tasks tell none yet."""


def task_id(consumer_id: str, brand_id: str, district_id: str, day: str) -> str:
    """The id of a brand's follow-up of the day on which a consumer came: one, however often she left."""
    return f"tsk_{hashlib.sha256(f'{consumer_id} {brand_id} {district_id} {day}'.encode()).hexdigest()[:32]}"


def follow_up(visit: Visit, guides: Mapping[str, Binding], standing: Sequence[Task]) -> tuple[list[Task], list[Task]]:
    """The tasks that earlier leavings of the day gave rise to, as they stand after this one, and fresh ones for the other brands."""
    asked = {task.brand_id: task for task in _asked(visit, guides)}
    again = [leave_again(task, asked.get(task.brand_id), visit.left_at) for task in standing]
    followed = {task.brand_id for task in standing}
    return again, [task for brand_id, task in asked.items() if brand_id not in followed]


def leave_again(task: Task, asked: Task | None, at: datetime) -> Task:
    """The task after a later leaving of its day, which by itself would have `asked` for this (None: for nothing, all is spent).

    What is done stays done: she was written to about this pack. Else the task speaks of what is unspent now, due when it was; it is
    withdrawn when that is nothing, and asked for anew when it had been withdrawn.
    """
    if task.state is TaskState.DONE:
        return task
    if asked is None:
        return task if task.state is TaskState.WITHDRAWN else replace(task, state=TaskState.WITHDRAWN, closed_at=at)
    if task.state is TaskState.WITHDRAWN:
        return replace(asked, id=task.id, version=task.version)
    if task.coupons == asked.coupons:
        return task
    return replace(task, coupons=asked.coupons, visit_id=asked.visit_id)


def _asked(visit: Visit, guides: Mapping[str, Binding]) -> list[Task]:
    """A task for the guide of each brand whose coupons are unspent; brands for which she is bound to nobody ask nothing."""
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
            due_at=visit.left_at + DUE,
        )
        for brand_id, coupons in visit.unspent.items()
        if coupons and brand_id in guides
    ]


def by_brand(coupons: Iterable[tuple[str, Coupon]]) -> dict[str, tuple[Coupon, ...]]:
    """(brand, coupon) pairs as brand -> coupons, in their order."""
    grouped: dict[str, tuple[Coupon, ...]] = {}
    for brand_id, coupon in coupons:
        grouped[brand_id] = (*grouped.get(brand_id, ()), coupon)
    return grouped


def acknowledge(task: Task, at: datetime) -> Decided:
    """The task as seen; the first time counts."""
    if task.state in CLOSED:
        raise closed(task)
    if task.acknowledged_at is not None:
        return task, []
    return replace(task, state=TaskState.ACKNOWLEDGED, acknowledged_at=at), []


def complete(task: Task, outcome: TaskOutcome | None, at: datetime, outreach_id: str | None = None) -> Decided:
    """The task with its outcome. The same outcome again changes nothing."""
    if outcome is None:
        raise Invalid(Reason.OUTCOME_REQUIRED, "say what came of it", field="outcome")
    if task.state is TaskState.DONE and task.outcome is outcome:
        return task, []
    if task.state in CLOSED:
        raise closed(task)
    return replace(task, state=TaskState.DONE, outcome=outcome, closed_at=at, outreach_id=outreach_id), []


def reached(task: Task, consumer_ids: Collection[str], brand_id: str, outreach_id: str, at: datetime) -> Task:
    """The task after a message was sent that answers it, to the person with these ids; one to somebody else or for another brand, or
    after it was closed, changes nothing: whoever writes names the task."""
    if task.state in CLOSED or task.consumer_id not in consumer_ids or task.brand_id != brand_id:
        return task
    return complete(task, TaskOutcome.REACHED, at, outreach_id)[0]


def rebind(task: Task, guide: Binding | None, at: datetime) -> Task:
    """The task in the hands of who looks after her now: a new guide has not seen it, and without one it is withdrawn."""
    if task.state in CLOSED:
        return task
    if guide is None:
        return replace(task, state=TaskState.WITHDRAWN, closed_at=at)
    held = replace(task, store_id=guide.store_id, consumer_id=guide.consumer_id)
    if guide.staff_id == task.staff_id:
        return held
    return replace(held, state=TaskState.OPEN, acknowledged_at=None, staff_id=guide.staff_id)


def closed(task: Task) -> Conflict:
    """The refusal of a task that is done or withdrawn."""
    return Conflict(Reason.TASK_CLOSED, "this task is closed already", task_id=task.id, state=task.state)
