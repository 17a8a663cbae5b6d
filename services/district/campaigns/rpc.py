"""CampaignService: campaigns, their participants, and budgets."""

from typing import Any

from quanyu.district.v1 import campaigns_pb2, campaigns_pb2_grpc
from services.district.campaigns import repository, rules
from services.district.campaigns.repository import BudgetRepository, build_running_filter
from services.district.places import repository as places
from services.kit import ids
from services.kit.mongo.client import Document
from services.kit.mongo.codec import request_fields, to_struct
from services.kit.rpc import batch_lists
from services.kit.runtime.runtime import Runtime
from services.kit.transactions.unit_of_work import UnitOfWork, transactional

LATEST_START_FIRST = [("starts_at", -1)]


class CampaignServicer(campaigns_pb2_grpc.CampaignServiceServicer):
    def __init__(self, runtime: Runtime, budgets: BudgetRepository) -> None:
        self.transactions, self.clock, self.budgets = runtime.transactions, runtime.clock, budgets
        self.campaigns = repository.build_campaign_collection(runtime.database)
        self.districts = places.build_district_collection(runtime.database)

    @transactional
    async def CreateCampaign(self, request: campaigns_pb2.CreateCampaignRequest, uow: UnitOfWork) -> campaigns_pb2.CreateCampaignResponse:
        await self.districts.load(request.district_id, session=uow.session)
        campaign = rules.check_campaign(to_struct(request_fields(request) | {"id": request.id or ids.new("cmp")}, rules.Campaign))
        return campaigns_pb2.CreateCampaignResponse(campaign=await self.campaigns.insert(uow, campaign))

    @transactional
    async def JoinCampaign(self, request: campaigns_pb2.JoinCampaignRequest, uow: UnitOfWork) -> campaigns_pb2.JoinCampaignResponse:
        join = to_struct(request_fields(request), rules.JoinRequest)
        return campaigns_pb2.JoinCampaignResponse(budget=await self.budgets.join(uow, self.districts, self.campaigns, join))

    async def GetCampaign(self, request: campaigns_pb2.GetCampaignRequest, context: Any) -> campaigns_pb2.GetCampaignResponse:
        return campaigns_pb2.GetCampaignResponse(campaign=await self.campaigns.get(request.id))

    async def BatchGetCampaigns(
        self, request: campaigns_pb2.BatchGetCampaignsRequest, context: Any
    ) -> campaigns_pb2.BatchGetCampaignsResponse:
        return campaigns_pb2.BatchGetCampaignsResponse(campaigns=await self.campaigns.batch(request.ids))

    async def ListCampaigns(self, request: campaigns_pb2.ListCampaignsRequest, context: Any) -> campaigns_pb2.ListCampaignsResponse:
        query = {"district_id": request.district_id} | self._build_running_filter(request)
        campaigns, page = await self.campaigns.page(query, request.page, order=LATEST_START_FIRST)
        return campaigns_pb2.ListCampaignsResponse(campaigns=campaigns, page=page)

    async def BatchListCampaigns(
        self, request: campaigns_pb2.BatchListCampaignsRequest, context: Any
    ) -> campaigns_pb2.BatchListCampaignsResponse:
        name, district_ids = batch_lists.selected_ids(request, "district_ids")
        running = self._build_running_filter(request)
        found = await self.campaigns.first_pages({id: {name: id} | running for id in district_ids}, request.first, order=LATEST_START_FIRST)
        return campaigns_pb2.BatchListCampaignsResponse(districts=batch_lists.to_lists(name, "campaigns", found))

    def _build_running_filter(self, request: campaigns_pb2.ListCampaignsRequest | campaigns_pb2.BatchListCampaignsRequest) -> Document:
        return build_running_filter(self.clock()) if request.running_only else {}

    async def ListParticipants(
        self, request: campaigns_pb2.ListParticipantsRequest, context: Any
    ) -> campaigns_pb2.ListParticipantsResponse:
        query = {"campaign_id": request.campaign_id}
        participants, page = await self.budgets.participants.page(query, request.page, order=[("brand_id", 1)])
        return campaigns_pb2.ListParticipantsResponse(participants=participants, page=page)

    async def BatchListParticipants(
        self, request: campaigns_pb2.BatchListParticipantsRequest, context: Any
    ) -> campaigns_pb2.BatchListParticipantsResponse:
        name, campaign_ids = batch_lists.selected_ids(request, "campaign_ids")
        queries = {id: {name: id} for id in campaign_ids}
        found = await self.budgets.participants.first_pages(queries, request.first, order=[("brand_id", 1)])
        return campaigns_pb2.BatchListParticipantsResponse(campaigns=batch_lists.to_lists(name, "participants", found))

    async def GetBudget(self, request: campaigns_pb2.GetBudgetRequest, context: Any) -> campaigns_pb2.GetBudgetResponse:
        return campaigns_pb2.GetBudgetResponse(budget=await self.budgets.get(request.id))

    async def BatchGetBudgets(self, request: campaigns_pb2.BatchGetBudgetsRequest, context: Any) -> campaigns_pb2.BatchGetBudgetsResponse:
        return campaigns_pb2.BatchGetBudgetsResponse(budgets=await self.budgets.batch(request.ids))

    async def ListBudgets(self, request: campaigns_pb2.ListBudgetsRequest, context: Any) -> campaigns_pb2.ListBudgetsResponse:
        budgets, page = await self.budgets.page({"brand_id": request.brand_id}, request.page, order=LATEST_START_FIRST)
        return campaigns_pb2.ListBudgetsResponse(budgets=budgets, page=page)

    async def BatchListBudgets(
        self, request: campaigns_pb2.BatchListBudgetsRequest, context: Any
    ) -> campaigns_pb2.BatchListBudgetsResponse:
        name, brand_ids = batch_lists.selected_ids(request, "brand_ids")
        found = await self.budgets.first_pages({id: {name: id} for id in brand_ids}, request.first, order=LATEST_START_FIRST)
        return campaigns_pb2.BatchListBudgetsResponse(brands=batch_lists.to_lists(name, "budgets", found))
