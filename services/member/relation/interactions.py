"""Translation of events into interactions. A repeated event gives the same interactions with the same ids."""

from datetime import UTC, datetime
from typing import Any

from quanyu.common.v1.touch_pb2 import Scenario, Touchpoint
from quanyu.events.v1 import events_pb2
from services.member.relation.enums import InteractionKind
from services.member.relation.rules import Interaction, Money, interaction_id


def from_order(order: events_pb2.OrderSummary) -> list[Interaction]:
    """Returns a purchase with each brand of a paid order's lines, and with the seller if it is none of them."""
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


def from_pack(pack: dict[str, Any], at: datetime) -> list[Interaction]:
    """Returns an interaction with each brand that has a coupon in an issued pack, given as the fields of a PackIssued event."""
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
