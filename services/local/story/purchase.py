"""Chapter 4: the order, with one of the coupons, paid once however often it is asked, credited once."""

from decimal import Decimal

from services.local.story import wording
from services.local.story.stage import Answer, Surprise
from services.local.story.stain import tonight
from services.local.story.walk import Walk

TRIES = 3


async def buy(walk: Walk, hold: Answer, coupons: list[Answer]) -> str:
    """The order's id."""
    walk.timeline.chapter("4  The order: paid once, credited once")
    walk.stage.clock(21, 43)
    order = (await _place(walk, hold, coupons))["order"]
    if Decimal(order["discount"]["amount"]) <= 0:
        raise Surprise("the coupon took nothing off")
    walk.tell(
        walk.cast.consumer.called,
        f"orders for {wording.money(order['total'])}, {wording.money(order['discount'])} off by coupon",
        f"scenario {wording.words(order['scenario'])}: {wording.words(order['scenarioBasis']['rule'])}",
    )
    await _pay(walk, order)
    await _credited(walk, order["id"])
    order_id: str = order["id"]
    return order_id


async def _place(walk: Walk, hold: Answer, coupons: list[Answer]) -> Answer:
    """With the coupon of the goods' brand, else the first that this order may spend."""
    for coupon in sorted(coupons, key=lambda entry: entry["brand"]["id"] != walk.goods_brand_id):
        result = await walk.stage.act(
            walk.cast.consumer,
            "place_order",
            holdIds=[hold["id"]],
            couponIds=[coupon["couponId"]],
            touchpoint="MINI_PROGRAM",
            neededBy=tonight(walk),
            destination={"address": "示例酒店·三里屯 1208", "recipient": "L.", "phone": "+8619900008888", "position": walk.cast.hotel},
            idempotencyKey=walk.key(f"order {coupon['couponId']}"),
        )
        if "code" not in result:
            return result
        if result["__typename"] != "CouponRefused" or walk.cast.last_of:
            raise Surprise(f"the order is refused: {result['message']} ({result['code']})")
        walk.tell(f"  {wording.name(coupon['brand'])}", result["message"], result["code"], refused=True)
    raise Surprise("no order could be placed with any of the coupons")


async def _pay(walk: Walk, order: Answer) -> None:
    cast, stage = walk.cast, walk.stage
    stage.clock(21, 44)
    paying = {"orderId": order["id"], "method": "SANDBOX", "sandboxToken": "approve", "idempotencyKey": walk.key("pay")}
    answers = [(await stage.done(cast.consumer, "pay_order", **paying))["order"] for _ in range(TRIES)]
    if any(answer != answers[0] for answer in answers) or answers[0]["state"] != "PAID":
        raise Surprise(f"paying {TRIES} times with one key gave different answers")
    if answers[0]["payment"]["amount"] != order["total"]:
        raise Surprise("what was paid is not the order's total")
    walk.tell(
        cast.consumer.called,
        f"pays {wording.money(answers[0]['payment']['amount'])}, {TRIES} times with one key",
        "one payment: every retry hears the first answer",
    )


async def _credited(walk: Walk, order_id: str) -> None:
    """To the store that served her and the guide who looks after her."""
    cast, stage = walk.cast, walk.stage

    async def told() -> Answer | None:
        found: Answer | None = (await stage.ask(cast.operator, "order_credit", id=order_id))["order"]["credit"]
        return found

    credit = await stage.until("the credit", told)
    guide = credit["staff"] or {"id": "nobody", "name": ""}
    if (credit["store"]["id"], guide["id"]) != (walk.served_by, cast.guide.subject):
        raise Surprise(
            f"the order is credited to {guide['id']} and {credit['store']['id']}, not to {cast.guide.subject} and {walk.served_by}"
        )
    walk.tell(
        "organization",
        f"credits {wording.name(credit['store'])} and guide {guide['name'] or guide['id']}",
        wording.BASIS.get(credit["basis"], f"decided by {wording.words(credit['basis'])}"),
    )
