"""Stock of every store and warehouse, and the holds on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batches import brand_by_id, consumer_by_id, hold_by_id, offer_by_id, order_by_id, stock_by_id, store_by_id, variant_by_id
from gateway.schema.connections import connection
from gateway.schema.inputs import form, part
from gateway.schema.nodes import by_id
from gateway.schema.references import edge
from gateway.schema.rpc_fields import mutation, page
from gateway.schema.types import Node, enumeration, view
from quanyu.commerce.v1 import stock_pb2

if TYPE_CHECKING:
    from gateway.graph.commerce.catalog import Offer, Variant
    from gateway.graph.commerce.orders import Order
    from gateway.graph.common import Attribute, Money, Point, Text
    from gateway.graph.member.identity import Consumer
    from gateway.graph.organization.chart import Brand, Store
    from gateway.schema.scalars import DateTime, Long


@enumeration(stock_pb2.Method)
class FulfilmentMethod: ...


@enumeration(stock_pb2.Availability)
class Availability: ...


@enumeration(stock_pb2.HoldState)
class HoldState: ...


@view(stock_pb2.Promise)
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
    variant: Variant | None = edge(by="variant_id", through=variant_by_id)
    offer: Offer | None = edge(by="offer_id", through=offer_by_id)
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)
    store: Store | None = edge(by="store_id", through=store_by_id)


@view(stock_pb2.Stock)
class Stock:
    id: ID
    on_hand: Long
    reserved: Long
    safety: Long
    available: Long
    store: Store | None = edge(by="store_id", through=store_by_id)
    variant: Variant | None = edge(by="variant_id", through=variant_by_id)
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)
    seller: Brand | None = edge(by="seller_id", through=brand_by_id)


@view(stock_pb2.Hold, node="hld_", through=hold_by_id)
class Hold(Node):
    id: ID
    quantity: Long
    state: HoldState
    held_at: DateTime | None
    expires_at: DateTime | None
    needed_by: DateTime | None
    promise: Promise | None
    store: Store | None = edge(by="store_id", through=store_by_id)
    seller: Brand | None = edge(by="seller_id", through=brand_by_id)
    variant: Variant | None = edge(by="variant_id", through=variant_by_id)
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)
    consumer: Consumer | None = edge(by="consumer_id", through=consumer_by_id)
    order: Order | None = edge(by="order_id", through=order_by_id)


@connection(stock_pb2.ListStocksResponse, stock_pb2.StocksOfOne, items="stocks")
class StockConnection:
    nodes: list[Stock]


@connection(stock_pb2.ListHoldsResponse, stock_pb2.HoldsOfOne, items="holds")
class HoldConnection:
    nodes: list[Hold]


@form(stock_pb2.ListStocksRequest)
class StocksOf:
    store_id: ID | None
    variant_id: ID | None


class Queries:
    hold: Hold | None = by_id(hold_by_id)
    stock: Stock | None = by_id(stock_by_id)
    stocks: StockConnection | None = page(stock_pb2.ListStocksRequest, arguments=StocksOf)


@form(stock_pb2.SetStockRequest)
class SetStockInput:
    idempotency_key: str
    store_id: ID
    variant_id: ID
    on_hand: Long
    safety: Long | None


@view(stock_pb2.SetStockResponse)
class SetStockPayload:
    stock: Stock


@form(stock_pb2.AdjustStockRequest)
class AdjustStockInput:
    idempotency_key: str
    store_id: ID
    variant_id: ID
    change: Long


@view(stock_pb2.AdjustStockResponse)
class AdjustStockPayload:
    stock: Stock


@form(stock_pb2.HoldStockRequest)
class HoldStockInput:
    idempotency_key: str
    store_id: ID
    variant_id: ID
    quantity: Long
    consumer_id: ID | None = part(mine="consumer_id")
    needed_by: DateTime | None


@view(stock_pb2.HoldStockResponse)
class HoldStockPayload:
    hold: Hold


@form(stock_pb2.ReleaseHoldRequest)
class ReleaseHoldInput:
    idempotency_key: str
    hold_id: ID


@view(stock_pb2.ReleaseHoldResponse)
class ReleaseHoldPayload:
    hold: Hold


class Mutations:
    set_stock: SetStockPayload | None = mutation(SetStockInput)
    adjust_stock: AdjustStockPayload | None = mutation(AdjustStockInput)
    hold_stock: HoldStockPayload | None = mutation(HoldStockInput)
    release_hold: ReleaseHoldPayload | None = mutation(ReleaseHoldInput)
