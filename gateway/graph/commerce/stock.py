"""Schema of stock: the stock of stores and warehouses, and the holds on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batch_loaders import (
    brand_by_id,
    consumer_by_id,
    hold_by_id,
    offer_by_id,
    order_by_id,
    stock_by_id,
    store_by_id,
    variant_by_id,
)
from gateway.schema.connections import connection_type
from gateway.schema.inputs import input_field, input_type
from gateway.schema.nodes import node_field
from gateway.schema.references import reference
from gateway.schema.rpc_fields import connection_field, mutation_field
from gateway.schema.types import Node, enum_type, object_type
from quanyu.commerce.v1 import stock_pb2

if TYPE_CHECKING:
    from gateway.graph.commerce.catalog import Offer, Variant
    from gateway.graph.commerce.orders import Order
    from gateway.graph.common import Attribute, Money, Point, Text
    from gateway.graph.member.identity import Consumer
    from gateway.graph.organization.chart import Brand, Store
    from gateway.schema.scalars import DateTime, Long


@enum_type(stock_pb2.Method)
class FulfilmentMethod: ...


@enum_type(stock_pb2.Availability)
class Availability: ...


@enum_type(stock_pb2.HoldState)
class HoldState: ...


@object_type(stock_pb2.Promise)
class Promise:
    variant_id: ID
    store_id: ID
    store_name: str
    store_position: Point | None
    method: FulfilmentMethod
    distance_metres: int
    ready_at: DateTime | None
    arrives_at: DateTime | None
    open_until: DateTime | None
    price: Money | None
    availability: Availability | None
    name: Text | None
    attributes: list[Attribute]
    variant: Variant | None = reference(by="variant_id", loader=variant_by_id)
    offer: Offer | None = reference(by="offer_id", loader=offer_by_id)
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)
    store: Store | None = reference(by="store_id", loader=store_by_id)


@object_type(stock_pb2.Stock)
class Stock:
    id: ID
    on_hand: Long
    reserved: Long
    safety: Long
    available: Long
    store: Store | None = reference(by="store_id", loader=store_by_id)
    variant: Variant | None = reference(by="variant_id", loader=variant_by_id)
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)
    seller: Brand | None = reference(by="seller_id", loader=brand_by_id)


@object_type(stock_pb2.Hold, node="hld_", loader=hold_by_id)
class Hold(Node):
    id: ID
    quantity: Long
    state: HoldState
    held_at: DateTime | None
    expires_at: DateTime | None
    needed_by: DateTime | None
    promise: Promise | None
    store: Store | None = reference(by="store_id", loader=store_by_id)
    seller: Brand | None = reference(by="seller_id", loader=brand_by_id)
    variant: Variant | None = reference(by="variant_id", loader=variant_by_id)
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)
    consumer: Consumer | None = reference(by="consumer_id", loader=consumer_by_id)
    order: Order | None = reference(by="order_id", loader=order_by_id)


@connection_type(stock_pb2.ListStocksResponse, stock_pb2.StocksOfOne, items="stocks")
class StockConnection:
    nodes: list[Stock]


@connection_type(stock_pb2.ListHoldsResponse, stock_pb2.HoldsOfOne, items="holds")
class HoldConnection:
    nodes: list[Hold]


@input_type(stock_pb2.ListStocksRequest)
class StocksOf:
    store_id: ID | None
    variant_id: ID | None


class Queries:
    hold: Hold | None = node_field(hold_by_id)
    stock: Stock | None = node_field(stock_by_id)
    stocks: StockConnection | None = connection_field(stock_pb2.ListStocksRequest, arguments=StocksOf)


@input_type(stock_pb2.SetStockRequest)
class SetStockInput:
    idempotency_key: str
    store_id: ID
    variant_id: ID
    on_hand: Long
    safety: Long | None


@object_type(stock_pb2.SetStockResponse)
class SetStockPayload:
    stock: Stock


@input_type(stock_pb2.AdjustStockRequest)
class AdjustStockInput:
    idempotency_key: str
    store_id: ID
    variant_id: ID
    change: Long


@object_type(stock_pb2.AdjustStockResponse)
class AdjustStockPayload:
    stock: Stock


@input_type(stock_pb2.HoldStockRequest)
class HoldStockInput:
    idempotency_key: str
    store_id: ID
    variant_id: ID
    quantity: Long
    consumer_id: ID | None = input_field(session_default="consumer_id")
    needed_by: DateTime | None


@object_type(stock_pb2.HoldStockResponse)
class HoldStockPayload:
    hold: Hold


@input_type(stock_pb2.ReleaseHoldRequest)
class ReleaseHoldInput:
    idempotency_key: str
    hold_id: ID


@object_type(stock_pb2.ReleaseHoldResponse)
class ReleaseHoldPayload:
    hold: Hold


class Mutations:
    set_stock: SetStockPayload | None = mutation_field(SetStockInput)
    adjust_stock: AdjustStockPayload | None = mutation_field(AdjustStockInput)
    hold_stock: HoldStockPayload | None = mutation_field(HoldStockInput)
    release_hold: ReleaseHoldPayload | None = mutation_field(ReleaseHoldInput)
