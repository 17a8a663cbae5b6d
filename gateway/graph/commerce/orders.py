"""Orders: from goods and coupons to a paid order, exactly once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batches import (
    brand_by_id,
    consumer_by_id,
    coupon_by_id,
    credit_by_order,
    destination_of_order,
    hold_by_id,
    offer_by_id,
    order_by_id,
    store_by_id,
    variant_by_id,
)
from gateway.schema.connections import connection
from gateway.schema.inputs import form, part
from gateway.schema.nodes import by_id
from gateway.schema.references import edge
from gateway.schema.rpc_fields import mutation, page
from gateway.schema.subscription_fields import follow
from gateway.schema.types import Node, enumeration, view
from quanyu.commerce.v1 import orders_pb2

if TYPE_CHECKING:
    from gateway.graph.commerce.catalog import Offer, Variant
    from gateway.graph.commerce.stock import FulfilmentMethod, Hold
    from gateway.graph.common import Money, Point, PointInput, Scenario, Touchpoint
    from gateway.graph.district.wallet import Coupon
    from gateway.graph.member.identity import Consumer
    from gateway.graph.organization.chart import Brand, Store
    from gateway.graph.organization.targets import Credit
    from gateway.schema.scalars import DateTime, Long


@enumeration(orders_pb2.OrderState)
class OrderState: ...


@enumeration(orders_pb2.CancelReason)
class CancelReason: ...


@enumeration(orders_pb2.PaymentMethod)
class PaymentMethod: ...


@view(orders_pb2.Payment)
class Payment:
    id: ID
    method: PaymentMethod
    amount: Money | None
    approved_at: DateTime | None


@view(orders_pb2.ScenarioBasis)
class ScenarioBasis:
    rules_version: Long
    rule: str
    evidence_id: ID | None
    evidence_at: DateTime | None


@view(orders_pb2.OrderLine)
class OrderLine:
    quantity: Long
    price: Money | None
    amount: Money | None
    discount: Money | None
    paid: Money | None
    variant: Variant | None = edge(by="variant_id", through=variant_by_id)
    offer: Offer | None = edge(by="offer_id", through=offer_by_id)
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)
    hold: Hold | None = edge(by="hold_id", through=hold_by_id)


@view(orders_pb2.AppliedCoupon)
class AppliedCoupon:
    discount: Money | None
    coupon: Coupon | None = edge(by="coupon_id", through=coupon_by_id)
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)


@view(orders_pb2.Destination)
class Destination:
    address: str | None
    recipient: str | None
    phone: str | None
    position: Point | None


@view(orders_pb2.Order, node="ord_", through=order_by_id)
class Order(Node):
    id: ID
    state: OrderState
    touchpoint: Touchpoint | None
    scenario: Scenario | None
    scenario_basis: ScenarioBasis | None
    method: FulfilmentMethod | None
    needed_by: DateTime | None
    arrives_at: DateTime | None
    placed_at: DateTime | None
    pay_by: DateTime | None
    paid_at: DateTime | None
    cancelled_at: DateTime | None
    cancel_reason: CancelReason | None
    lines: list[OrderLine]
    coupons: list[AppliedCoupon]
    amount: Money | None
    discount: Money | None
    total: Money | None
    payment: Payment | None
    partial: bool
    consumer: Consumer | None = edge(by="consumer_id", through=consumer_by_id)
    store: Store | None = edge(by="store_id", through=store_by_id)
    seller: Brand | None = edge(by="seller_id", through=brand_by_id)
    credit: Credit | None = edge(by="id", through=credit_by_order, description="To whom it is credited, once; null until it is paid.")
    destination: Destination | None = edge(
        by="id",
        through=destination_of_order,
        description="Where it goes: for the consumer and for those who hand it over in the store; null when it is not delivered.",
    )


@connection(orders_pb2.ListOrdersResponse, orders_pb2.OrdersOfOne, items="orders")
class OrderConnection:
    nodes: list[Order]


@form(orders_pb2.ListOrdersRequest)
class OrdersOf:
    consumer_id: ID | None
    store_id: ID | None
    brand_id: ID | None


class Queries:
    order: Order | None = by_id(order_by_id)
    orders: OrderConnection | None = page(orders_pb2.ListOrdersRequest, arguments=OrdersOf)


@form(orders_pb2.WatchOrderRequest)
class WatchedOrder:
    order_id: ID
    after: str | None


@view(orders_pb2.WatchOrderResponse)
class OrderEvent:
    order: Order
    cursor: str


class Subscriptions:
    order_changed: OrderEvent = follow(orders_pb2.WatchOrderRequest, arguments=WatchedOrder)


@form(orders_pb2.NewLine)
class NewLineInput:
    variant_id: ID
    quantity: Long


@form(orders_pb2.Destination)
class DestinationInput:
    address: str
    recipient: str | None
    phone: str | None
    position: PointInput | None


@form(orders_pb2.PlaceOrderRequest)
class PlaceOrderInput:
    idempotency_key: str
    consumer_id: ID | None = part(mine="consumer_id")
    hold_ids: list[ID] | None
    store_id: ID | None
    lines: list[NewLineInput] | None
    coupon_ids: list[ID] | None
    touchpoint: Touchpoint
    method: FulfilmentMethod | None
    needed_by: DateTime | None
    destination: DestinationInput | None
    scenario_hint: Scenario | None


@view(orders_pb2.PlaceOrderResponse)
class PlaceOrderPayload:
    order: Order


@form(orders_pb2.PayOrderRequest)
class PayOrderInput:
    idempotency_key: str
    order_id: ID
    method: PaymentMethod
    sandbox_token: str | None


@view(orders_pb2.PayOrderResponse)
class PayOrderPayload:
    order: Order


@form(orders_pb2.CancelOrderRequest)
class CancelOrderInput:
    idempotency_key: str
    order_id: ID


@view(orders_pb2.CancelOrderResponse)
class CancelOrderPayload:
    order: Order


class Mutations:
    place_order: PlaceOrderPayload | None = mutation(PlaceOrderInput)
    pay_order: PayOrderPayload | None = mutation(PayOrderInput)
    cancel_order: CancelOrderPayload | None = mutation(CancelOrderInput)
