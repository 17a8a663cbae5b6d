"""Synthetic district of the Complete Journey: the busiest stores, and a campaign of the biggest brands."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc

from quanyu.common.v1.money_pb2 import Money
from quanyu.common.v1.point_pb2 import Point
from quanyu.district.v1 import campaigns_pb2, places_pb2, places_pb2_grpc
from services.kit.values.opening_hours import local_day
from services.local import campaign
from services.local.campaign import CampaignPlan, Participation
from services.local.client import create_if_missing
from services.local.imports.journey import (
    CAMPAIGN_BRANDS,
    CURRENCY,
    DISTRICT_METRES,
    DISTRICT_STORES,
    MIDDLE,
    RETAILER,
    ZONE,
)

DISTRICT = "dst_cj"
COUPONS, VALUE_MINOR, MINIMUM_MINOR, VALIDITY_DAYS = 5_000, 50, 100, 14
PLAN = CampaignPlan("cmp_cj", DISTRICT, "全域券包", "Coupon pack", ZONE)


async def create(source: Path, channels: Mapping[str, grpc.aio.Channel]) -> None:
    """Creates what is missing, for the brands and stores of the import folder, and leaves existing objects as they are."""
    import pandas as pd

    await _create_district(source, channels, pd.read_parquet(source / "stores.parquet").head(DISTRICT_STORES))
    # The retailer takes part with its private label, since the households are bound to its guides.
    brand_ids = list(pd.read_parquet(source / "brands.parquet").brand_id[: CAMPAIGN_BRANDS + 1])
    await campaign.ensure_running(channels, PLAN, _participations(brand_ids), local_day(datetime.now(UTC), ZONE))


async def _create_district(source: Path, channels: Mapping[str, grpc.aio.Channel], stores: Any) -> None:
    places: Any = places_pb2_grpc.PlaceServiceStub(channels["district"])
    fence = places_pb2.Geofence(radius_metres=DISTRICT_METRES)
    await create_if_missing(
        places.CreateDistrict(
            places_pb2.CreateDistrictRequest(
                request_id="journey:district", id=DISTRICT, name="完整旅程商圈", name_en="Complete Journey", position=MIDDLE, zone=ZONE,
                geofence=fence,
            )
        )
    )  # fmt: skip
    venues = [
        places_pb2.NewVenue(
            id=store.store_id.replace("str_", "ven_"), kind=places_pb2.VENUE_KIND_STORE, name=store["name"], name_en=store.name_en,
            brand_id=RETAILER, store_id=store.store_id, position=Point(longitude=store.longitude, latitude=store.latitude),
        )
        for _, store in stores.iterrows()
    ]  # fmt: skip
    await places.ImportVenues(
        places_pb2.ImportVenuesRequest(request_id=f"journey:venues:{source.name}", district_id=DISTRICT, venues=venues)
    )


def _participations(brand_ids: Iterable[str]) -> Iterable[Participation]:
    terms = campaigns_pb2.CouponTerms(
        name="满1减0.5", name_en="0.50 off from 1", validity_days=VALIDITY_DAYS, value=Money(minor=VALUE_MINOR, currency=CURRENCY),
        minimum_spend=Money(minor=MINIMUM_MINOR, currency=CURRENCY),
    )  # fmt: skip
    return [Participation(brand_id, terms, COUPONS) for brand_id in brand_ids]
