"""Chapter 3: a stain at the hotel. What can be in her hands tonight is found, and the last one is held for her."""

from decimal import Decimal
from typing import Any

from services.kit.calendar import moment
from services.local.story import wording
from services.local.story.stage import ZONE, Answer, Person, Surprise
from services.local.story.walk import Walk

SHOWN_MAX = 4
NEEDED_MINUTE = 23 * 60 + 30


async def stain(walk: Walk) -> Answer:
    """The search at the hotel, the hold, and what the second consumer is told."""
    cast, stage = walk.cast, walk.stage
    walk.timeline.chapter("3  The stain: what can be in her hands tonight 随时随地买得到")
    stage.clock(21, 40)
    size = "".join(f", {each['name']} {each['value']}" for each in cast.attributes)
    promises = (await _promises(walk, cast.consumer))["promises"]
    walk.tell(cast.consumer.called, f"at the hotel: “{walk.wish}{size}, tonight”", f"{wording.count(len(promises), 'promise')} near by")
    if not promises:
        raise Surprise("nothing can be had near by")
    for promise in promises[:SHOWN_MAX]:
        walk.tell(
            f"  {promise['storeName']}",
            f"{wording.name(promise)}, {wording.promise(promise)}",
            f"{wording.words(promise['availability'])}, {wording.money(promise['price'])}",
        )
    chosen = _chosen(walk, promises)
    walk.served_by, walk.goods_brand_id = chosen["storeId"], chosen["brand"]["id"]
    held = await stage.done(cast.consumer, "hold_promise", **_choice(walk, chosen, "hold"))
    walk.tell(cast.consumer.called, f"holds it at {chosen['storeName']}", f"kept back until {wording.clock(held['hold']['expiresAt'])}")
    if cast.last_of:
        await _too_late_for_a_friend(walk, chosen)
    hold: Answer = held["hold"]
    return hold


def _chosen(walk: Walk, promises: list[Answer]) -> Answer:
    """Several brands, or goods of one brand, may be called the same: one of the brand whose coupon she has, dear enough to spend it on."""
    return min(promises, key=lambda each: (each["brand"]["id"] != walk.goods_brand_id, -Decimal(each["price"]["amount"])))


async def _too_late_for_a_friend(walk: Walk, chosen: Answer) -> None:
    cast, stage = walk.cast, walk.stage
    stage.clock(21, 41)
    left = await _promises(walk, cast.friend)
    gone = [each for each in left["unavailable"] if each["storeId"] == cast.store_id and each["obstacle"] == "HELD"]
    if not gone:
        raise Surprise("a second search does not say that the last one is held")
    walk.tell(
        cast.friend.called,
        f"searches the same: the last one at {gone[0]['storeName']} is held",
        f"until {wording.clock(gone[0]['until'])}",
        refused=True,
    )
    refused = await stage.act(cast.friend, "hold_promise", **_choice(walk, chosen, "friend's hold"))
    if refused.get("__typename") != "OutOfStock":
        raise Surprise("the last one was held twice")
    walk.tell(cast.friend.called, f"tries to hold it all the same: {refused['message']}", refused["code"], refused=True)


async def _promises(walk: Walk, person: Person) -> Answer:
    data = await walk.stage.ask(
        person,
        "promises",
        near=walk.cast.hotel,
        text=walk.wish,
        attributes=walk.cast.attributes,
        neededBy=tonight(walk),
        first=20,
    )
    found: Answer = data["promises"]
    return found


def _choice(walk: Walk, promise: Answer, key: str) -> dict[str, Any]:
    return {
        "variantId": promise["variantId"],
        "storeId": promise["storeId"],
        "quantity": 1,
        "method": promise["method"],
        "destination": walk.cast.hotel,
        "neededBy": tonight(walk),
        "idempotencyKey": walk.key(key),
    }


def tonight(walk: Walk) -> str:
    """Until when she needs it."""
    return moment(walk.stage.day, NEEDED_MINUTE, ZONE).isoformat()
