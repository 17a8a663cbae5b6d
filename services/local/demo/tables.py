"""Generator of the demo world's import folder: 14 months of history that end yesterday, drawn from a seed."""

import csv
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from math import cos, radians
from pathlib import Path

from services.kit.values.opening_hours import local_day, moment
from services.local.demo.world import (
    BRANDS,
    MIDDLE,
    PLACES,
    SHIRT_BRAND,
    SHIRT_SIZES,
    SHIRT_STORE,
    SHIRT_VARIANT,
    SHOE_SIZES,
    WAREHOUSE,
    ZONE,
    DemoBrand,
    DemoStore,
)

CONSUMERS, HISTORY_DAYS, SEED = 300, 426, 20181120
METRES_PER_DEGREE = 111_320
SURNAMES, GIVEN = "林王李张陈赵周吴郑孙", ("晓", "一鸣", "思远", "雨桐", "子涵", "嘉怡", "明轩", "若曦", "浩然", "静")
TOUCHPOINTS = ("store", "store", "store", "mini_program", "mini_program", "app", "live", "guide_chat")
PURPOSES = "personalization;outreach;district_coupons"

Rows = list[Sequence[object]]


class Tables:
    """Writer of the folder. The same day and seed give the same files."""

    def __init__(self, folder: Path, today: date) -> None:
        self.folder, self.today = folder, today
        self.random = random.Random(SEED)
        self.orders: Rows = []
        self.lines: Rows = []

    def write(self) -> Path:
        """Writes all files and returns the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write("brands", "brand_id name name_en franchised", [(each.id, each.zh, each.en, each.franchised) for each in BRANDS])
        self._write("org_units", "org_unit_id parent_id kind name name_en", list(self._org_units()))
        self._write("stores", "store_id parent_id kind name name_en longitude latitude hours delivers", list(self._stores()))
        self._write("staff", "staff_id place_id name title role", list(self._staff()))
        self._write("products", "product_id brand_id name name_en category variant_id attributes price", list(self._products()))
        self._write("stock", "store_id variant_id on_hand", list(self._stock()))
        consumers, bindings = self._people()
        self._write("consumers", "consumer_id brand_id name phone card open_id sizes consents consent_brands since", consumers)
        self._write("bindings", "consumer_id brand_id staff_id", bindings)
        self._write("orders", "order_id consumer_id store_id touchpoint paid_at", self.orders)
        self._write("order_lines", "order_id variant_id quantity paid", self.lines)
        return self.folder

    def _write(self, name: str, columns: str, rows: Rows) -> None:
        with (self.folder / f"{name}.csv").open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns.split())
            writer.writerows(rows)

    def _org_units(self) -> Iterator[Sequence[object]]:
        for brand in BRANDS:
            yield f"unt_{brand.key}_newretail", brand.id, "new_retail_department", f"{brand.zh}新零售部", f"{brand.en} new retail"
            yield f"unt_{brand.key}_north", f"unt_{brand.key}_newretail", "region", "华北区", "North China"
            yield f"unt_{brand.key}_chaoyang", f"unt_{brand.key}_north", "supervisor_area", "朝阳督导区", "Chaoyang"

    def _stores(self) -> Iterator[Sequence[object]]:
        for brand in BRANDS:
            for store in stores_of(brand):
                kind = "warehouse" if store is WAREHOUSE else "store"
                longitude, latitude = place(store.east, store.north)
                yield (
                    store_id(brand, store), f"unt_{brand.key}_chaoyang", kind, f"{brand.zh}{store.zh}（示例）",
                    f"{brand.en} {store.en} (demo)", longitude, latitude, store.hours, store.delivers,
                )  # fmt: skip

    def _staff(self) -> Iterator[Sequence[object]]:
        for brand in BRANDS:
            yield f"stf_{brand.key}_operator", brand.id, self._name(), "品牌运营", "brand_operator"
            yield f"stf_{brand.key}_supervisor", f"unt_{brand.key}_chaoyang", self._name(), "督导", "supervisor"
            for store in stores_of(brand):
                yield f"stf_{brand.key}_{store.key}_manager", store_id(brand, store), self._name(), "店长", "store_manager"
                if store is not WAREHOUSE:
                    for number in (1, 2):
                        yield guide_id(brand, store, number), store_id(brand, store), self._name(), "导购", "guide"

    def _products(self) -> Iterator[Sequence[object]]:
        for brand in BRANDS:
            for product, variant, attributes, (kind, zh, en, price) in variants_of(brand):
                yield product, brand.id, zh, en, kind, variant, attributes, f"{price}.00"

    def _stock(self) -> Iterator[Sequence[object]]:
        for brand in BRANDS:
            carried = BRANDS if brand.key == "jushi" else (brand,)
            for store in stores_of(brand):
                for carried_brand in carried:
                    for _, variant, _, _ in variants_of(carried_brand):
                        if carried_brand.id == SHIRT_BRAND and "_white_shirt_" in variant and store is not WAREHOUSE:
                            # The shirt of the story: one piece of size 40, in a store that is open until 22:00.
                            on_hand = int(variant == SHIRT_VARIANT and store_id(brand, store) == SHIRT_STORE)
                        else:
                            on_hand = self.random.randint(2, 30)
                        yield store_id(brand, store), variant, on_hand

    def _people(self) -> tuple[Rows, Rows]:
        consumers: Rows = []
        bindings: Rows = []
        for number in range(1, CONSUMERS + 1):
            consumer_id = f"con_demo_{number:03}"
            favourites = self.random.sample(BRANDS, self.random.randint(1, 6))
            since = self.today - timedelta(days=self.random.randint(60, HISTORY_DAYS))
            consents = PURPOSES if self.random.random() < 0.85 else "personalization"
            sizes = f"shirt={self.random.choice(SHIRT_SIZES)};shoe={self.random.choice(SHOE_SIZES)}"
            open_id = f"demo-mini:o{self.random.getrandbits(64):016x}" if self.random.random() < 0.7 else ""
            home = favourites[0]
            consumers.append(
                (
                    consumer_id, home.id, self._name(), f"1990000{number:04}", f"{home.key.upper()}{number:05}", open_id, sizes, consents,
                    ";".join(brand.id for brand in favourites[1:]), moment(since, 600, ZONE).isoformat(),
                )
            )  # fmt: skip
            if self.random.random() < 0.8:
                bindings.append((consumer_id, home.id, guide_id(home, self.random.choice(shops_of(home)), self.random.randint(1, 2))))
            self.add_history(consumer_id, favourites, since)
        for twin in TWINS:
            self._add_pair_orders(str(twin[0]), str(twin[1]))
        consumers += TWINS
        return consumers, bindings

    def add_history(self, consumer_id: str, favourites: Sequence[DemoBrand], since: date) -> None:
        """Adds orders of one consumer from `since` to yesterday, most of them of the first favourite."""
        for number in range(self.random.randint(3, 24)):
            brand = self.random.choices(favourites, [2.0**-rank for rank in range(len(favourites))])[0]
            day = since + timedelta(days=self.random.randrange(max(1, (self.today - since).days)))
            order_id = f"ord_{consumer_id.removeprefix('con_')}_{number:02}"
            paid_at = moment(day, self.random.randint(600, 1310), ZONE)
            store = store_id(brand, self.random.choice(shops_of(brand)))
            self.orders.append((order_id, consumer_id, store, self.random.choice(TOUCHPOINTS), paid_at.isoformat()))
            for _, variant, _, (_, _, _, price) in self.random.sample(
                variants_of(brand), self.random.randint(1, min(2, len(variants_of(brand))))
            ):
                self.lines.append((order_id, variant, 1, f"{price}.00"))

    def _add_pair_orders(self, consumer_id: str, brand_id: str) -> None:
        """Adds two orders of the first consumer of a pair and one of the second: only their sum reaches the stage LOYALTY."""
        brand = next(each for each in BRANDS if each.id == brand_id)
        _, variant, _, (_, _, _, price) = variants_of(brand)[0]
        first = consumer_id.endswith("_1")
        for number, days in enumerate((90, 20) if first else (10,)):
            order_id = f"ord_{consumer_id.removeprefix('con_')}_{number:02}"
            paid_at = moment(self.today - timedelta(days=days), 900, ZONE)
            touchpoint = "store" if first else "mini_program"
            self.orders.append((order_id, consumer_id, store_id(brand, shops_of(brand)[0]), touchpoint, paid_at.isoformat()))
            self.lines.append((order_id, variant, 1, f"{price}.00"))

    def _name(self) -> str:
        return self.random.choice(SURNAMES) + self.random.choice(GIVEN)


TWINS: Rows = [
    # One person with two consumer ids (phone and card, open id), for an operator to link.
    ("con_demo_wang_1", SHIRT_BRAND, "王思远", "19900009001", "BAIYU09001", "", "shirt=41", PURPOSES, "", ""),
    ("con_demo_wang_2", SHIRT_BRAND, "思远", "", "", "demo-mini:owangsiyuan", "shirt=41", PURPOSES, "", ""),
    ("con_demo_chen_1", "brd_yunluo", "陈若曦", "19900009002", "YUNLUO09002", "", "", PURPOSES, "", ""),
    ("con_demo_chen_2", "brd_yunluo", "若曦", "", "", "demo-mini:ochenruoxi", "", PURPOSES, "", ""),
    # Two people who are linked by mistake, for an operator to unlink.
    ("con_demo_li_1", SHIRT_BRAND, "李静", "19900009003", "BAIYU09003", "", "", PURPOSES, "", ""),
    ("con_demo_li_2", SHIRT_BRAND, "李静", "19900009004", "BAIYU09004", "", "", PURPOSES, "", ""),
]


def place(east: int, north: int) -> tuple[float, float]:
    """Returns longitude and latitude of a place by its metres east and north of the middle."""
    longitude, latitude = MIDDLE
    return (
        round(longitude + east / (METRES_PER_DEGREE * cos(radians(latitude))), 6),
        round(latitude + north / METRES_PER_DEGREE, 6),
    )


def shops_of(brand: DemoBrand) -> list[DemoStore]:
    """Returns the brand's stores that are open to consumers."""
    return [PLACES[key] for key in brand.stores]


def stores_of(brand: DemoBrand) -> list[DemoStore]:
    """Returns the brand's stores and, for the shirt brand, the warehouse."""
    return [*shops_of(brand), *([WAREHOUSE] if brand.id == SHIRT_BRAND else [])]


def store_id(brand: DemoBrand, store: DemoStore) -> str:
    """Returns the id of a brand's store."""
    return f"str_{brand.key}_{store.key}"


def guide_id(brand: DemoBrand, store: DemoStore, number: int) -> str:
    """Returns the id of a store's first or second guide."""
    return f"stf_{brand.key}_{store.key}_guide{number}"


def variants_of(brand: DemoBrand) -> list[tuple[str, str, str, tuple[str, str, str, int]]]:
    """Returns product id, variant id, attributes and goods of each variant a brand sells."""
    found = []
    for goods in brand.goods:
        kind, _, en, _ = goods
        key = f"{brand.key}_{en.lower().replace(' ', '_')}"
        colour = {"White": "白色", "Blue": "蓝色"}.get(en.split()[0], "")
        for size in brand.sizes if kind in ("shirt", "sneakers") else ("",):
            attributes = ";".join(part for part in (f"size={size}" if size else "", f"colour={colour}" if colour else "") if part)
            found.append((f"prd_{key}", f"var_{key}_{size}" if size else f"var_{key}", attributes, goods))
    return found


def write(folder: Path, now: datetime | None = None) -> Path:
    """Writes the demo world's import folder. Its history ends yesterday, by the date in Shanghai."""
    return Tables(folder, local_day(now or datetime.now(UTC), ZONE)).write()
