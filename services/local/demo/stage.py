"""What the demo world needs beyond an import: the district, its campaign, targets, and a link somebody made by mistake."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import grpc

from quanyu.common.v1.money_pb2 import Money
from quanyu.common.v1.point_pb2 import Point
from quanyu.common.v1.touch_pb2 import Scenario
from quanyu.district.v1 import campaigns_pb2, campaigns_pb2_grpc, places_pb2, places_pb2_grpc
from quanyu.member.v1 import identity_pb2, identity_pb2_grpc
from quanyu.organization.v1 import chart_pb2, chart_pb2_grpc, targets_pb2, targets_pb2_grpc
from services.kit.calendar import day_of, day_start
from services.kit.errors import NotFound
from services.local.client import standing
from services.local.demo.tables import place, shops_of, store_id
from services.local.demo.world import BRANDS, CAMPAIGN, DISTRICT, DISTRICT_METRES, MIDDLE, SHIRT_BRAND, VENUES, ZONE, DemoBrand

Channels = Mapping[str, grpc.aio.Channel]
CAMPAIGN_DAYS, VALIDITY_DAYS = 360, 14
FEN = 100


async def is_there(channels: Channels) -> bool:
    """Whether the demo world stands already: its campaign is the last thing made."""
    stub: Any = campaigns_pb2_grpc.CampaignServiceStub(channels["district"])
    try:
        await stub.GetCampaign(campaigns_pb2.GetCampaignRequest(id=CAMPAIGN))
    except NotFound:
        return False
    return True


async def stage(channels: Channels) -> None:
    """Makes what is missing; what stands already stays."""
    today = day_of(datetime.now(UTC), ZONE)
    await _district(channels)
    await _targets(channels, today)
    await _mistake(channels)
    await _campaign(channels, today)


async def _district(channels: Channels) -> None:
    places: Any = places_pb2_grpc.PlaceServiceStub(channels["district"])
    fence = places_pb2.Geofence(radius_metres=DISTRICT_METRES)
    await standing(
        places.CreateDistrict(
            places_pb2.CreateDistrictRequest(
                request_id="demo:district", id=DISTRICT, name="三里屯（示例）", name_en="Sanlitun (demo)", zone=ZONE, geofence=fence,
                position=Point(longitude=MIDDLE[0], latitude=MIDDLE[1]),
            )
        )
    )  # fmt: skip
    venues = [
        places_pb2.NewVenue(id=id, kind=places_pb2.VenueKind.Value(f"VENUE_KIND_{kind}"), name=zh, name_en=en, position=_point(east, north))
        for id, kind, zh, en, east, north in VENUES
    ]
    venues += [
        places_pb2.NewVenue(
            id=f"ven_{brand.key}_{store.key}", kind=places_pb2.VENUE_KIND_STORE, name=f"{brand.zh}{store.zh}",
            name_en=f"{brand.en} {store.en}", brand_id=brand.id, store_id=store_id(brand, store), position=_point(store.east, store.north),
        )
        for brand in BRANDS for store in shops_of(brand) if max(abs(store.east), abs(store.north)) < DISTRICT_METRES
    ]  # fmt: skip
    await places.ImportVenues(places_pb2.ImportVenuesRequest(request_id="demo:venues", district_id=DISTRICT, venues=venues))


def _point(east: int, north: int) -> Point:
    longitude, latitude = place(east, north)
    return Point(longitude=longitude, latitude=latitude)


async def _campaign(channels: Channels, today: date) -> None:
    """A campaign in which all brands take part; one gives a single coupon."""
    stub: Any = campaigns_pb2_grpc.CampaignServiceStub(channels["district"])
    starts = day_start(today, ZONE)
    request = campaigns_pb2.CreateCampaignRequest(
        request_id=f"demo:campaign:{today}", id=CAMPAIGN, district_id=DISTRICT, name="三里屯集合券包", name_en="Sanlitun pack"
    )
    request.starts_at.FromDatetime(starts)
    request.ends_at.FromDatetime(starts + timedelta(days=CAMPAIGN_DAYS))
    await standing(stub.CreateCampaign(request))
    await asyncio.gather(*(standing(stub.JoinCampaign(_joining(brand))) for brand in BRANDS))


def _joining(brand: DemoBrand) -> campaigns_pb2.JoinCampaignRequest:
    minimum, value = brand.coupon
    terms = campaigns_pb2.CouponTerms(
        name=f"满{minimum}减{value}", name_en=f"{value} off from {minimum}", validity_days=VALIDITY_DAYS,
        value=Money(minor=value * FEN, currency="CNY"), minimum_spend=Money(minor=minimum * FEN, currency="CNY"),
    )  # fmt: skip
    return campaigns_pb2.JoinCampaignRequest(
        request_id=f"demo:join:{brand.key}", campaign_id=CAMPAIGN, brand_id=brand.id, terms=terms, total=brand.budget
    )


async def _targets(channels: Channels, today: date) -> None:
    """Online and offline targets of the shirt brand's tree, for this month and the next."""
    stub: Any = targets_pb2_grpc.TargetServiceStub(channels["organization"])
    chart: Any = chart_pb2_grpc.ChartServiceStub(channels["organization"])
    key = SHIRT_BRAND.removeprefix("brd_")
    stores = await chart.BatchGetStores(chart_pb2.BatchGetStoresRequest(ids=[f"str_{key}_taikoo"]))
    amounts = {f"unt_{SHIRT_BRAND}": 3_000_000, f"unt_{key}_north": 2_000_000} | {store.unit_id: 300_000 for store in stores.stores}
    following = (today.replace(day=28) + timedelta(days=4)).replace(day=1)
    for month in (f"{today:%Y-%m}", f"{following:%Y-%m}"):
        for unit_id, yuan in amounts.items():
            await stub.SetTarget(
                targets_pb2.SetTargetRequest(
                    request_id=f"demo:target:{unit_id}:{month}", unit_id=unit_id, month=month, scenario=Scenario.SCENARIO_UNSPECIFIED,
                    online_minor=yuan * FEN * 2 // 5, offline_minor=yuan * FEN * 3 // 5,
                )
            )  # fmt: skip


async def _mistake(channels: Channels) -> None:
    """Two people of one name that somebody took for one."""
    stub: Any = identity_pb2_grpc.IdentityServiceStub(channels["member"])
    await standing(
        stub.LinkConsumers(
            identity_pb2.LinkConsumersRequest(
                request_id="demo:mistake", consumer_id="con_demo_li_1", linked_consumer_id="con_demo_li_2",
                evidence=[identity_pb2.IDENTITY_KIND_EXTERNAL], note="same name",
            )
        )
    )  # fmt: skip
