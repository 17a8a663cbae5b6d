"""Schema of the wallet: the coupons of consumers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batch_loaders import brand_by_id, campaign_by_id, consumer_by_id, coupon_by_id, district_by_id, order_by_id, pack_by_id
from gateway.graph.common import bilingual_field
from gateway.schema.connections import connection_type
from gateway.schema.inputs import input_type
from gateway.schema.nodes import node_field
from gateway.schema.references import reference
from gateway.schema.types import Node, enum_type, object_type
from quanyu.district.v1 import wallet_pb2

if TYPE_CHECKING:
    from gateway.graph.commerce.orders import Order
    from gateway.graph.common import Money, Text
    from gateway.graph.district.campaigns import Campaign
    from gateway.graph.district.packs import Pack
    from gateway.graph.district.places import District
    from gateway.graph.member.identity import Consumer
    from gateway.graph.organization.chart import Brand
    from gateway.schema.scalars import DateTime, Long


@enum_type(wallet_pb2.CouponState)
class CouponState: ...


@object_type(wallet_pb2.Coupon, node="cpn_", loader=coupon_by_id)
class Coupon(Node):
    id: ID
    name: Text = bilingual_field("The name.")
    value: Money | None
    minimum_spend: Money | None
    state: CouponState
    issued_at: DateTime | None
    expires_at: DateTime | None
    locked_at: DateTime | None
    redeemed_at: DateTime | None
    rollback_count: Long
    consumer: Consumer | None = reference(by="consumer_id", loader=consumer_by_id)
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)
    campaign: Campaign | None = reference(by="campaign_id", loader=campaign_by_id)
    district: District | None = reference(by="district_id", loader=district_by_id)
    pack: Pack | None = reference(by="pack_id", loader=pack_by_id)
    order: Order | None = reference(by="order_id", loader=order_by_id)


@connection_type(wallet_pb2.ListCouponsResponse, items="coupons")
class CouponConnection:
    nodes: list[Coupon]


@input_type(wallet_pb2.ListCouponsRequest)
class CouponFilter:
    state: CouponState | None


class Queries:
    coupon: Coupon | None = node_field(coupon_by_id)
