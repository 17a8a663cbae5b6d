"""Layout of an import folder: the files in loading order and their columns. The tables of README.md here are generated from it.

Each file is `NAME.csv` (UTF-8, with or without BOM, header line) or `NAME.parquet`. All files are optional; unknown columns are ignored.
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
"""A longer text cell is refused."""


class Column(Struct, frozen=True):
    """A column. `read` converts a cell to a value; `about` is its description in the README."""

    name: str
    read: Callable[[Any], Any]
    about: str
    required: bool = True
    default: Any = ""

    def value(self, cell: Any) -> Any:
        """Returns the value of a cell, the default if it is empty; raises `BadValue` if it cannot be read."""
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            if self.required:
                raise BadValue(f"{self.name} is empty. Fill it in: the column is required.")
            return self.default
        if isinstance(cell, str) and len(cell) > CELL_CHARACTERS_MAX:
            raise BadValue(f"{self.name}: expected at most {CELL_CHARACTERS_MAX:,} characters")
        try:
            return self.read(cell)
        except (ValueError, ArithmeticError) as error:
            expected = str(error) if isinstance(error, BadValue) else f"expected {self.about}"
            raise BadValue(f"{self.name}: {expected}") from None


class File(Struct, frozen=True):
    """A file of the folder."""

    name: str
    about: str
    columns: tuple[Column, ...]

    def row(self, cells: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the values of a row; raises `BadValue` with the first column that is empty or cannot be read."""
        return {column.name: column.value(cells.get(column.name)) for column in self.columns}


NAME = (
    Column("name", text, "the name in Chinese"),
    Column("name_en", text, "the name in English", required=False),
)
CURRENCY = Column("currency", currency, "ISO 4217 code; default: CNY", required=False, default="CNY")
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
            Column("zone", text, "IANA time zone; default: Asia/Shanghai", required=False, default="Asia/Shanghai"),
            CURRENCY,
            Column("franchised", flag, "yes if the stores belong to franchisees", required=False, default=False),
        ),
    ),
    File(
        "org_units",
        "org units between headquarters and stores, parents before children",
        (
            Column("org_unit_id", text, "`unt_…`"),
            Column("parent_id", text, "the parent org unit, or the brand for its headquarters"),
            Column("kind", choice(*UNIT_KINDS), ", ".join(UNIT_KINDS)),
            *NAME,
        ),
    ),
    File(
        "stores",
        "stores and warehouses",
        (
            Column("store_id", text, "`str_…`"),
            Column("parent_id", text, "the parent org unit, or the brand for its headquarters"),
            Column("kind", choice("store", "warehouse"), "store or warehouse", required=False, default="store"),
            *NAME,
            Column("longitude", number, "degrees east"),
            Column("latitude", number, "degrees north"),
            Column("zone", text, "IANA time zone; default: the brand's", required=False),
            Column("hours", hours, "daily hours like 10:00-22:00; empty: not open to the public", required=False, default=(0, 0)),
            Column("delivers", flag, "yes if couriers deliver from it", required=False, default=False),
        ),
    ),
    File(
        "staff",
        "members of staff and their place of work",
        (
            Column("staff_id", text, "`stf_…`"),
            Column("place_id", text, "the store (`str_…`) or org unit (`unt_…`), or the brand for its headquarters"),
            Column("name", text, "name, stored encrypted"),
            Column("title", text, "job title", required=False),
            Column("role", choice(*ROLES), ", ".join(ROLES), required=False),
            Column("subject", text, "the `sub` claim of the sign-in token", required=False),
        ),
    ),
    File(
        "products",
        "one row per variant; the rows of a product are adjacent",
        (
            Column("product_id", text, "`prd_…`"),
            Column("brand_id", text, "the brand of the product"),
            *NAME,
            Column("category", text, "category, like shirt", required=False),
            Column("variant_id", text, "`var_…`"),
            Column("attributes", pairs, "attributes, like size=40;colour=white", required=False, default={}),
            Column("price", amount, "price in major units, like 399.00"),
            CURRENCY,
        ),
    ),
    File(
        "stock",
        "stock counts",
        (
            Column("store_id", text, "the store"),
            Column("variant_id", text, "the variant"),
            Column("on_hand", integer, "number of pieces, 0 or more"),
            Column("safety", integer, "pieces that are never promised", required=False, default=0),
        ),
    ),
    File(
        "consumers",
        "consumers who are known to a brand",
        (
            Column("consumer_id", text, "`con_…`"),
            Column("brand_id", text, "the brand or retailer"),
            Column("name", text, "name, stored encrypted", required=False),
            Column("phone", text, "phone number, stored encrypted and found by a keyed hash", required=False),
            Column("card", text, "the brand's card number", required=False),
            Column("open_id", text, "the app and the open id, like my-app:o6_bmjrPTlm6", required=False),
            Column("sizes", pairs, "sizes, like shirt=40;shoe=42", required=False, default={}),
            Column("consents", choices(*PURPOSES), f"purposes granted: {';'.join(PURPOSES)}", required=False, default=[]),
            Column("consent_brands", names, "further brands with the same purposes", required=False, default=[]),
            Column("since", moment, "time of the first contact", required=False, default=None),
        ),
    ),
    File(
        "bindings",
        "the guide of each consumer",
        (
            Column("consumer_id", text, "the consumer"),
            Column("brand_id", text, "the brand"),
            Column("staff_id", text, "the guide"),
            Column("bound_at", moment, "start time", required=False, default=None),
        ),
    ),
    File(
        "orders",
        "past orders; their lines are in order_lines",
        (
            Column("order_id", text, "`ord_…`"),
            Column("consumer_id", text, "the consumer"),
            Column("store_id", text, "the store that fulfilled the order"),
            Column("touchpoint", choice(*TOUCHPOINTS), f"place of the order: {', '.join(TOUCHPOINTS)}", required=False, default="store"),
            Column("paid_at", moment, "ISO 8601 time; Shanghai time if it has no offset"),
        ),
    ),
    File(
        "order_lines",
        "one row per line, in any order; a bad line rejects its order",
        (
            Column("order_id", text, "the order"),
            Column("variant_id", text, "the variant"),
            Column("quantity", integer, "number of pieces, 1 or more"),
            Column("paid", amount, "amount paid for the line, in major units"),
            CURRENCY,
        ),
    ),
)  # fmt: skip
BY_NAME = {file.name: file for file in FILES}


def render_markdown() -> str:
    """Returns the columns of all files as Markdown tables."""
    lines = []
    for file in FILES:
        lines += [f"**{file.name}** - {file.about}", "", "| column | meaning |", "|---|---|"]
        lines += [f"| `{column.name}`{'' if column.required else ' (optional)'} | {column.about} |" for column in file.columns]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(render_markdown())  # noqa: T201 - python -m services.local.imports.layout
