"""The campaign of a world that is made here: one runs, with all its brands. After it has ended the next one is opened."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import grpc
from msgspec import Struct

from quanyu.common.v1.page_pb2 import PageRequest
from quanyu.district.v1 import campaigns_pb2, campaigns_pb2_grpc
from services.kit.calendar import day_start
from services.local.client import standing

Channels = Mapping[str, grpc.aio.Channel]
DAYS = 360
PAGE = PageRequest(first=100)


class Plan(Struct, frozen=True):
    """The campaign of one world: the first is called `id`, each later one also by its first day."""

    id: str
    district_id: str
    name: str
    name_en: str
    zone: str


class Part(Struct, frozen=True):
    """What one brand gives, and how many of it."""

    brand_id: str
    terms: campaigns_pb2.CouponTerms
    total: int


async def opened(channels: Channels, plan: Plan) -> Sequence[campaigns_pb2.Campaign]:
    """The campaigns there were so far, the latest first."""
    stub: Any = campaigns_pb2_grpc.CampaignServiceStub(channels["district"])
    listed = await stub.ListCampaigns(campaigns_pb2.ListCampaignsRequest(district_id=plan.district_id, page=PAGE))
    return [campaign for campaign in listed.campaigns if campaign.id.startswith(plan.id)]


def runs(campaign: campaigns_pb2.Campaign) -> bool:
    """Whether it has not ended."""
    return campaign.ends_at.ToDatetime(tzinfo=UTC) > datetime.now(UTC)


async def keep(channels: Channels, plan: Plan, parts: Iterable[Part], today: date) -> None:
    """One that runs and in which all take part, opened today if there is none. The last part that joins is the last thing made."""
    stub: Any = campaigns_pb2_grpc.CampaignServiceStub(channels["district"])
    before = await opened(channels, plan)
    id = next((campaign.id for campaign in before if runs(campaign)), f"{plan.id}_{today:%Y%m%d}" if before else plan.id)
    if id not in {campaign.id for campaign in before}:
        starts = day_start(today, plan.zone)
        request = campaigns_pb2.CreateCampaignRequest(
            request_id=f"{id}:{today}", id=id, district_id=plan.district_id, name=plan.name, name_en=plan.name_en
        )
        request.starts_at.FromDatetime(starts)
        request.ends_at.FromDatetime(starts + timedelta(days=DAYS))
        await standing(stub.CreateCampaign(request))
    for part in parts:
        await standing(
            stub.JoinCampaign(
                campaigns_pb2.JoinCampaignRequest(
                    request_id=f"{id}:{part.brand_id}", campaign_id=id, brand_id=part.brand_id, terms=part.terms, total=part.total
                )
            )
        )
