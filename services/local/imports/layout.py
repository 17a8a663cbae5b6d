"""The files of an import folder, in the order in which they are loaded, and their columns. The README's tables are made from this.

Each file is `NAME.csv` (UTF-8, with or without BOM, header line) or `NAME.parquet`. All are optional; further columns are ignored.
"""

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from services.local.imports.cells import (
    BadValue,
    amount,
    choice,
    choices,
    currency,
    flag,
    hours,
    integer,
    moment,
    names,
    number,
    pairs,
    text,
)

CELL_CHARACTERS_MAX = 10_000


class Column(Struct, frozen=True):
    """One column: `read` turns a cell (text of a CSV, any type of a Parquet file) into a value; `about` is for the README."""

    name: str
    read: Callable[[Any], Any]
    about: str
    required: bool = True
    default: Any = ""

    def value(self, cell: Any) -> Any:
        """What the cell says, the default when it is empty; `BadValue` when that cannot be."""
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            if self.required:
                raise BadValue(f"{self.name} is missing")
            return self.default
        if isinstance(cell, str) and len(cell) > CELL_CHARACTERS_MAX:
            raise BadValue(f"{self.name}: expected at most {CELL_CHARACTERS_MAX:,} characters")
        try:
            return self.read(cell)
        except (ValueError, ArithmeticError) as error:
            expected = str(error) if isinstance(error, BadValue) else f"expected {self.about}"
            raise BadValue(f"{self.name}: {expected}") from None


class File(Struct, frozen=True):
    """One file of the folder."""

    name: str
    about: str
    columns: tuple[Column, ...]

    def row(self, cells: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a row; `BadValue` names the first column that is missing or cannot be read."""
        return {column.name: column.value(cells.get(column.name)) for column in self.columns}


NAME = (
    Column("name", text, "the name in Chinese"),
    Column("name_en", text, "the name in English", required=False),
)
CURRENCY = Column("currency", currency, "ISO 4217, CNY unless given", required=False, default="CNY")
UNIT_KINDS = ("new_retail_department", "region", "supervisor_area")
ROLES = ("guide", "store_manager", "supervisor", "brand_operator")
PURPOSES = ("personalization", "outreach", "district_coupons")
TOUCHPOINTS = ("store", "mini_program", "app", "web", "live", "guide_chat", "district_screen", "delivery")

FILES = (
    File(
        "brands",
        "brands and retailers: the tenants",
        (
            Column("brand_id", text, "`brd_…` or, for a retailer, `rtl_…`"),
            *NAME,
            Column("zone", text, "IANA zone of its days, Asia/Shanghai unless given", required=False, default="Asia/Shanghai"),
            CURRENCY,
            Column("franchised", flag, "whether its stores belong to franchisees", required=False, default=False),
        ),
    ),
    File(
        "units",
        "the organisation between headquarters and stores, parents before children",
        (
            Column("unit_id", text, "`unt_…`"),
            Column("parent_id", text, "the unit above, or the brand for one right below the headquarters"),
            Column("kind", choice(*UNIT_KINDS), ", ".join(UNIT_KINDS)),
            *NAME,
        ),
    ),
    File(
        "stores",
        "stores and warehouses",
        (
            Column("store_id", text, "`str_…`"),
            Column("parent_id", text, "the unit above, or the brand for one right below the headquarters"),
            Column("kind", choice("store", "warehouse"), "store or warehouse", required=False, default="store"),
            *NAME,
            Column("longitude", number, "degrees east"),
            Column("latitude", number, "degrees north"),
            Column("zone", text, "IANA zone, the brand's unless given", required=False),
            Column("hours", hours, "daily hours like 10:00-22:00; none: never open to the public", required=False, default=(0, 0)),
            Column("delivers", flag, "whether couriers fetch from it", required=False, default=False),
        ),
    ),
    File(
        "staff",
        "who works where",
        (
            Column("staff_id", text, "`stf_…`"),
            Column("place_id", text, "the store (`str_…`) or unit (`unt_…`), or the brand for its headquarters"),
            Column("name", text, "the person's name (kept encrypted)"),
            Column("title", text, "what it says on the badge", required=False),
            Column("role", choice(*ROLES), ", ".join(ROLES), required=False),
            Column("subject", text, "the `sub` of their sign-in tokens", required=False),
        ),
    ),
    File(
        "products",
        "one row per variant; rows of one product follow each other",
        (
            Column("product_id", text, "`prd_…`"),
            Column("brand_id", text, "whose product it is"),
            *NAME,
            Column("category", text, "like shirt", required=False),
            Column("variant_id", text, "`var_…`"),
            Column("attributes", pairs, "like size=40;colour=white", required=False, default={}),
            Column("price", amount, "in major units"),
            CURRENCY,
        ),
    ),
    File(
        "stock",
        "counted pieces",
        (
            Column("store_id", text, "where"),
            Column("variant_id", text, "what"),
            Column("on_hand", integer, "pieces, 0 or more"),
            Column("safety", integer, "pieces never promised", required=False, default=0),
        ),
    ),
    File(
        "consumers",
        "who is known to a brand",
        (
            Column("consumer_id", text, "`con_…`"),
            Column("brand_id", text, "the brand or retailer that knows them"),
            Column("name", text, "how they are called (kept encrypted)", required=False),
            Column("phone", text, "kept encrypted, found by keyed hash", required=False),
            Column("card", text, "the brand's card number", required=False),
            Column("open_id", text, "as app:open id", required=False),
            Column("sizes", pairs, "like shirt=40;shoe=42", required=False, default={}),
            Column("consents", choices(*PURPOSES), f"purposes granted: {';'.join(PURPOSES)}", required=False, default=[]),
            Column("consent_brands", names, "further brands the same is granted to", required=False, default=[]),
            Column("since", moment, "when they became known", required=False, default=None),
        ),
    ),
    File(
        "bindings",
        "which guide looks after whom",
        (
            Column("consumer_id", text, "who"),
            Column("brand_id", text, "for which brand"),
            Column("staff_id", text, "the guide"),
            Column("bound_at", moment, "since when", required=False, default=None),
        ),
    ),
    File(
        "orders",
        "orders of the time before; their lines stand in order_lines",
        (
            Column("order_id", text, "`ord_…`"),
            Column("consumer_id", text, "who bought"),
            Column("store_id", text, "the store that served it"),
            Column("touchpoint", choice(*TOUCHPOINTS), f"where it was taken: {', '.join(TOUCHPOINTS)}", required=False, default="store"),
            Column("paid_at", moment, "ISO 8601; without an offset it is Shanghai's time"),
        ),
    ),
    File(
        "order_lines",
        "one row per line, in any order; a bad line rejects its whole order",
        (
            Column("order_id", text, "whose line"),
            Column("variant_id", text, "what"),
            Column("quantity", integer, "pieces, 1 or more"),
            Column("paid", amount, "paid for the line, in major units"),
            CURRENCY,
        ),
    ),
)  # fmt: skip
BY_NAME = {file.name: file for file in FILES}


def described() -> str:
    """The columns of all files as the README shows them."""
    lines = []
    for file in FILES:
        lines += [f"**{file.name}** - {file.about}", "", "| column | |", "|---|---|"]
        lines += [f"| `{column.name}`{'' if column.required else ' (optional)'} | {column.about} |" for column in file.columns]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(described())  # noqa: T201 - python -m services.local.imports.layout
