"""Chapter 3, the urgent need: the consumer finds what can arrive tonight and holds the last piece."""

from decimal import Decimal
from typing import Any

from services.kit.values.opening_hours import moment
from services.local.story import display
from services.local.story.gateway_client import ZONE, Answer, Person, StoryError
from services.local.story.story import Story

PROMISES_SHOWN_MAX = 4
NEEDED_MINUTE = 23 * 60 + 30
"""The consumer needs the goods by 23:30, in minutes since midnight."""


async def search_and_hold(story: Story) -> Answer:
    """Plays the search and the hold, and a second consumer's search for the same piece; returns the hold."""
    setup, gateway = story.setup, story.gateway
    story.timeline.heading("3  A stain at the hotel: a replacement tonight 随时随地买得到")
    gateway.set_clock(21, 40)
    attributes = "".join(f", {each['name']} {each['value']}" for each in setup.attributes)
    promises = (await _search(story, setup.consumer))["promises"]
    story.report(
        setup.consumer.name,
        f"searches for “{story.wish}{attributes}, tonight”.",
        f"Promise search: {display.format_count(len(promises), 'promise')} from stock, opening hours and delivery times.",
    )
    if not promises:
        raise StoryError("the search found no promise near the hotel")
    for promise in promises[:PROMISES_SHOWN_MAX]:
        goods = f"{display.format_name(promise)}, {display.format_money(promise['price'])}, {display.format_promise(promise)}."
        story.detail(promise["storeName"], goods, f"Availability: {display.format_label(promise['availability'])}.")
    chosen = _choose(story, promises)
    story.serving_store_id, story.goods_brand_id = chosen["storeId"], chosen["brand"]["id"]
    held = await gateway.mutate_or_fail(setup.consumer, "hold_promise", **_hold_input(story, chosen, "hold"))
    story.report(
        setup.consumer.name,
        f"holds it at {chosen['storeName']}.",
        f"Stock: the piece is reserved until {display.format_time(held['hold']['expiresAt'])}.",
    )
    if setup.last_of:
        await _refuse_friend(story, chosen)
    hold: Answer = held["hold"]
    return hold


def _choose(story: Story, promises: list[Answer]) -> Answer:
    """Returns the dearest promise of the brand that gave a coupon, since the coupon has a minimum spend."""
    return min(promises, key=lambda each: (each["brand"]["id"] != story.goods_brand_id, -Decimal(each["price"]["amount"])))


async def _refuse_friend(story: Story, chosen: Answer) -> None:
    setup, gateway = story.setup, story.gateway
    gateway.set_clock(21, 41)
    left = await _search(story, setup.friend)
    held = [each for each in left["unavailable"] if each["storeId"] == setup.store_id and each["obstacle"] == "HELD"]
    if not held:
        raise StoryError("the second search does not report that the last piece is held")
    story.report(
        setup.friend.name,
        "searches for the same.",
        f"Promise search: the last piece at {held[0]['storeName']} is held until {display.format_time(held[0]['until'])}.",
        refused=True,
    )
    refused = await gateway.mutate(setup.friend, "hold_promise", **_hold_input(story, chosen, "friend's hold"))
    if refused.get("__typename") != "OutOfStock":
        raise StoryError("two consumers hold the last piece")
    story.report_refusal(setup.friend.name, "tries to hold it anyway.", refused)


async def _search(story: Story, person: Person) -> Answer:
    data = await story.gateway.execute(
        person,
        "promises",
        near=story.setup.hotel,
        text=story.wish,
        attributes=story.setup.attributes,
        neededBy=needed_by(story),
        first=20,
    )
    found: Answer = data["promises"]
    return found


def _hold_input(story: Story, promise: Answer, key: str) -> dict[str, Any]:
    return {
        "variantId": promise["variantId"],
        "storeId": promise["storeId"],
        "quantity": 1,
        "method": promise["method"],
        "destination": story.setup.hotel,
        "neededBy": needed_by(story),
        "idempotencyKey": story.key(key),
    }


def needed_by(story: Story) -> str:
    """Returns the time by which the consumer needs the goods, as ISO 8601."""
    return moment(story.gateway.day, NEEDED_MINUTE, ZONE).isoformat()
