"""Packs: coupons of several brands in one bundle, each with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batches import brand_by_id, campaign_by_id, consumer_by_id, coupon_by_id, district_by_id, pack_by_id, visit_by_id
from gateway.graph.common import bilingual
from gateway.schema.connections import connection
from gateway.schema.inputs import form, part
from gateway.schema.nodes import by_id
from gateway.schema.references import edge
from gateway.schema.rpc_fields import mutation
from gateway.schema.types import Node, enumeration, view
from quanyu.district.v1 import packs_pb2

if TYPE_CHECKING:
    from gateway.graph.common import Money, Text
    from gateway.graph.district.campaigns import Campaign
    from gateway.graph.district.places import District, Visit
    from gateway.graph.district.wallet import Coupon
    from gateway.graph.member.identity import Consumer
    from gateway.graph.organization.chart import Brand
    from gateway.schema.scalars import DateTime, Long


@enumeration(packs_pb2.PickKind)
class PickKind: ...


@enumeration(packs_pb2.DeclineReason)
class DeclineReason: ...


@view(packs_pb2.PickReason)
class PickReason:
    kind: PickKind
    purchase_count: Long
    last_purchase_at: DateTime | None
    decayed_frequency: float


@view(packs_pb2.PackEntry)
class PackEntry:
    coupon_id: ID
    name: Text = bilingual("What the coupon is called.")
    value: Money | None
    minimum_spend: Money | None
    expires_at: DateTime | None
    reason: PickReason | None
    coupon: Coupon | None = edge(by="coupon_id", through=coupon_by_id)
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)
    campaign: Campaign | None = edge(by="campaign_id", through=campaign_by_id)


@view(packs_pb2.Declined)
class Declined:
    reason: DeclineReason
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)


@view(packs_pb2.Pack, node="pck_", through=pack_by_id)
class Pack(Node):
    id: ID
    day: str
    issued_at: DateTime | None
    entries: list[PackEntry]
    declined: list[Declined]
    consumer: Consumer | None = edge(by="consumer_id", through=consumer_by_id)
    district: District | None = edge(by="district_id", through=district_by_id)
    visit: Visit | None = edge(by="visit_id", through=visit_by_id)


@connection(packs_pb2.ListPacksResponse, items="packs")
class PackConnection:
    nodes: list[Pack]


class Queries:
    pack: Pack | None = by_id(pack_by_id)


@form(packs_pb2.ClaimPackRequest)
class ClaimPackInput:
    idempotency_key: str
    consumer_id: ID | None = part(mine="consumer_id")
    visit_id: ID


@view(packs_pb2.ClaimPackResponse)
class ClaimPackPayload:
    pack: Pack


class Mutations:
    claim_pack: ClaimPackPayload | None = mutation(ClaimPackInput)
