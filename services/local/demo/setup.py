"""Setup of the demo world beyond its import: the district, its campaign, targets, and a wrong link of two consumers."""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import grpc

from quanyu.common.v1.money_pb2 import Money
from quanyu.common.v1.point_pb2 import Point
from quanyu.common.v1.touch_pb2 import Scenario
from quanyu.district.v1 import campaigns_pb2, places_pb2, places_pb2_grpc
from quanyu.member.v1 import identity_pb2, identity_pb2_grpc
from quanyu.organization.v1 import chart_pb2, chart_pb2_grpc, targets_pb2, targets_pb2_grpc
from services.kit.values.opening_hours import local_day
from services.local import campaign
from services.local.campaign import CampaignPlan, Participation
from services.local.client import create_if_missing
from services.local.demo.tables import place, shops_of, store_id
from services.local.demo.world import BRANDS, CAMPAIGN, DISTRICT, DISTRICT_METRES, MIDDLE, SHIRT_BRAND, VENUES, ZONE

Channels = Mapping[str, grpc.aio.Channel]
VALIDITY_DAYS = 14
FEN = 100
PLAN = CampaignPlan(CAMPAIGN, DISTRICT, "三里屯集合券包", "Sanlitun pack", ZONE)


async def is_loaded(channels: Channels) -> bool:
    """True if the demo world is complete: the last brand's participation in the campaign is created last."""
    return any(each.brand_count >= len(BRANDS) for each in await campaign.list_campaigns(channels, PLAN))


async def has_running_campaign(channels: Channels) -> bool:
    """True if the demo world is complete and its campaign runs."""
    return any(each.brand_count >= len(BRANDS) and campaign.is_running(each) for each in await campaign.list_campaigns(channels, PLAN))


async def create(channels: Channels) -> None:
    """Creates what is missing and leaves existing objects as they are."""
    today = local_day(datetime.now(UTC), ZONE)
    await _create_district(channels)
    await _set_targets(channels, today)
    await _link_by_mistake(channels)
    await campaign.ensure_running(channels, PLAN, _participations(), today)


async def renew(channels: Channels) -> bool:
    """Renews the campaign and the targets of this month and the next; returns True if one had expired."""
    today = local_day(datetime.now(UTC), ZONE)
    ended = not await has_running_campaign(channels)
    if ended:
        await campaign.ensure_running(channels, PLAN, _participations(), today)
    return await _set_targets(channels, today) or ended


async def _create_district(channels: Channels) -> None:
    places: Any = places_pb2_grpc.PlaceServiceStub(channels["district"])
    fence = places_pb2.Geofence(radius_metres=DISTRICT_METRES)
    await create_if_missing(
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


def _participations() -> Iterator[Participation]:
    """Yields the participation of each brand; one brand gives a single coupon."""
    for brand in BRANDS:
        minimum, value = brand.coupon
        terms = campaigns_pb2.CouponTerms(
            name=f"满{minimum}减{value}", name_en=f"{value} off from {minimum}", validity_days=VALIDITY_DAYS,
            value=Money(minor=value * FEN, currency="CNY"), minimum_spend=Money(minor=minimum * FEN, currency="CNY"),
        )  # fmt: skip
        yield Participation(brand.id, terms, brand.budget)


async def _set_targets(channels: Channels, today: date) -> bool:
    """Sets online and offline targets of the shirt brand's org units, for this month and the next; returns True if one was missing."""
    stub: Any = targets_pb2_grpc.TargetServiceStub(channels["organization"])
    chart: Any = chart_pb2_grpc.ChartServiceStub(channels["organization"])
    key, headquarters = SHIRT_BRAND.removeprefix("brd_"), f"unt_{SHIRT_BRAND}"
    following = (today.replace(day=28) + timedelta(days=4)).replace(day=1)
    request = targets_pb2.GetScorecardRequest(org_unit_id=headquarters, from_day=str(today), until_day=str(following))
    months = {each.target.month for each in (await stub.GetScorecard(request)).scorecard.attainments}
    stores = await chart.BatchGetStores(chart_pb2.BatchGetStoresRequest(ids=[f"str_{key}_taikoo"]))
    # The headquarters' target is set last, so it proves that the others of the month exist.
    amounts = {store.org_unit_id: 300_000 for store in stores.stores} | {f"unt_{key}_north": 2_000_000, headquarters: 3_000_000}
    missing = [month for month in (f"{today:%Y-%m}", f"{following:%Y-%m}") if month not in months]
    for month in missing:
        for org_unit_id, yuan in amounts.items():
            await stub.SetTarget(
                targets_pb2.SetTargetRequest(
                    request_id=f"demo:target:{org_unit_id}:{month}", org_unit_id=org_unit_id, month=month,
                    scenario=Scenario.SCENARIO_UNSPECIFIED, online_minor=yuan * FEN * 2 // 5, offline_minor=yuan * FEN * 3 // 5,
                )
            )  # fmt: skip
    return bool(missing)


async def _link_by_mistake(channels: Channels) -> None:
    """Links two people of the same name, for an operator to unlink."""
    stub: Any = identity_pb2_grpc.IdentityServiceStub(channels["member"])
    await create_if_missing(
        stub.LinkConsumers(
            identity_pb2.LinkConsumersRequest(
                request_id="demo:mistake", consumer_id="con_demo_li_1", linked_consumer_id="con_demo_li_2",
                evidence=[identity_pb2.IDENTITY_KIND_EXTERNAL], note="same name",
            )
        )
    )  # fmt: skip
