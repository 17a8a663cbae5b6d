"""Chapter 1: into the district, one pack of coupons, home with an empty hand."""

from services.local.story import wording
from services.local.story.stage import Answer, Person, Surprise
from services.local.story.walk import Walk


async def visit(walk: Walk) -> list[Answer]:
    """Entering, the pack, the same pack again, leaving; the coupons."""
    cast, stage = walk.cast, walk.stage
    walk.timeline.chapter("1  The district: one pack, picked for her 商圈集合券包")
    if cast.spent:
        await _friend_takes_the_last(walk)
    stage.clock(19, 30)
    entered = await _enter(walk, cast.consumer)
    walk.tell(cast.consumer.called, f"enters {wording.name(entered['district'])}", "the geofence noticed her phone: an open visit")
    stage.clock(19, 31)
    pack = await _claim(walk, "pack", entered["id"])
    walk.tell(
        cast.consumer.called, f"gets one pack of {len(pack['entries'])} coupons", "her own purchases decide, budgets and consent allow"
    )
    _tell_pack(walk, pack)
    stage.clock(19, 50)
    again = await _claim(walk, "pack again", entered["id"])
    if again["id"] != pack["id"] or again["entries"] != pack["entries"]:
        raise Surprise("asked again the same day, another pack was given")
    walk.tell(cast.consumer.called, "asks again and gets the same pack", "one pack a day, whatever the request")
    stage.clock(20, 40)
    left = await stage.done(cast.consumer, "leave_district", visitId=entered["id"], idempotencyKey=walk.key("leave"))
    if left["visit"]["state"] != "LEFT":
        raise Surprise(f"she left, and the visit is {left['visit']['state']}")
    walk.tell(cast.consumer.called, "leaves the district, nothing bought", "the visit is over: a fact that others act on")
    coupons: list[Answer] = pack["entries"]
    return coupons


def _tell_pack(walk: Walk, pack: Answer) -> None:
    """Each coupon with its reason, each brand that was declined with the rule against it."""
    for entry in pack["entries"]:
        coupon = f"{entry['name']['zh']}: {wording.money(entry['value'])} off from {wording.money(entry['minimumSpend'])}"
        walk.tell(f"  {wording.name(entry['brand'])}", coupon, wording.reason(entry["reason"]))
    for declined in pack["declined"]:
        reason = declined["reason"]
        walk.tell(f"  {wording.name(declined['brand'])}", wording.words(reason), wording.DECLINED[reason], refused=True)
    due = {(walk.cast.spent, "BUDGET_SPENT"), (walk.cast.unconsented, "CONSENT_MISSING")}
    due = {(brand_id, reason) for brand_id, reason in due if brand_id}
    if missing := due - {(declined["brand"]["id"], declined["reason"]) for declined in pack["declined"]}:
        raise Surprise(f"the pack does not say {sorted(missing)}")


async def _friend_takes_the_last(walk: Walk) -> None:
    """The friend's pack spends a budget of one coupon, if an earlier story has not."""
    cast = walk.cast
    walk.stage.clock(19, 10)
    entered = await _enter(walk, cast.friend)
    result = await walk.stage.act(cast.friend, "claim_pack", visitId=entered["id"], idempotencyKey=walk.key("friend's pack"))
    got = [entry["brand"] for entry in result.get("pack", {}).get("entries", ()) if entry["brand"]["id"] == cast.spent]
    if got:
        walk.tell(cast.friend.called, f"takes the last coupon of {wording.name(got[0])}", "its budget was one coupon")


async def _enter(walk: Walk, person: Person) -> Answer:
    result = await walk.stage.done(
        person,
        "enter_district",
        districtId=walk.cast.district_id,
        touchpoint="MINI_PROGRAM",
        position=walk.cast.inside,
        idempotencyKey=walk.key(f"enter {person.subject}"),
    )
    entered: Answer = result["visit"]
    return entered


async def _claim(walk: Walk, key: str, visit_id: str) -> Answer:
    result = await walk.stage.done(walk.cast.consumer, "claim_pack", visitId=visit_id, idempotencyKey=walk.key(key))
    pack: Answer = result["pack"]
    return pack
