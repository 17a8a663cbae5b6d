"""Who sees what of an order: the consumer, the store and who runs it all of it; a brand whose goods were sold there its own part."""

from typing import Any

from services.kit.enums import ScopeKind
from services.kit.mongo.client import Document
from services.kit.security.authorization import Reach


def visible_to(order: Document, reach: Reach, *, everywhere: bool = False) -> Document:
    """An order shaped like its message, as whoever reaches this may see it.

    For a brand that only has lines in it: those lines, its coupons and their sums; `partial` says so. Neither another brand's amount
    nor what was paid in all can be told from it, nor the message of another brand's guide that the scenario follows from.
    """
    if everywhere or _whole(order, reach):
        return order
    brands = reach.get(ScopeKind.BRAND, frozenset())
    lines = [line for line in order.get("lines", ()) if line["brand_id"] in brands]
    seen = order | {
        "lines": lines,
        "coupons": [coupon for coupon in order.get("coupons", ()) if coupon["brand_id"] in brands],
        "amount": _sum(lines, "amount"),
        "discount": _sum(lines, "discount"),
        "total": _sum(lines, "paid"),
        "partial": True,
    }
    if basis := order.get("scenario_basis"):
        seen["scenario_basis"] = {name: value for name, value in basis.items() if not name.startswith("evidence")}
    seen.pop("payment", None)
    return seen


def _whole(order: Document, reach: Reach) -> bool:
    return (
        order["consumer_id"] in reach.get(ScopeKind.CONSUMER, frozenset())
        or order["store_id"] in reach.get(ScopeKind.STORE, frozenset())
        or order["seller_id"] in reach.get(ScopeKind.BRAND, frozenset())
    )


def _sum(lines: list[Document], name: str) -> dict[str, Any] | None:
    """The sum of one of the lines' amounts; None when there is none."""
    if not lines:
        return None
    return {"minor": sum(line[name]["minor"] for line in lines), "currency": lines[0][name]["currency"]}
