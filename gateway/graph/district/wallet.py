"""Coupons that consumers hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batches import brand_by_id, campaign_by_id, consumer_by_id, coupon_by_id, district_by_id, order_by_id, pack_by_id
from gateway.graph.common import bilingual
from gateway.schema.connections import connection
from gateway.schema.inputs import form
from gateway.schema.nodes import by_id
from gateway.schema.references import edge
from gateway.schema.types import Node, enumeration, view
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


@enumeration(wallet_pb2.CouponState)
class CouponState: ...


@view(wallet_pb2.Coupon, node="cpn_", through=coupon_by_id)
class Coupon(Node):
    id: ID
    name: Text = bilingual("What it is called.")
    value: Money | None
    minimum_spend: Money | None
    state: CouponState
    issued_at: DateTime | None
    expires_at: DateTime | None
    locked_at: DateTime | None
    redeemed_at: DateTime | None
    rollback_count: Long
    consumer: Consumer | None = edge(by="consumer_id", through=consumer_by_id)
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)
    campaign: Campaign | None = edge(by="campaign_id", through=campaign_by_id)
    district: District | None = edge(by="district_id", through=district_by_id)
    pack: Pack | None = edge(by="pack_id", through=pack_by_id)
    order: Order | None = edge(by="order_id", through=order_by_id)


@connection(wallet_pb2.ListCouponsResponse, items="coupons")
class CouponConnection:
    nodes: list[Coupon]


@form(wallet_pb2.ListCouponsRequest)
class CouponFilter:
    state: CouponState | None


class Queries:
    coupon: Coupon | None = by_id(coupon_by_id)
