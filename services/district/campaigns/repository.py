"""The collections of campaigns and budgets. Participants are budgets without their numbers: the same rows, seen by anybody."""

from datetime import datetime

from pymongo import ASCENDING, DESCENDING, IndexModel

from quanyu.district.v1 import campaigns_pb2
from services.district.campaigns import rules
from services.district.campaigns.enums import Reason
from services.district.campaigns.rules import Budget, Campaign, Joining
from services.district.places.rules import District
from services.kit.enums import ScopeKind
from services.kit.errors import Conflict
from services.kit.mongo.client import Database, Document, Shaped
from services.kit.mongo.codec import as_struct
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.transactions.unit_of_work import UnitOfWork

BUDGETS = "budgets"


def campaign_collection(database: Database) -> ScopedCollection[Campaign]:
    """Campaigns, written by their district's operator and, through `BudgetRepository.join`, by brands."""
    return ScopedCollection(
        database, "campaigns", noun="CAMPAIGN", struct=Campaign, message=campaigns_pb2.Campaign,
        scopes={ScopeKind.DISTRICT: "district_id"}, public=True,
        indexes=[IndexModel([("district_id", ASCENDING), ("starts_at", DESCENDING), ("_id", ASCENDING)])],
    )  # fmt: skip


class BudgetRepository(ScopedCollection[Budget]):
    """Budgets, each seen by its brand. `issued` is moved by the group_commit alone."""

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

    async def running(self, district_id: str, at: datetime) -> list[Budget]:
        """The budgets of a district from which coupons are given now, spent ones included."""
        query = {"district_id": district_id} | within_dates(at)
        rows = await self.collection.find(query).to_list(rules.RUNNING_MAX)
        return [as_struct(row, Budget) for row in rows]

    async def join(
        self, uow: UnitOfWork, districts: ScopedCollection[District], campaign_collection: ScopedCollection[Campaign], asked: Joining
    ) -> Shaped:
        """The brand's fresh budget. `Conflict` JOINED_ALREADY when there is one."""
        id = rules.budget_id(asked.campaign_id, asked.brand_id)
        if await self.participants.find({"_id": id}, limit=1, session=uow.session):
            raise Conflict(Reason.JOINED_ALREADY, "this brand takes part already", budget_id=id)
        before = await campaign_collection.load(asked.campaign_id, session=uow.session)
        # Brands that join campaigns of one district meet in its row, so that nobody counts what another one changes.
        await districts.collection.update_one({"_id": before.district_id}, {"$inc": {"version": 1}}, session=uow.session)
        campaign, budget = rules.join(before, asked, uow.at, await _overlapping(campaign_collection, before, uow))
        # The campaign is the district's; that a brand joins is what changes it here.
        await campaign_collection.unscoped.replace(uow, campaign, before=before)
        return await self.insert(uow, budget)


async def _overlapping(campaign_collection: ScopedCollection[Campaign], campaign: Campaign, uow: UnitOfWork) -> list[Campaign]:
    """The campaigns with brands that run in a campaign's district while it does, itself included."""
    query = {
        "district_id": campaign.district_id,
        "starts_at": {"$lt": campaign.ends_at, "$gt": campaign.starts_at - rules.LASTS_MAX},
        "ends_at": {"$gt": campaign.starts_at},
        "brand_count": {"$gt": 0},
    }
    rows = await campaign_collection.collection.find(query, session=uow.session).to_list(rules.OVERLAPPING_MAX)
    return [as_struct(row, Campaign) for row in rows]


def within_dates(at: datetime) -> Document:
    """What runs at a moment, of campaigns and budgets alike."""
    return {"ends_at": {"$gt": at}, "starts_at": {"$lte": at}}
