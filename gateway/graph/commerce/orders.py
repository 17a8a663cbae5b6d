"""Schema of orders: from held goods and coupons to a paid order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batch_loaders import (
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
from gateway.schema.connections import connection_type
from gateway.schema.inputs import input_field, input_type
from gateway.schema.nodes import node_field
from gateway.schema.references import reference
from gateway.schema.rpc_fields import connection_field, mutation_field
from gateway.schema.subscription_fields import subscription_field
from gateway.schema.types import Node, enum_type, object_type
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


@enum_type(orders_pb2.OrderState)
class OrderState: ...


@enum_type(orders_pb2.CancelReason)
class CancelReason: ...


@enum_type(orders_pb2.PaymentMethod)
class PaymentMethod: ...


@object_type(orders_pb2.Payment)
class Payment:
    id: ID
    method: PaymentMethod
    amount: Money | None
    approved_at: DateTime | None


@object_type(orders_pb2.ScenarioBasis)
class ScenarioBasis:
    rules_version: Long
    rule: str
    evidence_id: ID | None
    evidence_at: DateTime | None


@object_type(orders_pb2.OrderLine)
class OrderLine:
    quantity: Long
    price: Money | None
    amount: Money | None
    discount: Money | None
    paid: Money | None
    variant: Variant | None = reference(by="variant_id", loader=variant_by_id)
    offer: Offer | None = reference(by="offer_id", loader=offer_by_id)
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)
    hold: Hold | None = reference(by="hold_id", loader=hold_by_id)


@object_type(orders_pb2.AppliedCoupon)
class AppliedCoupon:
    discount: Money | None
    coupon: Coupon | None = reference(by="coupon_id", loader=coupon_by_id)
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)


@object_type(orders_pb2.Destination)
class Destination:
    address: str | None
    recipient: str | None
    phone: str | None
    position: Point | None


@object_type(orders_pb2.Order, node="ord_", loader=order_by_id)
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
    consumer: Consumer | None = reference(by="consumer_id", loader=consumer_by_id)
    store: Store | None = reference(by="store_id", loader=store_by_id)
    seller: Brand | None = reference(by="seller_id", loader=brand_by_id)
    credit: Credit | None = reference(
        by="id", loader=credit_by_order, description="The credit of the order, decided once. Null until the order is paid."
    )
    destination: Destination | None = reference(
        by="id",
        loader=destination_of_order,
        description="The delivery address, for the consumer and for the staff who hand the order over. Null if it is not delivered.",
    )


@connection_type(orders_pb2.ListOrdersResponse, orders_pb2.OrdersOfOne, items="orders")
class OrderConnection:
    nodes: list[Order]


@input_type(orders_pb2.ListOrdersRequest)
class OrdersOf:
    consumer_id: ID | None
    store_id: ID | None
    brand_id: ID | None


class Queries:
    order: Order | None = node_field(order_by_id)
    orders: OrderConnection | None = connection_field(orders_pb2.ListOrdersRequest, arguments=OrdersOf)


@input_type(orders_pb2.WatchOrderRequest)
class WatchedOrder:
    order_id: ID
    after: str | None


@object_type(orders_pb2.WatchOrderResponse)
class OrderEvent:
    order: Order
    cursor: str


class Subscriptions:
    order_changed: OrderEvent = subscription_field(orders_pb2.WatchOrderRequest, arguments=WatchedOrder)


@input_type(orders_pb2.NewLine)
class NewLineInput:
    variant_id: ID
    quantity: Long


@input_type(orders_pb2.Destination)
class DestinationInput:
    address: str
    recipient: str | None
    phone: str | None
    position: PointInput | None


@input_type(orders_pb2.PlaceOrderRequest)
class PlaceOrderInput:
    idempotency_key: str
    consumer_id: ID | None = input_field(session_default="consumer_id")
    hold_ids: list[ID] | None
    store_id: ID | None
    lines: list[NewLineInput] | None
    coupon_ids: list[ID] | None
    touchpoint: Touchpoint
    method: FulfilmentMethod | None
    needed_by: DateTime | None
    destination: DestinationInput | None
    scenario_hint: Scenario | None


@object_type(orders_pb2.PlaceOrderResponse)
class PlaceOrderPayload:
    order: Order


@input_type(orders_pb2.PayOrderRequest)
class PayOrderInput:
    idempotency_key: str
    order_id: ID
    method: PaymentMethod
    sandbox_token: str | None


@object_type(orders_pb2.PayOrderResponse)
class PayOrderPayload:
    order: Order


@input_type(orders_pb2.CancelOrderRequest)
class CancelOrderInput:
    idempotency_key: str
    order_id: ID


@object_type(orders_pb2.CancelOrderResponse)
class CancelOrderPayload:
    order: Order


class Mutations:
    place_order: PlaceOrderPayload | None = mutation_field(PlaceOrderInput)
    pay_order: PayOrderPayload | None = mutation_field(PayOrderInput)
    cancel_order: CancelOrderPayload | None = mutation_field(CancelOrderInput)
