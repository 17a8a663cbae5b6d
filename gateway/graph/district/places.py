"""Districts, the venues that stand in them, and consumers' visits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batches import (
    brand_by_id,
    campaigns_of_district,
    consumer_by_id,
    district_by_id,
    store_by_id,
    venue_by_id,
    venues_of_district,
    visit_by_id,
)
from gateway.graph.common import bilingual
from gateway.graph.district.campaigns import CampaignFilter
from gateway.schema.connections import connection
from gateway.schema.inputs import form, part
from gateway.schema.nodes import by_id
from gateway.schema.references import edge
from gateway.schema.rpc_fields import mutation, page
from gateway.schema.types import Node, enumeration, view
from quanyu.district.v1 import campaigns_pb2, places_pb2

if TYPE_CHECKING:
    from gateway.graph.common import Point, PointInput, Text, Touchpoint
    from gateway.graph.district.campaigns import CampaignConnection
    from gateway.graph.member.identity import Consumer
    from gateway.graph.organization.chart import Brand, Store
    from gateway.schema.scalars import DateTime


@enumeration(places_pb2.VenueKind)
class VenueKind: ...


@enumeration(places_pb2.VisitState)
class VisitState: ...


@view(places_pb2.Geofence)
class Geofence:
    corners: list[Point]
    radius_metres: int


@form(places_pb2.ListVenuesRequest)
class VenueFilter:
    kinds: list[VenueKind] | None


@view(places_pb2.District, node="dst_", through=district_by_id)
class District(Node):
    id: ID
    name: Text = bilingual("What it is called.")
    position: Point | None
    zone: str
    geofence: Geofence | None
    venues: VenueConnection | None = page(
        places_pb2.ListVenuesRequest, by={"district_id": "id"}, arguments=VenueFilter, first=venues_of_district
    )
    campaigns: CampaignConnection | None = page(
        campaigns_pb2.ListCampaignsRequest, by={"district_id": "id"}, arguments=CampaignFilter, first=campaigns_of_district
    )


@view(places_pb2.Venue, node="ven_", through=venue_by_id)
class Venue(Node):
    id: ID
    kind: VenueKind
    name: Text = bilingual("What it is called.")
    position: Point | None
    district: District | None = edge(by="district_id", through=district_by_id)
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)
    store: Store | None = edge(by="store_id", through=store_by_id)


@view(places_pb2.Visit, node="vis_", through=visit_by_id)
class Visit(Node):
    id: ID
    day: str
    state: VisitState
    touchpoint: Touchpoint | None
    entered_at: DateTime | None
    left_at: DateTime | None
    consumer: Consumer | None = edge(by="consumer_id", through=consumer_by_id)
    district: District | None = edge(by="district_id", through=district_by_id)


@connection(places_pb2.ListDistrictsResponse, items="districts")
class DistrictConnection:
    nodes: list[District]


@connection(places_pb2.ListVenuesResponse, items="venues")
class VenueConnection:
    nodes: list[Venue]


class Queries:
    district: District | None = by_id(district_by_id)
    districts: DistrictConnection | None = page(places_pb2.ListDistrictsRequest)
    venue: Venue | None = by_id(venue_by_id)
    visit: Visit | None = by_id(visit_by_id)


@form(places_pb2.EnterDistrictRequest)
class EnterDistrictInput:
    idempotency_key: str | None
    consumer_id: ID | None = part(mine="consumer_id")
    district_id: ID
    touchpoint: Touchpoint
    position: PointInput | None


@view(places_pb2.EnterDistrictResponse)
class EnterDistrictPayload:
    visit: Visit


@form(places_pb2.LeaveDistrictRequest)
class LeaveDistrictInput:
    idempotency_key: str | None
    visit_id: ID


@view(places_pb2.LeaveDistrictResponse)
class LeaveDistrictPayload:
    visit: Visit


@form(places_pb2.Geofence)
class GeofenceInput:
    corners: list[PointInput] | None
    radius_metres: int | None


@form(places_pb2.CreateDistrictRequest)
class CreateDistrictInput:
    idempotency_key: str | None
    id: ID | None
    name: str
    name_en: str | None
    position: PointInput
    zone: str
    geofence: GeofenceInput


@view(places_pb2.CreateDistrictResponse)
class CreateDistrictPayload:
    district: District


@form(places_pb2.NewVenue)
class NewVenueInput:
    id: ID | None
    kind: VenueKind
    name: str
    name_en: str | None
    position: PointInput
    brand_id: ID | None
    store_id: ID | None


@form(places_pb2.CreateVenueRequest)
class CreateVenueInput:
    idempotency_key: str | None
    district_id: ID
    venue: NewVenueInput


@view(places_pb2.CreateVenueResponse)
class CreateVenuePayload:
    venue: Venue


class Mutations:
    enter_district: EnterDistrictPayload | None = mutation(EnterDistrictInput)
    leave_district: LeaveDistrictPayload | None = mutation(LeaveDistrictInput)
    create_district: CreateDistrictPayload | None = mutation(CreateDistrictInput)
    create_venue: CreateVenuePayload | None = mutation(CreateVenueInput)
