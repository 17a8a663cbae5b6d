"""Schema of packs: coupons of several brands in one bundle, each with the reason for its choice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batch_loaders import brand_by_id, campaign_by_id, consumer_by_id, coupon_by_id, district_by_id, pack_by_id, visit_by_id
from gateway.graph.common import bilingual_field
from gateway.schema.connections import connection_type
from gateway.schema.inputs import input_field, input_type
from gateway.schema.nodes import node_field
from gateway.schema.references import reference
from gateway.schema.rpc_fields import mutation_field
from gateway.schema.types import Node, enum_type, object_type
from quanyu.district.v1 import packs_pb2

if TYPE_CHECKING:
    from gateway.graph.common import Money, Text
    from gateway.graph.district.campaigns import Campaign
    from gateway.graph.district.places import District, Visit
    from gateway.graph.district.wallet import Coupon
    from gateway.graph.member.identity import Consumer
    from gateway.graph.organization.chart import Brand
    from gateway.schema.scalars import DateTime, Long


@enum_type(packs_pb2.PickKind)
class PickKind: ...


@enum_type(packs_pb2.DeclineReason)
class DeclineReason: ...


@object_type(packs_pb2.PickReason)
class PickReason:
    kind: PickKind
    purchase_count: Long
    last_purchase_at: DateTime | None
    decayed_frequency: float


@object_type(packs_pb2.PackEntry)
class PackEntry:
    coupon_id: ID
    name: Text = bilingual_field("The name of the coupon.")
    value: Money | None
    minimum_spend: Money | None
    expires_at: DateTime | None
    reason: PickReason | None
    coupon: Coupon | None = reference(by="coupon_id", loader=coupon_by_id)
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)
    campaign: Campaign | None = reference(by="campaign_id", loader=campaign_by_id)


@object_type(packs_pb2.Declined)
class Declined:
    reason: DeclineReason
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)


@object_type(packs_pb2.Pack, node="pck_", loader=pack_by_id)
class Pack(Node):
    id: ID
    day: str
    issued_at: DateTime | None
    entries: list[PackEntry]
    declined: list[Declined]
    consumer: Consumer | None = reference(by="consumer_id", loader=consumer_by_id)
    district: District | None = reference(by="district_id", loader=district_by_id)
    visit: Visit | None = reference(by="visit_id", loader=visit_by_id)


@connection_type(packs_pb2.ListPacksResponse, items="packs")
class PackConnection:
    nodes: list[Pack]


class Queries:
    pack: Pack | None = node_field(pack_by_id)


@input_type(packs_pb2.ClaimPackRequest)
class ClaimPackInput:
    idempotency_key: str
    consumer_id: ID | None = input_field(session_default="consumer_id")
    visit_id: ID


@object_type(packs_pb2.ClaimPackResponse)
class ClaimPackPayload:
    pack: Pack


class Mutations:
    claim_pack: ClaimPackPayload | None = mutation_field(ClaimPackInput)
