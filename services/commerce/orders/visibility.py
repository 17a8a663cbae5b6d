"""Visibility of an order: the consumer, the store and its owner see all of it; a brand whose goods it contains sees its own part."""

from typing import Any

from services.kit.enums import ScopeKind
from services.kit.mongo.client import Document
from services.kit.security.caller import Reach


def redact(order: Document, reach: Reach, *, everywhere: bool = False) -> Document:
    """Returns the part of an order, shaped like its message, that a caller with this reach may see.

    A brand that only has lines in it gets these lines, its coupons and their sums, with `partial` set. That part does not reveal another
    brand's amount, the payment, or the message of another brand's guide from which the scenario was derived.
    """
    if everywhere or _sees_all(order, reach):
        return order
    brands = reach.get(ScopeKind.BRAND, frozenset())
    lines = [line for line in order.get("lines", ()) if line["brand_id"] in brands]
    part = order | {
        "lines": lines,
        "coupons": [coupon for coupon in order.get("coupons", ()) if coupon["brand_id"] in brands],
        "amount": _sum(lines, "amount"),
        "discount": _sum(lines, "discount"),
        "total": _sum(lines, "paid"),
        "partial": True,
    }
    if basis := order.get("scenario_basis"):
        part["scenario_basis"] = {name: value for name, value in basis.items() if not name.startswith("evidence")}
    part.pop("payment", None)
    return part


def _sees_all(order: Document, reach: Reach) -> bool:
    return (
        order["consumer_id"] in reach.get(ScopeKind.CONSUMER, frozenset())
        or order["store_id"] in reach.get(ScopeKind.STORE, frozenset())
        or order["seller_id"] in reach.get(ScopeKind.BRAND, frozenset())
    )


def _sum(lines: list[Document], name: str) -> dict[str, Any] | None:
    """Returns the sum of one amount of the lines, or None without lines."""
    if not lines:
        return None
    return {"minor": sum(line[name]["minor"] for line in lines), "currency": lines[0][name]["currency"]}
