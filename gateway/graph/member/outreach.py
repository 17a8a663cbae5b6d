"""Schema of outreach: the bindings of consumers to guides, and the messages that guides send."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batch_loaders import (
    brand_by_id,
    consumer_by_id,
    order_by_id,
    outreach_by_id,
    relation_by_consumer,
    staff_by_id,
    store_by_id,
    task_by_id,
)
from gateway.schema.connections import connection_type
from gateway.schema.inputs import input_field, input_type
from gateway.schema.references import reference
from gateway.schema.rpc_fields import mutation_field
from gateway.schema.subscription_fields import subscription_field
from gateway.schema.types import Node, enum_type, object_type
from quanyu.member.v1 import outreach_pb2

if TYPE_CHECKING:
    from gateway.graph.commerce.orders import Order
    from gateway.graph.member.identity import Consumer
    from gateway.graph.member.relation import Relation
    from gateway.graph.organization.chart import Brand, Staff, Store
    from gateway.graph.organization.tasks import Task
    from gateway.schema.scalars import DateTime, Long


@enum_type(outreach_pb2.Channel)
class OutreachChannel: ...


@enum_type(outreach_pb2.Outcome)
class OutreachOutcome: ...


@object_type(outreach_pb2.Binding)
class Binding:
    id: ID
    bound_at: DateTime | None
    ended_at: DateTime | None
    consumer: Consumer | None = reference(by="consumer_id", loader=consumer_by_id)
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)
    staff: Staff | None = reference(by="staff_id", loader=staff_by_id)
    store: Store | None = reference(by="store_id", loader=store_by_id)
    relation: Relation | None = reference(
        by="consumer_id",
        loader=relation_by_consumer,
        parameters={"brand_id": "brand_id"},
        description="The consumer's relation to this brand.",
    )


@object_type(outreach_pb2.Outreach, node="out_", loader=outreach_by_id)
class Outreach(Node):
    id: ID
    channel: OutreachChannel
    text: str
    sent_at: DateTime | None
    read_at: DateTime | None
    outcome: OutreachOutcome | None
    consumer: Consumer | None = reference(by="consumer_id", loader=consumer_by_id)
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)
    staff: Staff | None = reference(by="staff_id", loader=staff_by_id)
    store: Store | None = reference(by="store_id", loader=store_by_id)
    task: Task | None = reference(by="task_id", loader=task_by_id)
    order: Order | None = reference(by="order_id", loader=order_by_id)


@connection_type(outreach_pb2.ListClientsResponse, outreach_pb2.ClientsOfStaff, items="bindings")
class ClientConnection:
    nodes: list[Binding]


@connection_type(outreach_pb2.ListOutreachesResponse, outreach_pb2.OutreachesOfOne, items="outreaches")
class OutreachConnection:
    nodes: list[Outreach]


@connection_type(outreach_pb2.ListInboxResponse, outreach_pb2.InboxOfConsumer, items="outreaches")
class InboxConnection:
    nodes: list[Outreach]
    unread: Long


@input_type(outreach_pb2.WatchInboxRequest)
class WatchedInbox:
    consumer_id: ID | None = input_field(session_default="consumer_id")
    after: str | None


@object_type(outreach_pb2.WatchInboxResponse)
class InboxEvent:
    message: Outreach
    cursor: str
    unread: Long


class Subscriptions:
    message_received: InboxEvent = subscription_field(outreach_pb2.WatchInboxRequest, arguments=WatchedInbox)


@input_type(outreach_pb2.BindConsumerRequest)
class BindConsumerInput:
    idempotency_key: str | None
    consumer_id: ID
    brand_id: ID
    staff_id: ID | None = input_field(session_default="staff_id")
    store_id: ID | None


@object_type(outreach_pb2.BindConsumerResponse)
class BindConsumerPayload:
    binding: Binding


@input_type(outreach_pb2.UnbindConsumerRequest)
class UnbindConsumerInput:
    idempotency_key: str | None
    consumer_id: ID
    brand_id: ID


@object_type(outreach_pb2.UnbindConsumerResponse)
class UnbindConsumerPayload:
    binding: Binding


@input_type(outreach_pb2.SendOutreachRequest)
class SendOutreachInput:
    idempotency_key: str
    consumer_id: ID
    brand_id: ID
    staff_id: ID | None = input_field(session_default="staff_id")
    task_id: ID | None
    channel: OutreachChannel | None
    text: str


@object_type(outreach_pb2.SendOutreachResponse)
class SendOutreachPayload:
    remaining: Long
    outreach: Outreach | None = reference(by="outreach_id", loader=outreach_by_id, description="The message that was sent.")


@input_type(outreach_pb2.MarkReadRequest)
class MarkReadInput:
    idempotency_key: str | None
    consumer_id: ID | None = input_field(session_default="consumer_id")
    outreach_ids: list[ID]


@object_type(outreach_pb2.MarkReadResponse)
class MarkReadPayload:
    marked: Long


class Mutations:
    bind_consumer: BindConsumerPayload | None = mutation_field(BindConsumerInput)
    unbind_consumer: UnbindConsumerPayload | None = mutation_field(UnbindConsumerInput)
    send_outreach: SendOutreachPayload | None = mutation_field(SendOutreachInput)
    mark_read: MarkReadPayload | None = mutation_field(MarkReadInput)
