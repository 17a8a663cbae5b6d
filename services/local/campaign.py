"""Campaign of a generated world: one runs with all its brands; after its end the next one is created."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import grpc
from msgspec import Struct

from quanyu.common.v1.page_pb2 import PageRequest
from quanyu.district.v1 import campaigns_pb2, campaigns_pb2_grpc
from services.kit.values.opening_hours import day_start
from services.local.client import create_if_missing

Channels = Mapping[str, grpc.aio.Channel]
CAMPAIGN_DAYS = 360
PAGE = PageRequest(first=100)


class CampaignPlan(Struct, frozen=True):
    """Name and place of a world's campaigns. The first campaign has the id `id`; later ones append their first day."""

    id: str
    district_id: str
    name: str
    name_en: str
    zone: str


class Participation(Struct, frozen=True):
    """The coupon of one brand, and how many of them its budget holds."""

    brand_id: str
    terms: campaigns_pb2.CouponTerms
    total: int


async def list_campaigns(channels: Channels, plan: CampaignPlan) -> Sequence[campaigns_pb2.Campaign]:
    """Returns the world's campaigns, latest first."""
    stub: Any = campaigns_pb2_grpc.CampaignServiceStub(channels["district"])
    listed = await stub.ListCampaigns(campaigns_pb2.ListCampaignsRequest(district_id=plan.district_id, page=PAGE))
    return [campaign for campaign in listed.campaigns if campaign.id.startswith(plan.id)]


def is_running(campaign: campaigns_pb2.Campaign) -> bool:
    """True if the campaign has not ended."""
    return campaign.ends_at.ToDatetime(tzinfo=UTC) > datetime.now(UTC)


async def ensure_running(channels: Channels, plan: CampaignPlan, participations: Iterable[Participation], today: date) -> None:
    """Ensures that one campaign runs with all participations; creates it today if none runs. The last participation is created last."""
    stub: Any = campaigns_pb2_grpc.CampaignServiceStub(channels["district"])
    before = await list_campaigns(channels, plan)
    id = next((campaign.id for campaign in before if is_running(campaign)), f"{plan.id}_{today:%Y%m%d}" if before else plan.id)
    if id not in {campaign.id for campaign in before}:
        starts = day_start(today, plan.zone)
        request = campaigns_pb2.CreateCampaignRequest(
            request_id=f"{id}:{today}", id=id, district_id=plan.district_id, name=plan.name, name_en=plan.name_en
        )
        request.starts_at.FromDatetime(starts)
        request.ends_at.FromDatetime(starts + timedelta(days=CAMPAIGN_DAYS))
        await create_if_missing(stub.CreateCampaign(request))
    for each in participations:
        await create_if_missing(
            stub.JoinCampaign(
                campaigns_pb2.JoinCampaignRequest(
                    request_id=f"{id}:{each.brand_id}", campaign_id=id, brand_id=each.brand_id, terms=each.terms, total=each.total
                )
            )
        )
