"""PackService: issues and lists packs."""

from typing import Any

import msgspec

from quanyu.district.v1 import packs_pb2, packs_pb2_grpc
from services.district.packs import rules
from services.district.packs.repository import BrandRanker, Claim, PackRepository
from services.district.places import repository as places
from services.district.wallet.repository import NEWEST_FIRST, build_owner_filter
from services.kit.enums import ScopeKind
from services.kit.projections.persons import PersonProjection
from services.kit.rpc import batch_lists
from services.kit.runtime.runtime import Runtime
from services.kit.security.caller import current_caller
from services.kit.transactions.idempotency import IdempotencyKey
from services.kit.values.opening_hours import local_day


class PackServicer(packs_pb2_grpc.PackServiceServicer):
    def __init__(
        self, runtime: Runtime, persons: PersonProjection, visits: places.VisitRepository, ranker: BrandRanker, packs: PackRepository
    ) -> None:
        self.group_commit, self.clock = runtime.group_commit, runtime.clock
        self.districts = places.build_district_collection(runtime.database)
        self.persons, self.visits, self.ranker, self.packs = persons, visits, ranker, packs

    async def ClaimPack(self, request: packs_pb2.ClaimPackRequest, context: Any) -> packs_pb2.ClaimPackResponse:
        key, at = IdempotencyKey.from_request(request), self.clock()
        person = await self.persons.find(request.consumer_id)
        # Authorization checked `consumer_id` only; the visit may be under another consumer id of the person.
        visit = await self.visits.unscoped.load(request.visit_id)
        rules.check_owner(visit, person.ids)
        district = await self.districts.load(visit.district_id)
        claim = Claim(consumer_id=request.consumer_id, person=person, visit=visit, today=local_day(at, district.zone), at=at)
        if not await self.packs.has_pack(claim):
            claim = msgspec.structs.replace(claim, ranked=await self.ranker.rank(claim))
        return await self.packs.issue(self.group_commit, key, claim)

    async def GetPack(self, request: packs_pb2.GetPackRequest, context: Any) -> packs_pb2.GetPackResponse:
        return packs_pb2.GetPackResponse(pack=await self.packs.get(request.id))

    async def BatchGetPacks(self, request: packs_pb2.BatchGetPacksRequest, context: Any) -> packs_pb2.BatchGetPacksResponse:
        return packs_pb2.BatchGetPacksResponse(packs=await self.packs.batch(request.ids))

    async def ListPacks(self, request: packs_pb2.ListPacksRequest, context: Any) -> packs_pb2.ListPacksResponse:
        owner = build_owner_filter(await self.persons.find(request.consumer_id))
        packs, page = await self.packs.unscoped.page(owner, request.page, order=NEWEST_FIRST)
        return packs_pb2.ListPacksResponse(packs=packs, page=page)

    async def BatchListPacks(self, request: packs_pb2.BatchListPacksRequest, context: Any) -> packs_pb2.BatchListPacksResponse:
        name, consumer_ids = batch_lists.selected_ids(request, "consumer_ids")
        persons = await self.persons.find_many(id for id in consumer_ids if current_caller().can_reach(ScopeKind.CONSUMER, id))
        queries = {id: build_owner_filter(person) for id, person in persons.items()}
        found = await self.packs.unscoped.first_pages(queries, request.first, order=NEWEST_FIRST)
        return packs_pb2.BatchListPacksResponse(consumers=batch_lists.to_lists(name, "packs", found))
