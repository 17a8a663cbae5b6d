"""Outreach: which guide looks after whom, and what they write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batches import (
    brand_by_id,
    consumer_by_id,
    order_by_id,
    outreach_by_id,
    relation_by_consumer,
    staff_by_id,
    store_by_id,
    task_by_id,
)
from gateway.schema.connections import connection
from gateway.schema.inputs import form, part
from gateway.schema.references import edge
from gateway.schema.rpc_fields import mutation
from gateway.schema.subscription_fields import follow
from gateway.schema.types import Node, enumeration, view
from quanyu.member.v1 import outreach_pb2

if TYPE_CHECKING:
    from gateway.graph.commerce.orders import Order
    from gateway.graph.member.identity import Consumer
    from gateway.graph.member.relation import Relation
    from gateway.graph.organization.chart import Brand, Staff, Store
    from gateway.graph.organization.tasks import Task
    from gateway.schema.scalars import DateTime, Long


@enumeration(outreach_pb2.Channel)
class OutreachChannel: ...


@enumeration(outreach_pb2.Outcome)
class OutreachOutcome: ...


@view(outreach_pb2.Binding)
class Binding:
    id: ID
    bound_at: DateTime | None
    ended_at: DateTime | None
    consumer: Consumer | None = edge(by="consumer_id", through=consumer_by_id)
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)
    staff: Staff | None = edge(by="staff_id", through=staff_by_id)
    store: Store | None = edge(by="store_id", through=store_by_id)
    relation: Relation | None = edge(
        by="consumer_id",
        through=relation_by_consumer,
        using={"brand_id": "brand_id"},
        description="How the consumer stands with this brand.",
    )


@view(outreach_pb2.Outreach, node="out_", through=outreach_by_id)
class Outreach(Node):
    id: ID
    channel: OutreachChannel
    text: str
    sent_at: DateTime | None
    read_at: DateTime | None
    outcome: OutreachOutcome | None
    consumer: Consumer | None = edge(by="consumer_id", through=consumer_by_id)
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)
    staff: Staff | None = edge(by="staff_id", through=staff_by_id)
    store: Store | None = edge(by="store_id", through=store_by_id)
    task: Task | None = edge(by="task_id", through=task_by_id)
    order: Order | None = edge(by="order_id", through=order_by_id)


@connection(outreach_pb2.ListClientsResponse, outreach_pb2.ClientsOfStaff, items="bindings")
class ClientConnection:
    nodes: list[Binding]


@connection(outreach_pb2.ListOutreachesResponse, outreach_pb2.OutreachesOfOne, items="outreaches")
class OutreachConnection:
    nodes: list[Outreach]


@connection(outreach_pb2.ListInboxResponse, outreach_pb2.InboxOfConsumer, items="outreaches")
class InboxConnection:
    nodes: list[Outreach]
    unread: Long


@form(outreach_pb2.WatchInboxRequest)
class WatchedInbox:
    consumer_id: ID | None = part(mine="consumer_id")
    after: str | None


@view(outreach_pb2.WatchInboxResponse)
class InboxEvent:
    message: Outreach
    cursor: str
    unread: Long


class Subscriptions:
    message_received: InboxEvent = follow(outreach_pb2.WatchInboxRequest, arguments=WatchedInbox)


@form(outreach_pb2.BindConsumerRequest)
class BindConsumerInput:
    idempotency_key: str | None
    consumer_id: ID
    brand_id: ID
    staff_id: ID | None = part(mine="staff_id")
    store_id: ID | None


@view(outreach_pb2.BindConsumerResponse)
class BindConsumerPayload:
    binding: Binding


@form(outreach_pb2.UnbindConsumerRequest)
class UnbindConsumerInput:
    idempotency_key: str | None
    consumer_id: ID
    brand_id: ID


@view(outreach_pb2.UnbindConsumerResponse)
class UnbindConsumerPayload:
    binding: Binding


@form(outreach_pb2.SendOutreachRequest)
class SendOutreachInput:
    idempotency_key: str
    consumer_id: ID
    brand_id: ID
    staff_id: ID | None = part(mine="staff_id")
    task_id: ID | None
    channel: OutreachChannel | None
    text: str


@view(outreach_pb2.SendOutreachResponse)
class SendOutreachPayload:
    remaining: Long
    outreach: Outreach | None = edge(by="outreach_id", through=outreach_by_id, description="What was sent.")


@form(outreach_pb2.MarkReadRequest)
class MarkReadInput:
    idempotency_key: str | None
    consumer_id: ID | None = part(mine="consumer_id")
    outreach_ids: list[ID]


@view(outreach_pb2.MarkReadResponse)
class MarkReadPayload:
    marked: Long


class Mutations:
    bind_consumer: BindConsumerPayload | None = mutation(BindConsumerInput)
    unbind_consumer: UnbindConsumerPayload | None = mutation(UnbindConsumerInput)
    send_outreach: SendOutreachPayload | None = mutation(SendOutreachInput)
    mark_read: MarkReadPayload | None = mutation(MarkReadInput)
