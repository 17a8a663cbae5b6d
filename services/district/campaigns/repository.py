"""Collections of campaigns and budgets. Participants are the public view of budgets, without their numbers."""

from datetime import datetime

from pymongo import ASCENDING, DESCENDING, IndexModel

from quanyu.district.v1 import campaigns_pb2
from services.district.campaigns import rules
from services.district.campaigns.enums import Reason
from services.district.campaigns.rules import Budget, Campaign, JoinRequest
from services.district.places.rules import District
from services.kit.enums import ScopeKind
from services.kit.errors import Conflict
from services.kit.mongo.client import Database, Document, MessageDocument
from services.kit.mongo.codec import to_struct
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.transactions.unit_of_work import UnitOfWork

BUDGETS = "budgets"
"""The name of the collection of budgets."""


def build_campaign_collection(database: Database) -> ScopedCollection[Campaign]:
    """Returns the collection of campaigns. District operators write it; brands write it only through `BudgetRepository.join`."""
    return ScopedCollection(
        database, "campaigns", noun="CAMPAIGN", struct=Campaign, message=campaigns_pb2.Campaign,
        scopes={ScopeKind.DISTRICT: "district_id"}, public=True,
        indexes=[IndexModel([("district_id", ASCENDING), ("starts_at", DESCENDING), ("_id", ASCENDING)])],
    )  # fmt: skip


class BudgetRepository(ScopedCollection[Budget]):
    """The budgets of brands. Only group commit changes `issued`."""

    def __init__(self, database: Database) -> None:
        super().__init__(
            database, BUDGETS, noun="BUDGET", struct=Budget, message=campaigns_pb2.Budget, scopes={ScopeKind.BRAND: "brand_id"},
            indexes=[
                IndexModel([("brand_id", ASCENDING), ("starts_at", DESCENDING), ("_id", ASCENDING)]),
                IndexModel([("campaign_id", ASCENDING), ("brand_id", ASCENDING), ("_id", ASCENDING)]),
                IndexModel([("district_id", ASCENDING), ("ends_at", ASCENDING), ("starts_at", ASCENDING)]),
            ],
        )  # fmt: skip
        self.participants: ScopedCollection[Budget] = ScopedCollection(
            database,
            BUDGETS,
            noun="BUDGET",
            struct=Budget,
            message=campaigns_pb2.Participant,
            scopes={ScopeKind.BRAND: "brand_id"},
            public=True,
        )

    async def find_running(self, district_id: str, at: datetime) -> list[Budget]:
        """Returns the running budgets of a district, including those with no coupon left."""
        query = {"district_id": district_id} | build_running_filter(at)
        documents = await self.collection.find(query).to_list(rules.RUNNING_BUDGETS_MAX)
        return [to_struct(document, Budget) for document in documents]

    async def join(
        self, uow: UnitOfWork, districts: ScopedCollection[District], campaigns: ScopedCollection[Campaign], request: JoinRequest
    ) -> MessageDocument:
        """Creates the brand's budget in a campaign. Raises `Conflict` (JOINED_ALREADY) if there is one."""
        id = rules.budget_id(request.campaign_id, request.brand_id)
        if await self.participants.find({"_id": id}, limit=1, session=uow.session):
            message = "This brand takes part in the campaign already. Look up its budget."
            raise Conflict(Reason.JOINED_ALREADY, message, budget_id=id)
        before = await campaigns.load(request.campaign_id, session=uow.session)
        # Brands that join campaigns of one district concurrently conflict in its document, so that the limits are exact.
        await districts.collection.update_one({"_id": before.district_id}, {"$inc": {"version": 1}}, session=uow.session)
        campaign, budget = rules.join(before, request, uow.at, await _find_overlapping(campaigns, before, uow))
        # The campaign is outside the brand's scope; joining changes its brand count.
        await campaigns.unscoped.replace(uow, campaign, before=before)
        return await self.insert(uow, budget)


async def _find_overlapping(campaigns: ScopedCollection[Campaign], campaign: Campaign, uow: UnitOfWork) -> list[Campaign]:
    """Returns the campaigns with brands that overlap a campaign of the same district, including that one."""
    query = {
        "district_id": campaign.district_id,
        "starts_at": {"$lt": campaign.ends_at, "$gt": campaign.starts_at - rules.DURATION_MAX},
        "ends_at": {"$gt": campaign.starts_at},
        "brand_count": {"$gt": 0},
    }
    documents = await campaigns.collection.find(query, session=uow.session).to_list(rules.OVERLAPPING_CAMPAIGNS_MAX)
    return [to_struct(document, Campaign) for document in documents]


def build_running_filter(at: datetime) -> Document:
    """Returns the filter for campaigns or budgets that run at a moment."""
    return {"ends_at": {"$gt": at}, "starts_at": {"$lte": at}}
