"""Tasks: what an event asks of a member of staff, from birth to outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batches import (
    brand_by_id,
    consumer_by_id,
    district_by_id,
    outreach_by_id,
    relation_by_consumer,
    staff_by_id,
    store_by_id,
    task_by_id,
)
from gateway.graph.common import bilingual
from gateway.schema.connections import connection
from gateway.schema.inputs import form
from gateway.schema.nodes import by_id
from gateway.schema.references import edge
from gateway.schema.rpc_fields import mutation
from gateway.schema.subscription_fields import follow
from gateway.schema.types import Node, enumeration, view
from quanyu.organization.v1 import tasks_pb2

if TYPE_CHECKING:
    from gateway.graph.common import Money, Text
    from gateway.graph.district.places import District
    from gateway.graph.member.identity import Consumer
    from gateway.graph.member.outreach import Outreach
    from gateway.graph.member.relation import Relation
    from gateway.graph.organization.chart import Brand, Staff, Store
    from gateway.schema.scalars import DateTime


@enumeration(tasks_pb2.TaskKind)
class TaskKind: ...


@enumeration(tasks_pb2.TaskState)
class TaskState: ...


@enumeration(tasks_pb2.TaskOutcome)
class TaskOutcome: ...


@view(tasks_pb2.TaskCoupon)
class TaskCoupon:
    coupon_id: ID
    name: Text = bilingual("What it is called.")
    value: Money | None
    minimum_spend: Money | None
    expires_at: DateTime | None


@view(tasks_pb2.Task, node="tsk_", through=task_by_id)
class Task(Node):
    id: ID
    kind: TaskKind
    state: TaskState
    outcome: TaskOutcome | None
    created_at: DateTime | None
    due_at: DateTime | None
    acknowledged_at: DateTime | None
    closed_at: DateTime | None
    assignee: Staff | None = edge(by="staff_id", through=staff_by_id)
    store: Store | None = edge(by="store_id", through=store_by_id)
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)
    consumer: Consumer | None = edge(by="consumer_id", through=consumer_by_id)
    relation: Relation | None = edge(
        by="consumer_id",
        through=relation_by_consumer,
        using={"brand_id": "brand_id"},
        description="How the consumer stands with the brand the task is done for.",
    )
    district: District | None = edge(by="district_id", through=district_by_id)
    coupons: list[TaskCoupon]
    outreach: Outreach | None = edge(by="outreach_id", through=outreach_by_id)


@connection(tasks_pb2.ListTasksResponse, items="tasks")
class TaskConnection:
    nodes: list[Task]


@form(tasks_pb2.ListTasksRequest)
class TaskFilter:
    state: TaskState | None


class Queries:
    task: Task | None = by_id(task_by_id)


@form(tasks_pb2.WatchTasksRequest)
class WatchedTasks:
    staff_id: ID | None
    store_id: ID | None
    after: str | None


@view(tasks_pb2.WatchTasksResponse)
class TaskEvent:
    task: Task
    cursor: str


class Subscriptions:
    task_changed: TaskEvent = follow(tasks_pb2.WatchTasksRequest, arguments=WatchedTasks)


@form(tasks_pb2.AcknowledgeTaskRequest)
class AcknowledgeTaskInput:
    idempotency_key: str | None
    task_id: ID


@view(tasks_pb2.AcknowledgeTaskResponse)
class AcknowledgeTaskPayload:
    task: Task


@form(tasks_pb2.CompleteTaskRequest)
class CompleteTaskInput:
    idempotency_key: str | None
    task_id: ID
    outcome: TaskOutcome


@view(tasks_pb2.CompleteTaskResponse)
class CompleteTaskPayload:
    task: Task


class Mutations:
    acknowledge_task: AcknowledgeTaskPayload | None = mutation(AcknowledgeTaskInput)
    complete_task: CompleteTaskPayload | None = mutation(CompleteTaskInput)
