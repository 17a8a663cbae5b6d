"""Schema of places: districts, their venues, and the visits of consumers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batch_loaders import (
    brand_by_id,
    campaigns_of_district,
    consumer_by_id,
    district_by_id,
    store_by_id,
    venue_by_id,
    venues_of_district,
    visit_by_id,
)
from gateway.graph.common import bilingual_field
from gateway.graph.district.campaigns import CampaignFilter
from gateway.schema.connections import connection_type
from gateway.schema.inputs import input_field, input_type
from gateway.schema.nodes import node_field
from gateway.schema.references import reference
from gateway.schema.rpc_fields import connection_field, mutation_field
from gateway.schema.types import Node, enum_type, object_type
from quanyu.district.v1 import campaigns_pb2, places_pb2

if TYPE_CHECKING:
    from gateway.graph.common import Point, PointInput, Text, Touchpoint
    from gateway.graph.district.campaigns import CampaignConnection
    from gateway.graph.member.identity import Consumer
    from gateway.graph.organization.chart import Brand, Store
    from gateway.schema.scalars import DateTime


@enum_type(places_pb2.VenueKind)
class VenueKind: ...


@enum_type(places_pb2.VisitState)
class VisitState: ...


@object_type(places_pb2.Geofence)
class Geofence:
    corners: list[Point]
    radius_metres: int


@input_type(places_pb2.ListVenuesRequest)
class VenueFilter:
    kinds: list[VenueKind] | None


@object_type(places_pb2.District, node="dst_", loader=district_by_id)
class District(Node):
    id: ID
    name: Text = bilingual_field("The name.")
    position: Point | None
    zone: str
    geofence: Geofence | None
    venues: VenueConnection | None = connection_field(
        places_pb2.ListVenuesRequest, by={"district_id": "id"}, arguments=VenueFilter, loader=venues_of_district
    )
    campaigns: CampaignConnection | None = connection_field(
        campaigns_pb2.ListCampaignsRequest, by={"district_id": "id"}, arguments=CampaignFilter, loader=campaigns_of_district
    )


@object_type(places_pb2.Venue, node="ven_", loader=venue_by_id)
class Venue(Node):
    id: ID
    kind: VenueKind
    name: Text = bilingual_field("The name.")
    position: Point | None
    district: District | None = reference(by="district_id", loader=district_by_id)
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)
    store: Store | None = reference(by="store_id", loader=store_by_id)


@object_type(places_pb2.Visit, node="vis_", loader=visit_by_id)
class Visit(Node):
    id: ID
    day: str
    state: VisitState
    touchpoint: Touchpoint | None
    entered_at: DateTime | None
    left_at: DateTime | None
    consumer: Consumer | None = reference(by="consumer_id", loader=consumer_by_id)
    district: District | None = reference(by="district_id", loader=district_by_id)


@connection_type(places_pb2.ListDistrictsResponse, items="districts")
class DistrictConnection:
    nodes: list[District]


@connection_type(places_pb2.ListVenuesResponse, items="venues")
class VenueConnection:
    nodes: list[Venue]


class Queries:
    district: District | None = node_field(district_by_id)
    districts: DistrictConnection | None = connection_field(places_pb2.ListDistrictsRequest)
    venue: Venue | None = node_field(venue_by_id)
    visit: Visit | None = node_field(visit_by_id)


@input_type(places_pb2.EnterDistrictRequest)
class EnterDistrictInput:
    idempotency_key: str | None
    consumer_id: ID | None = input_field(session_default="consumer_id")
    district_id: ID
    touchpoint: Touchpoint
    position: PointInput | None


@object_type(places_pb2.EnterDistrictResponse)
class EnterDistrictPayload:
    visit: Visit


@input_type(places_pb2.LeaveDistrictRequest)
class LeaveDistrictInput:
    idempotency_key: str | None
    visit_id: ID


@object_type(places_pb2.LeaveDistrictResponse)
class LeaveDistrictPayload:
    visit: Visit


@input_type(places_pb2.Geofence)
class GeofenceInput:
    corners: list[PointInput] | None
    radius_metres: int | None


@input_type(places_pb2.CreateDistrictRequest)
class CreateDistrictInput:
    idempotency_key: str | None
    id: ID | None
    name: str
    name_en: str | None
    position: PointInput
    zone: str
    geofence: GeofenceInput


@object_type(places_pb2.CreateDistrictResponse)
class CreateDistrictPayload:
    district: District


@input_type(places_pb2.NewVenue)
class NewVenueInput:
    id: ID | None
    kind: VenueKind
    name: str
    name_en: str | None
    position: PointInput
    brand_id: ID | None
    store_id: ID | None


@input_type(places_pb2.CreateVenueRequest)
class CreateVenueInput:
    idempotency_key: str | None
    district_id: ID
    venue: NewVenueInput


@object_type(places_pb2.CreateVenueResponse)
class CreateVenuePayload:
    venue: Venue


class Mutations:
    enter_district: EnterDistrictPayload | None = mutation_field(EnterDistrictInput)
    leave_district: LeaveDistrictPayload | None = mutation_field(LeaveDistrictInput)
    create_district: CreateDistrictPayload | None = mutation_field(CreateDistrictInput)
    create_venue: CreateVenuePayload | None = mutation_field(CreateVenueInput)
