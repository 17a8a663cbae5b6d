"""Discovery: what of this kind can be in my hands here, by when, from which store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batches import brand_by_id, offer_by_id, store_by_id, variant_by_id
from gateway.schema.inputs import form, part
from gateway.schema.references import edge
from gateway.schema.rpc_fields import ask, mutation
from gateway.schema.types import enumeration, view
from quanyu.commerce.v1 import discovery_pb2

if TYPE_CHECKING:
    from gateway.graph.commerce.catalog import Offer, Variant
    from gateway.graph.commerce.stock import FulfilmentMethod, Hold, Promise
    from gateway.graph.common import Attribute, AttributeInput, Point, PointInput, Text
    from gateway.graph.organization.chart import Brand, Store
    from gateway.schema.scalars import DateTime, Long


@enumeration(discovery_pb2.Obstacle)
class Obstacle: ...


@view(discovery_pb2.Unavailable)
class Unavailable:
    variant_id: ID
    store_id: ID
    store_name: str
    store_position: Point | None
    distance_metres: int
    obstacle: Obstacle
    until: DateTime | None
    name: Text | None
    attributes: list[Attribute]
    variant: Variant | None = edge(by="variant_id", through=variant_by_id)
    offer: Offer | None = edge(by="offer_id", through=offer_by_id)
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)
    store: Store | None = edge(by="store_id", through=store_by_id)


@view(discovery_pb2.SearchPromisesResponse)
class Promises:
    promises: list[Promise]
    unavailable: list[Unavailable]


@form(discovery_pb2.SearchPromisesRequest)
class PromiseSearch:
    near: PointInput
    text: str | None
    attributes: list[AttributeInput] | None
    needed_by: DateTime | None
    methods: list[FulfilmentMethod] | None
    radius_metres_max: int | None
    first: int | None


class Queries:
    promises: Promises | None = ask(discovery_pb2.SearchPromisesRequest, arguments=PromiseSearch)


@form(discovery_pb2.HoldPromiseRequest)
class HoldPromiseInput:
    idempotency_key: str
    consumer_id: ID | None = part(mine="consumer_id")
    variant_id: ID
    store_id: ID
    quantity: Long | None
    method: FulfilmentMethod
    destination: PointInput
    needed_by: DateTime | None


@view(discovery_pb2.HoldPromiseResponse)
class HoldPromisePayload:
    hold: Hold


class Mutations:
    hold_promise: HoldPromisePayload | None = mutation(HoldPromiseInput)
