"""What facts mean for relations: the interactions they stand for. The same fact means the same interactions."""

from datetime import datetime
from typing import Any

from services.member.relation.rules import Interaction, Kind, Money, interaction_id


def of_order(order: dict[str, Any]) -> list[Interaction]:
    """What a paid order (an OrderSummary's fields) means: a purchase with each brand in it, and with the seller if that is none of them."""
    if not order.get("consumer_id"):
        return []
    lines = order.get("lines", [])
    paid: dict[str, dict[str, int]] = {}
    for line in lines:
        money = line.get("paid", {})
        brand = paid.setdefault(line["brand_id"], {})
        brand[money.get("currency", "")] = brand.get(money.get("currency", ""), 0) + money.get("minor", 0)
    if (seller_id := order.get("seller_id", "")) and seller_id not in paid:
        total: dict[str, int] = {}
        for by_currency in paid.values():
            for currency, minor in by_currency.items():
                total[currency] = total.get(currency, 0) + minor
        paid[seller_id] = total
    return [
        Interaction(
            id=interaction_id(order["order_id"], brand_id),
            consumer_id=order["consumer_id"],
            brand_id=brand_id,
            kind=Kind.ORDER_PAID,
            at=order["paid_at"],
            touchpoint=order.get("touchpoint", "TOUCHPOINT_UNSPECIFIED"),
            scenario=order.get("scenario", "SCENARIO_UNSPECIFIED"),
            ref=order["order_id"],
            # An order is in one currency.
            paid=next((Money(minor, currency) for currency, minor in by_currency.items() if currency), None),
        )
        for brand_id, by_currency in paid.items()
    ]


def of_pack(pack: dict[str, Any], at: datetime) -> list[Interaction]:
    """What a given pack (a PackIssued's fields) means: each brand with a coupon in it reached the consumer."""
    return [
        Interaction(
            id=interaction_id(pack["pack_id"], brand_id),
            consumer_id=pack["consumer_id"],
            brand_id=brand_id,
            kind=Kind.PACK_RECEIVED,
            at=at,
            touchpoint=pack.get("touchpoint", "TOUCHPOINT_UNSPECIFIED"),
            scenario="SCENARIO_DISTRICT_VISIT",
            ref=pack["pack_id"],
        )
        for brand_id in dict.fromkeys(coupon["brand_id"] for coupon in pack.get("coupons", []))
    ]
