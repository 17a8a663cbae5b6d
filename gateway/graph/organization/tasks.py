"""Schema of tasks: work that an event creates for a member of staff, from creation to outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batch_loaders import (
    brand_by_id,
    consumer_by_id,
    district_by_id,
    outreach_by_id,
    relation_by_consumer,
    staff_by_id,
    store_by_id,
    task_by_id,
)
from gateway.graph.common import bilingual_field
from gateway.schema.connections import connection_type
from gateway.schema.inputs import input_type
from gateway.schema.nodes import node_field
from gateway.schema.references import reference
from gateway.schema.rpc_fields import mutation_field
from gateway.schema.subscription_fields import subscription_field
from gateway.schema.types import Node, enum_type, object_type
from quanyu.organization.v1 import tasks_pb2

if TYPE_CHECKING:
    from gateway.graph.common import Money, Text
    from gateway.graph.district.places import District
    from gateway.graph.member.identity import Consumer
    from gateway.graph.member.outreach import Outreach
    from gateway.graph.member.relation import Relation
    from gateway.graph.organization.chart import Brand, Staff, Store
    from gateway.schema.scalars import DateTime


@enum_type(tasks_pb2.TaskKind)
class TaskKind: ...


@enum_type(tasks_pb2.TaskState)
class TaskState: ...


@enum_type(tasks_pb2.TaskOutcome)
class TaskOutcome: ...


@object_type(tasks_pb2.TaskCoupon)
class TaskCoupon:
    coupon_id: ID
    name: Text = bilingual_field("The name.")
    value: Money | None
    minimum_spend: Money | None
    expires_at: DateTime | None


@object_type(tasks_pb2.Task, node="tsk_", loader=task_by_id)
class Task(Node):
    id: ID
    kind: TaskKind
    state: TaskState
    outcome: TaskOutcome | None
    created_at: DateTime | None
    due_at: DateTime | None
    acknowledged_at: DateTime | None
    closed_at: DateTime | None
    assignee: Staff | None = reference(by="staff_id", loader=staff_by_id)
    store: Store | None = reference(by="store_id", loader=store_by_id)
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)
    consumer: Consumer | None = reference(by="consumer_id", loader=consumer_by_id)
    relation: Relation | None = reference(
        by="consumer_id",
        loader=relation_by_consumer,
        parameters={"brand_id": "brand_id"},
        description="The consumer's relation to the brand of the task.",
    )
    district: District | None = reference(by="district_id", loader=district_by_id)
    coupons: list[TaskCoupon]
    outreach: Outreach | None = reference(by="outreach_id", loader=outreach_by_id)


@connection_type(tasks_pb2.ListTasksResponse, items="tasks")
class TaskConnection:
    nodes: list[Task]


@input_type(tasks_pb2.ListTasksRequest)
class TaskFilter:
    state: TaskState | None


class Queries:
    task: Task | None = node_field(task_by_id)


@input_type(tasks_pb2.WatchTasksRequest)
class WatchedTasks:
    staff_id: ID | None
    store_id: ID | None
    after: str | None


@object_type(tasks_pb2.WatchTasksResponse)
class TaskEvent:
    task: Task
    cursor: str


class Subscriptions:
    task_changed: TaskEvent = subscription_field(tasks_pb2.WatchTasksRequest, arguments=WatchedTasks)


@input_type(tasks_pb2.AcknowledgeTaskRequest)
class AcknowledgeTaskInput:
    idempotency_key: str | None
    task_id: ID


@object_type(tasks_pb2.AcknowledgeTaskResponse)
class AcknowledgeTaskPayload:
    task: Task


@input_type(tasks_pb2.CompleteTaskRequest)
class CompleteTaskInput:
    idempotency_key: str | None
    task_id: ID
    outcome: TaskOutcome


@object_type(tasks_pb2.CompleteTaskResponse)
class CompleteTaskPayload:
    task: Task


class Mutations:
    acknowledge_task: AcknowledgeTaskPayload | None = mutation_field(AcknowledgeTaskInput)
    complete_task: CompleteTaskPayload | None = mutation_field(CompleteTaskInput)
