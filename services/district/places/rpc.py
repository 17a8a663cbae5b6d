"""PlaceService: districts, venues and visits."""

from collections.abc import Awaitable, Callable
from typing import Any

from quanyu.district.v1 import places_pb2, places_pb2_grpc
from services.district.places import repository, rules
from services.district.places.rules import PackedCoupon, Visit
from services.kit import ids
from services.kit.errors import Invalid, field_prefix
from services.kit.mongo.client import Document, Session
from services.kit.mongo.codec import request_fields, to_struct
from services.kit.projections.persons import Person, PersonProjection
from services.kit.rpc import batch_lists
from services.kit.runtime.runtime import Runtime
from services.kit.transactions.unit_of_work import UnitOfWork, transactional

UnspentFinder = Callable[[Visit, Person, Session], Awaitable[tuple[PackedCoupon, ...]]]
"""Finds the unspent coupons of the pack of a visit's day; a use case of a higher layer implements it."""


class PlaceServicer(places_pb2_grpc.PlaceServiceServicer):
    def __init__(
        self, runtime: Runtime, persons: PersonProjection, visits: repository.VisitRepository, find_unspent: UnspentFinder
    ) -> None:
        self.transactions, self.persons, self.visits, self.find_unspent = runtime.transactions, persons, visits, find_unspent
        self.districts, self.venues = repository.build_district_collection(runtime.database), repository.VenueRepository(runtime.database)

    @transactional
    async def CreateDistrict(self, request: places_pb2.CreateDistrictRequest, uow: UnitOfWork) -> places_pb2.CreateDistrictResponse:
        district = rules.check_district(to_struct(request_fields(request) | {"id": request.id or ids.new("dst")}, rules.District))
        return places_pb2.CreateDistrictResponse(district=await self.districts.insert(uow, district))

    async def GetDistrict(self, request: places_pb2.GetDistrictRequest, context: Any) -> places_pb2.GetDistrictResponse:
        return places_pb2.GetDistrictResponse(district=await self.districts.get(request.id))

    async def BatchGetDistricts(self, request: places_pb2.BatchGetDistrictsRequest, context: Any) -> places_pb2.BatchGetDistrictsResponse:
        return places_pb2.BatchGetDistrictsResponse(districts=await self.districts.batch(request.ids))

    async def ListDistricts(self, request: places_pb2.ListDistrictsRequest, context: Any) -> places_pb2.ListDistrictsResponse:
        districts, page = await self.districts.page({}, request.page, order=repository.BY_NAME, collation=repository.IN_CHINESE)
        return places_pb2.ListDistrictsResponse(districts=districts, page=page)

    @transactional
    async def CreateVenue(self, request: places_pb2.CreateVenueRequest, uow: UnitOfWork) -> places_pb2.CreateVenueResponse:
        district = await self.districts.load(request.district_id, session=uow.session)
        with field_prefix("venue"):
            venue = _build_venue(request.venue, district, request.venue.id or ids.new("ven"))
        return places_pb2.CreateVenueResponse(venue=await self.venues.insert(uow, venue))

    @transactional
    async def ImportVenues(self, request: places_pb2.ImportVenuesRequest, uow: UnitOfWork) -> places_pb2.ImportVenuesResponse:
        if not 0 < len(request.venues) <= rules.IMPORT_MAX or len({venue.id for venue in request.venues}) < len(request.venues):
            raise Invalid("INVALID_FIELD", f"`venues` must contain 1 to {rules.IMPORT_MAX} venues with different ids.", field="venues")
        district = await self.districts.load(request.district_id, session=uow.session)
        venues = []
        for index, venue in enumerate(request.venues):
            with field_prefix(f"venues[{index}]"):
                venues.append(_build_venue(venue, district, venue.id))
        created, replaced = await self.venues.import_venues(uow, district.id, venues)
        return places_pb2.ImportVenuesResponse(created=created, replaced=replaced)

    async def BatchGetVenues(self, request: places_pb2.BatchGetVenuesRequest, context: Any) -> places_pb2.BatchGetVenuesResponse:
        return places_pb2.BatchGetVenuesResponse(venues=await self.venues.batch(request.ids))

    async def ListVenues(self, request: places_pb2.ListVenuesRequest, context: Any) -> places_pb2.ListVenuesResponse:
        query = {"district_id": request.district_id} | _build_kind_filter(request)
        venues, page = await self.venues.page(query, request.page, order=repository.BY_NAME, collation=repository.IN_CHINESE)
        return places_pb2.ListVenuesResponse(venues=venues, page=page)

    async def BatchListVenues(self, request: places_pb2.BatchListVenuesRequest, context: Any) -> places_pb2.BatchListVenuesResponse:
        name, district_ids = batch_lists.selected_ids(request, "district_ids")
        kinds = _build_kind_filter(request)
        queries = {id: {name: id} | kinds for id in district_ids}
        found = await self.venues.first_pages(queries, request.first, order=repository.BY_NAME, collation=repository.IN_CHINESE)
        return places_pb2.BatchListVenuesResponse(districts=batch_lists.to_lists(name, "venues", found))

    @transactional
    async def EnterDistrict(self, request: places_pb2.EnterDistrictRequest, uow: UnitOfWork) -> places_pb2.EnterDistrictResponse:
        entry = to_struct(request_fields(request), rules.Entry)
        district = await self.districts.load(entry.district_id, session=uow.session)
        rules.check_position(district, entry.position)
        person = await self.persons.find(entry.consumer_id, uow.session)
        visit = await self.visits.enter(uow, district, person, entry.consumer_id, entry.touchpoint, uow.at)
        return places_pb2.EnterDistrictResponse(visit=visit)

    @transactional
    async def LeaveDistrict(self, request: places_pb2.LeaveDistrictRequest, uow: UnitOfWork) -> places_pb2.LeaveDistrictResponse:
        visit = await self.visits.load(request.visit_id, session=uow.session, writing=True)
        person = await self.persons.find(visit.consumer_id, uow.session)
        unspent = await self.find_unspent(visit, person, uow.session)
        left = await self.visits.apply_rule(uow, visit.id, rules.leave, at=uow.at, unspent=unspent)
        return places_pb2.LeaveDistrictResponse(visit=left)

    async def GetVisit(self, request: places_pb2.GetVisitRequest, context: Any) -> places_pb2.GetVisitResponse:
        return places_pb2.GetVisitResponse(visit=await self.visits.get(request.id))

    async def BatchGetVisits(self, request: places_pb2.BatchGetVisitsRequest, context: Any) -> places_pb2.BatchGetVisitsResponse:
        return places_pb2.BatchGetVisitsResponse(visits=await self.visits.batch(request.ids))


def _build_kind_filter(request: places_pb2.ListVenuesRequest | places_pb2.BatchListVenuesRequest) -> Document:
    """Returns the filter for the venue kinds of a request; an empty one without kinds."""
    kinds = request_fields(request).get("kinds")
    return {"kind": {"$in": kinds}} if kinds else {}


def _build_venue(requested: places_pb2.NewVenue, district: rules.District, id: str) -> rules.Venue:
    return rules.check_venue(district, to_struct(request_fields(requested) | {"id": id, "district_id": district.id}, rules.Venue))
