"""What events mean for relations: the interactions they stand for. The same event means the same interactions."""

from datetime import UTC, datetime
from typing import Any

from quanyu.common.v1.touch_pb2 import Scenario, Touchpoint
from quanyu.events.v1 import events_pb2
from services.member.relation.enums import InteractionKind
from services.member.relation.rules import Interaction, Money, interaction_id


def of_order(order: events_pb2.OrderSummary) -> list[Interaction]:
    """What a paid order means: a purchase with each brand in it, and with the seller if that is none of them."""
    if not order.consumer_id:
        return []
    paid: dict[str, int] = {}
    currency = ""
    for line in order.lines:
        money, brand_id = line.paid, line.brand_id
        paid[brand_id] = paid.get(brand_id, 0) + money.minor
        # An order is in one currency.
        currency = currency or money.currency
    if order.seller_id:
        paid.setdefault(order.seller_id, sum(paid.values()))
    order_id, consumer_id, at = order.order_id, order.consumer_id, order.paid_at.ToDatetime(tzinfo=UTC)
    touchpoint, scenario = Touchpoint.Name(order.touchpoint), Scenario.Name(order.scenario)
    return [
        Interaction(
            id=interaction_id(order_id, brand_id),
            consumer_id=consumer_id,
            brand_id=brand_id,
            kind=InteractionKind.ORDER_PAID,
            at=at,
            touchpoint=touchpoint,
            scenario=scenario,
            ref=order_id,
            paid=Money(minor, currency) if currency else None,
        )
        for brand_id, minor in paid.items()
    ]


def of_pack(pack: dict[str, Any], at: datetime) -> list[Interaction]:
    """What a given pack (a PackIssued's fields) means: each brand with a coupon in it reached the consumer."""
    return [
        Interaction(
            id=interaction_id(pack["pack_id"], brand_id),
            consumer_id=pack["consumer_id"],
            brand_id=brand_id,
            kind=InteractionKind.PACK_RECEIVED,
            at=at,
            touchpoint=pack.get("touchpoint", "TOUCHPOINT_UNSPECIFIED"),
            scenario="SCENARIO_DISTRICT_VISIT",
            ref=pack["pack_id"],
        )
        for brand_id in dict.fromkeys(coupon["brand_id"] for coupon in pack.get("coupons", []))
    ]
