"""Chapter 1, the district visit: a consumer enters, claims one coupon pack and leaves without a purchase."""

from services.local.story import display
from services.local.story.gateway_client import Answer, Person, StoryError
from services.local.story.story import Story


async def visit_district(story: Story) -> list[Answer]:
    """Plays the visit and returns the coupons."""
    setup, gateway = story.setup, story.gateway
    story.timeline.heading("1  The district: one coupon pack 商圈集合券包")
    if setup.spent:
        await _spend_budget(story)
    gateway.set_clock(19, 30)
    entered = await _enter(story, setup.consumer)
    story.report(
        setup.consumer.name,
        f"enters {display.format_name(entered['district'])}.",
        "Geofence: the phone is inside the district, so a visit is open.",
    )
    gateway.set_clock(19, 31)
    pack = await _claim(story, "pack", entered["id"])
    story.report(
        setup.consumer.name,
        f"claims a pack and gets {display.format_count(len(pack['entries']), 'coupon')}.",
        "Matching: past purchases rank the brands. Budget and consent decide which of them may give a coupon.",
    )
    _report_pack(story, pack)
    gateway.set_clock(19, 50)
    again = await _claim(story, "pack again", entered["id"])
    if again["id"] != pack["id"] or again["entries"] != pack["entries"]:
        raise StoryError("a second claim on the same day returned another pack")
    story.report(setup.consumer.name, "claims again and gets the same pack.", "Packs: one per consumer and day, whatever the request.")
    gateway.set_clock(20, 40)
    left = await gateway.mutate_or_fail(setup.consumer, "leave_district", visitId=entered["id"], idempotencyKey=story.key("leave"))
    if left["visit"]["state"] != "LEFT":
        raise StoryError(f"the consumer left, but the visit is {left['visit']['state']}")
    story.report(
        setup.consumer.name,
        "leaves the district without a purchase.",
        "Events: the district publishes that the visit ended. Member and organization act on it.",
    )
    coupons: list[Answer] = pack["entries"]
    return coupons


def _report_pack(story: Story, pack: Answer) -> None:
    """Reports each coupon with its reason, and each declined brand with the rule that declined it."""
    for entry in pack["entries"]:
        coupon = f"{entry['name']['zh']}, {display.format_money(entry['value'])} off from {display.format_money(entry['minimumSpend'])}."
        story.detail(display.format_name(entry["brand"]), coupon, display.format_reason(entry["reason"]))
    for declined in pack["declined"]:
        reason = declined["reason"]
        story.detail(display.format_name(declined["brand"]), f"no coupon, {reason}.", display.DECLINED[reason], refused=True)
    due = {(story.setup.spent, "BUDGET_SPENT"), (story.setup.unconsented, "CONSENT_MISSING")}
    due = {(brand_id, reason) for brand_id, reason in due if brand_id}
    if missing := due - {(declined["brand"]["id"], declined["reason"]) for declined in pack["declined"]}:
        raise StoryError(f"the pack does not list these declined brands: {sorted(missing)}")


async def _spend_budget(story: Story) -> None:
    """Lets the friend claim a pack, which spends a budget of one coupon unless an earlier story has."""
    setup = story.setup
    story.gateway.set_clock(19, 10)
    entered = await _enter(story, setup.friend)
    result = await story.gateway.mutate(setup.friend, "claim_pack", visitId=entered["id"], idempotencyKey=story.key("friend's pack"))
    got = [entry["brand"] for entry in result.get("pack", {}).get("entries", ()) if entry["brand"]["id"] == setup.spent]
    if got:
        story.report(
            setup.friend.name,
            f"gets the last coupon of {display.format_name(got[0])}.",
            "Budget: this brand gives one coupon in this campaign, and it is now used up.",
        )


async def _enter(story: Story, person: Person) -> Answer:
    result = await story.gateway.mutate_or_fail(
        person,
        "enter_district",
        districtId=story.setup.district_id,
        touchpoint="MINI_PROGRAM",
        position=story.setup.inside,
        idempotencyKey=story.key(f"enter {person.subject}"),
    )
    entered: Answer = result["visit"]
    return entered


async def _claim(story: Story, key: str, visit_id: str) -> Answer:
    result = await story.gateway.mutate_or_fail(story.setup.consumer, "claim_pack", visitId=visit_id, idempotencyKey=story.key(key))
    pack: Answer = result["pack"]
    return pack
