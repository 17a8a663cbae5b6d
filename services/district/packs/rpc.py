"""Packs over the wire."""

from typing import Any

import msgspec

from quanyu.district.v1 import packs_pb2, packs_pb2_grpc
from services.district.packs import rules
from services.district.packs.repository import Claim, PackRepository, Ranking
from services.district.places import repository as places
from services.district.wallet.repository import NEWEST_FIRST, given_to
from services.kit.enums import ScopeKind
from services.kit.projections.persons import PersonProjection
from services.kit.rpc import batch_lists
from services.kit.runtime.runtime import Runtime
from services.kit.security.authorization import caller
from services.kit.transactions.idempotency import IdempotencyKey
from services.kit.values.opening_hours import day_of


class PackServicer(packs_pb2_grpc.PackServiceServicer):
    def __init__(
        self, runtime: Runtime, persons: PersonProjection, visits: places.VisitRepository, ranking: Ranking, packs: PackRepository
    ) -> None:
        self.group_commit, self.clock, self.districts = runtime.group_commit, runtime.clock, places.district_collection(runtime.database)
        self.persons, self.visits, self.ranking, self.packs = persons, visits, ranking, packs

    async def ClaimPack(self, request: packs_pb2.ClaimPackRequest, context: Any) -> packs_pb2.ClaimPackResponse:
        key, at = IdempotencyKey.of(request), self.clock()
        person = await self.persons.of(request.consumer_id)
        # Of a linked person's grants only that for `consumer_id` counts here; the visit may be under another of their ids.
        visit = await self.visits.unscoped.load(request.visit_id)
        rules.check_owner(visit, person.ids)
        district = await self.districts.load(visit.district_id)
        claim = Claim(consumer_id=request.consumer_id, person=person, visit=visit, today=day_of(at, district.zone), at=at)
        if not await self.packs.stands(claim):
            claim = msgspec.structs.replace(claim, ranked=await self.ranking.ranked(claim))
        return await self.packs.issue(self.group_commit, key, claim)

    async def GetPack(self, request: packs_pb2.GetPackRequest, context: Any) -> packs_pb2.GetPackResponse:
        return packs_pb2.GetPackResponse(pack=await self.packs.get(request.id))

    async def BatchGetPacks(self, request: packs_pb2.BatchGetPacksRequest, context: Any) -> packs_pb2.BatchGetPacksResponse:
        return packs_pb2.BatchGetPacksResponse(packs=await self.packs.batch(request.ids))

    async def ListPacks(self, request: packs_pb2.ListPacksRequest, context: Any) -> packs_pb2.ListPacksResponse:
        rows, page = await self.packs.unscoped.page(given_to(await self.persons.of(request.consumer_id)), request.page, order=NEWEST_FIRST)
        return packs_pb2.ListPacksResponse(packs=rows, page=page)

    async def BatchListPacks(self, request: packs_pb2.BatchListPacksRequest, context: Any) -> packs_pb2.BatchListPacksResponse:
        name, consumer_ids = batch_lists.asked(request, "consumer_ids")
        persons = await self.persons.behind(id for id in consumer_ids if caller().reaches(ScopeKind.CONSUMER, id))
        queries = {id: given_to(person) for id, person in persons.items()}
        found = await self.packs.unscoped.first_pages(queries, request.first, order=NEWEST_FIRST)
        return packs_pb2.BatchListPacksResponse(consumers=batch_lists.answered(name, "packs", found))
