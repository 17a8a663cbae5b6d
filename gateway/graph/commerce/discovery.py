"""Schema of discovery: the promises that stores can keep for a consumer's place and time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batch_loaders import brand_by_id, offer_by_id, store_by_id, variant_by_id
from gateway.schema.inputs import input_field, input_type
from gateway.schema.references import reference
from gateway.schema.rpc_fields import mutation_field, rpc_field
from gateway.schema.types import enum_type, object_type
from quanyu.commerce.v1 import discovery_pb2

if TYPE_CHECKING:
    from gateway.graph.commerce.catalog import Offer, Variant
    from gateway.graph.commerce.stock import FulfilmentMethod, Hold, Promise
    from gateway.graph.common import Attribute, AttributeInput, Point, PointInput, Text
    from gateway.graph.organization.chart import Brand, Store
    from gateway.schema.scalars import DateTime, Long


@enum_type(discovery_pb2.Obstacle)
class Obstacle: ...


@object_type(discovery_pb2.Unavailable)
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
    variant: Variant | None = reference(by="variant_id", loader=variant_by_id)
    offer: Offer | None = reference(by="offer_id", loader=offer_by_id)
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)
    store: Store | None = reference(by="store_id", loader=store_by_id)


@object_type(discovery_pb2.SearchPromisesResponse)
class Promises:
    promises: list[Promise]
    unavailable: list[Unavailable]


@input_type(discovery_pb2.SearchPromisesRequest)
class PromiseSearch:
    near: PointInput
    text: str | None
    attributes: list[AttributeInput] | None
    needed_by: DateTime | None
    methods: list[FulfilmentMethod] | None
    radius_metres_max: int | None
    first: int | None


class Queries:
    promises: Promises | None = rpc_field(discovery_pb2.SearchPromisesRequest, arguments=PromiseSearch)


@input_type(discovery_pb2.HoldPromiseRequest)
class HoldPromiseInput:
    idempotency_key: str
    consumer_id: ID | None = input_field(session_default="consumer_id")
    variant_id: ID
    store_id: ID
    quantity: Long | None
    method: FulfilmentMethod
    destination: PointInput
    needed_by: DateTime | None


@object_type(discovery_pb2.HoldPromiseResponse)
class HoldPromisePayload:
    hold: Hold


class Mutations:
    hold_promise: HoldPromisePayload | None = mutation_field(HoldPromiseInput)
