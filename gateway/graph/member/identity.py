"""Consumers: one person behind many identities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batches import (
    brand_by_id,
    consents_of_consumer,
    consumer_by_id,
    coupons_of_consumer,
    holds_of_consumer,
    identities_of_consumer,
    inbox_of_consumer,
    links_of_consumer,
    orders_of_consumer,
    packs_of_consumer,
    relations_of_consumer,
)
from gateway.graph.district.wallet import CouponFilter
from gateway.graph.member.consent import ConsentFilter
from gateway.schema.inputs import form
from gateway.schema.nodes import by_id
from gateway.schema.references import edge
from gateway.schema.rpc_fields import mutation, page
from gateway.schema.types import Node, enumeration, view
from quanyu.commerce.v1 import orders_pb2, stock_pb2
from quanyu.district.v1 import packs_pb2, wallet_pb2
from quanyu.member.v1 import consent_pb2, identity_pb2, outreach_pb2, relation_pb2

if TYPE_CHECKING:
    from gateway.graph.commerce.orders import OrderConnection
    from gateway.graph.commerce.stock import HoldConnection
    from gateway.graph.common import Attribute, AttributeInput
    from gateway.graph.district.packs import PackConnection
    from gateway.graph.district.wallet import CouponConnection
    from gateway.graph.member.consent import ConsentConnection
    from gateway.graph.member.outreach import InboxConnection
    from gateway.graph.member.relation import RelationConnection
    from gateway.graph.organization.chart import Brand
    from gateway.schema.scalars import DateTime


@enumeration(identity_pb2.IdentityKind)
class IdentityKind: ...


@view(identity_pb2.Consumer, node="con_", through=consumer_by_id)
class Consumer(Node):
    id: ID
    person_id: ID
    display_name: str | None
    phone: str | None
    sizes: list[Attribute]
    preferences: list[Attribute]
    created_at: DateTime | None
    consumer_ids: list[ID]
    identities: list[Identity] | None = edge(
        by="id",
        through=identities_of_consumer,
        description="How the person is known, oldest first; a brand and its staff see only what the brand supplied.",
    )
    links: list[Link] | None = edge(
        by="id",
        through=links_of_consumer,
        description="Which consumers are this person, latest link first, undone ones included: at most 100, between consumers within the "
        "caller's scope. Who could not link them sees no remarks.",
    )
    relations: RelationConnection | None = page(relation_pb2.ListRelationsRequest, by={"consumer_id": "id"}, first=relations_of_consumer)
    consents: ConsentConnection | None = page(
        consent_pb2.ListConsentsRequest, by={"consumer_id": "id"}, arguments=ConsentFilter, first=consents_of_consumer
    )
    inbox: InboxConnection | None = page(outreach_pb2.ListInboxRequest, by={"consumer_id": "id"}, first=inbox_of_consumer)
    holds: HoldConnection | None = page(stock_pb2.ListHoldsRequest, by={"consumer_id": "id"}, first=holds_of_consumer)
    orders: OrderConnection | None = page(orders_pb2.ListOrdersRequest, by={"consumer_id": "id"}, first=orders_of_consumer)
    packs: PackConnection | None = page(packs_pb2.ListPacksRequest, by={"consumer_id": "id"}, first=packs_of_consumer)
    coupons: CouponConnection | None = page(
        wallet_pb2.ListCouponsRequest, by={"consumer_id": "id"}, arguments=CouponFilter, first=coupons_of_consumer
    )


@view(identity_pb2.Identity)
class Identity:
    id: ID
    kind: IdentityKind
    namespace: str | None
    shown: str
    verified: bool
    created_at: DateTime | None
    brands: list[Brand | None] | None = edge(by="brand_ids", through=brand_by_id)


@view(identity_pb2.Link)
class Link:
    id: ID
    evidence: list[IdentityKind]
    note: str | None
    linked_at: DateTime | None
    undone_at: DateTime | None
    consumer: Consumer | None = edge(by="consumer_id", through=consumer_by_id)
    linked_consumer: Consumer | None = edge(by="linked_consumer_id", through=consumer_by_id)


class Queries:
    consumer: Consumer | None = by_id(consumer_by_id)


@form(identity_pb2.NewIdentity)
class IdentityInput:
    kind: IdentityKind
    namespace: str | None
    value: str
    verified: bool | None


@form(identity_pb2.RegisterConsumerRequest)
class RegisterConsumerInput:
    idempotency_key: str | None
    consumer_id: ID | None
    brand_id: ID
    identities: list[IdentityInput]
    display_name: str | None
    sizes: list[AttributeInput] | None
    preferences: list[AttributeInput] | None
    store_id: ID | None


@view(identity_pb2.RegisterConsumerResponse)
class RegisterConsumerPayload:
    consumer_id: ID
    created: bool
    consumer: Consumer | None = edge(by="consumer_id", through=consumer_by_id)


@form(identity_pb2.AddIdentityRequest)
class AddIdentityInput:
    idempotency_key: str | None
    consumer_id: ID
    brand_id: ID
    identity: IdentityInput


@view(identity_pb2.AddIdentityResponse)
class AddIdentityPayload:
    identity_id: ID
    created: bool


@form(identity_pb2.LinkConsumersRequest)
class LinkConsumersInput:
    idempotency_key: str | None
    consumer_id: ID
    linked_consumer_id: ID
    evidence: list[IdentityKind]
    note: str | None


@view(identity_pb2.LinkConsumersResponse)
class LinkConsumersPayload:
    link_id: ID
    consumer: Consumer | None = edge(by="consumer_id", through=consumer_by_id)


@form(identity_pb2.UnlinkConsumersRequest)
class UnlinkConsumersInput:
    idempotency_key: str | None
    consumer_id: ID
    linked_consumer_id: ID
    note: str | None


@view(identity_pb2.UnlinkConsumersResponse)
class UnlinkConsumersPayload:
    consumer: Consumer | None = edge(by="consumer_id", through=consumer_by_id)
    linked_consumer: Consumer | None = edge(by="linked_consumer_id", through=consumer_by_id)


class Mutations:
    register_consumer: RegisterConsumerPayload | None = mutation(RegisterConsumerInput)
    add_identity: AddIdentityPayload | None = mutation(AddIdentityInput)
    link_consumers: LinkConsumersPayload | None = mutation(LinkConsumersInput)
    unlink_consumers: UnlinkConsumersPayload | None = mutation(UnlinkConsumersInput)
