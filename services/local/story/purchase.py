"""Chapter 4, the order: placed with a coupon, paid once despite retries, credited once."""

from decimal import Decimal

from services.local.story import display
from services.local.story.gateway_client import Answer, StoryError
from services.local.story.story import Story
from services.local.story.urgent_need import needed_by

PAYMENT_ATTEMPTS = 3


async def buy(story: Story, hold: Answer, coupons: list[Answer]) -> str:
    """Plays the order and the payment; returns the order's id."""
    story.timeline.heading("4  The order: paid once, credited once")
    story.gateway.set_clock(21, 43)
    order = (await _place(story, hold, coupons))["order"]
    if Decimal(order["discount"]["amount"]) <= 0:
        raise StoryError("the coupon gave no discount")
    story.report(
        story.setup.consumer.name,
        f"orders for {display.format_money(order['total'])}. The coupon takes {display.format_money(order['discount'])} off.",
        f"Scenario: {display.format_label(order['scenario'])}, by the rule “{display.format_label(order['scenarioBasis']['rule'])}”.",
    )
    await _pay(story, order)
    await _check_credit(story, order["id"])
    order_id: str = order["id"]
    return order_id


async def _place(story: Story, hold: Answer, coupons: list[Answer]) -> Answer:
    """Places the order with the coupon of the goods' brand, or with the first coupon that it may use."""
    for coupon in sorted(coupons, key=lambda entry: entry["brand"]["id"] != story.goods_brand_id):
        result = await story.gateway.mutate(
            story.setup.consumer,
            "place_order",
            holdIds=[hold["id"]],
            couponIds=[coupon["couponId"]],
            touchpoint="MINI_PROGRAM",
            neededBy=needed_by(story),
            destination={"address": "示例酒店·三里屯 1208", "recipient": "L.", "phone": "+8619900008888", "position": story.setup.hotel},
            idempotencyKey=story.key(f"order {coupon['couponId']}"),
        )
        if "code" not in result:
            return result
        if result["__typename"] != "CouponRefused" or story.setup.last_of:
            raise StoryError(f"the order is refused: {result['message']} ({result['code']})")
        story.report_refusal(story.setup.consumer.name, f"tries the coupon of {display.format_name(coupon['brand'])}.", result)
    raise StoryError("every coupon of the pack is refused for this order")


async def _pay(story: Story, order: Answer) -> None:
    setup, gateway = story.setup, story.gateway
    gateway.set_clock(21, 44)
    paying = {"orderId": order["id"], "method": "SANDBOX", "sandboxToken": "approve", "idempotencyKey": story.key("pay")}
    answers = [(await gateway.mutate_or_fail(setup.consumer, "pay_order", **paying))["order"] for _ in range(PAYMENT_ATTEMPTS)]
    if any(answer != answers[0] for answer in answers) or answers[0]["state"] != "PAID":
        raise StoryError(f"{PAYMENT_ATTEMPTS} payments with one idempotency key gave different answers")
    if answers[0]["payment"]["amount"] != order["total"]:
        raise StoryError("the payment differs from the order's total")
    story.report(
        setup.consumer.name,
        f"pays {display.format_money(answers[0]['payment']['amount'])}, sent {PAYMENT_ATTEMPTS} times with one idempotency key.",
        "Idempotency: one payment is made. Each repeat gets the first answer.",
    )


async def _check_credit(story: Story, order_id: str) -> None:
    """Checks that the credit names the store that served and the guide who is bound to the consumer."""
    setup, gateway = story.setup, story.gateway

    async def find_credit() -> Answer | None:
        found: Answer | None = (await gateway.execute(setup.operator, "order_credit", id=order_id))["order"]["credit"]
        return found

    credit = await gateway.wait_for("the credit", find_credit)
    guide = credit["staff"] or {"id": "no guide", "name": ""}
    if (credit["store"]["id"], guide["id"]) != (story.serving_store_id, setup.guide.subject):
        raise StoryError(
            f"the credit names {guide['id']} and {credit['store']['id']} instead of {setup.guide.subject} and {story.serving_store_id}"
        )
    story.report(
        "Organization",
        f"credits store {display.format_name(credit['store'])} and guide {guide['name'] or guide['id']}.",
        display.BASIS.get(credit["basis"], f"Attribution: {display.format_label(credit['basis'])}."),
    )
