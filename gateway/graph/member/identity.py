"""Schema of identity: consumers, their identities, and the links between consumers of one person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batch_loaders import (
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
from gateway.schema.inputs import input_type
from gateway.schema.nodes import node_field
from gateway.schema.references import reference
from gateway.schema.rpc_fields import connection_field, mutation_field
from gateway.schema.types import Node, enum_type, object_type
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


@enum_type(identity_pb2.IdentityKind)
class IdentityKind: ...


@object_type(identity_pb2.Consumer, node="con_", loader=consumer_by_id)
class Consumer(Node):
    id: ID
    person_id: ID
    display_name: str | None
    phone: str | None
    sizes: list[Attribute]
    preferences: list[Attribute]
    created_at: DateTime | None
    consumer_ids: list[ID]
    identities: list[Identity] | None = reference(
        by="id",
        loader=identities_of_consumer,
        description="The identities of the person, oldest first. A brand and its staff see only those that the brand supplied.",
    )
    links: list[Link] | None = reference(
        by="id",
        loader=links_of_consumer,
        description="At most 100 links between the consumers of this person, latest first, with undone ones. You see links between "
        "consumers in your scope, and their notes only if you may link the consumers.",
    )
    relations: RelationConnection | None = connection_field(
        relation_pb2.ListRelationsRequest, by={"consumer_id": "id"}, loader=relations_of_consumer
    )
    consents: ConsentConnection | None = connection_field(
        consent_pb2.ListConsentsRequest, by={"consumer_id": "id"}, arguments=ConsentFilter, loader=consents_of_consumer
    )
    inbox: InboxConnection | None = connection_field(outreach_pb2.ListInboxRequest, by={"consumer_id": "id"}, loader=inbox_of_consumer)
    holds: HoldConnection | None = connection_field(stock_pb2.ListHoldsRequest, by={"consumer_id": "id"}, loader=holds_of_consumer)
    orders: OrderConnection | None = connection_field(orders_pb2.ListOrdersRequest, by={"consumer_id": "id"}, loader=orders_of_consumer)
    packs: PackConnection | None = connection_field(packs_pb2.ListPacksRequest, by={"consumer_id": "id"}, loader=packs_of_consumer)
    coupons: CouponConnection | None = connection_field(
        wallet_pb2.ListCouponsRequest, by={"consumer_id": "id"}, arguments=CouponFilter, loader=coupons_of_consumer
    )


@object_type(identity_pb2.Identity)
class Identity:
    id: ID
    kind: IdentityKind
    namespace: str | None
    shown: str
    verified: bool
    created_at: DateTime | None
    brands: list[Brand | None] | None = reference(by="brand_ids", loader=brand_by_id)


@object_type(identity_pb2.Link)
class Link:
    id: ID
    evidence: list[IdentityKind]
    note: str | None
    linked_at: DateTime | None
    undone_at: DateTime | None
    consumer: Consumer | None = reference(by="consumer_id", loader=consumer_by_id)
    linked_consumer: Consumer | None = reference(by="linked_consumer_id", loader=consumer_by_id)


class Queries:
    consumer: Consumer | None = node_field(consumer_by_id)


@input_type(identity_pb2.NewIdentity)
class IdentityInput:
    kind: IdentityKind
    namespace: str | None
    value: str
    verified: bool | None


@input_type(identity_pb2.RegisterConsumerRequest)
class RegisterConsumerInput:
    idempotency_key: str | None
    consumer_id: ID | None
    brand_id: ID
    identities: list[IdentityInput]
    display_name: str | None
    sizes: list[AttributeInput] | None
    preferences: list[AttributeInput] | None
    store_id: ID | None


@object_type(identity_pb2.RegisterConsumerResponse)
class RegisterConsumerPayload:
    consumer_id: ID
    created: bool
    consumer: Consumer | None = reference(by="consumer_id", loader=consumer_by_id)


@input_type(identity_pb2.AddIdentityRequest)
class AddIdentityInput:
    idempotency_key: str | None
    consumer_id: ID
    brand_id: ID
    identity: IdentityInput


@object_type(identity_pb2.AddIdentityResponse)
class AddIdentityPayload:
    identity_id: ID
    created: bool


@input_type(identity_pb2.LinkConsumersRequest)
class LinkConsumersInput:
    idempotency_key: str | None
    consumer_id: ID
    linked_consumer_id: ID
    evidence: list[IdentityKind]
    note: str | None


@object_type(identity_pb2.LinkConsumersResponse)
class LinkConsumersPayload:
    link_id: ID
    consumer: Consumer | None = reference(by="consumer_id", loader=consumer_by_id)


@input_type(identity_pb2.UnlinkConsumersRequest)
class UnlinkConsumersInput:
    idempotency_key: str | None
    consumer_id: ID
    linked_consumer_id: ID
    note: str | None


@object_type(identity_pb2.UnlinkConsumersResponse)
class UnlinkConsumersPayload:
    consumer: Consumer | None = reference(by="consumer_id", loader=consumer_by_id)
    linked_consumer: Consumer | None = reference(by="linked_consumer_id", loader=consumer_by_id)


class Mutations:
    register_consumer: RegisterConsumerPayload | None = mutation_field(RegisterConsumerInput)
    add_identity: AddIdentityPayload | None = mutation_field(AddIdentityInput)
    link_consumers: LinkConsumersPayload | None = mutation_field(LinkConsumersInput)
    unlink_consumers: UnlinkConsumersPayload | None = mutation_field(UnlinkConsumersInput)
