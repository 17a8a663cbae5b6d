"""Chapters 5 and 6, the outcome: the order moves the relation's stage, and each scorecard counts the order once."""

from datetime import datetime

from services.local.story import display
from services.local.story.gateway_client import Answer, StoryError
from services.local.story.story import Story

INTERACTIONS_SHOWN_MAX, STORES_SHOWN_MAX = 6, 3
ONE_ORDER = {"orders": 1, "online": 1, "offline": 0, "urgent need": 1, "by the store": 1}
"""The story's order adds exactly this to each scorecard."""


async def check_relation(story: Story, order_id: str) -> None:
    """Reports the relation's stage and the interactions that moved it; checks that the order is among them."""
    setup, gateway = story.setup, story.gateway
    story.timeline.heading("5  The consumer asset: the stage and what moved it 消费者资产")

    async def find_order() -> Answer | None:
        relation: Answer | None = (
            await gateway.execute(setup.operator, "consumer_asset", consumerId=setup.consumer.subject, brandId=setup.brand_id, first=20)
        )["relation"]
        refs = [node["ref"] for node in relation["interactions"]["nodes"]] if relation else []
        return relation if order_id in refs else None

    relation = await gateway.wait_for("the relation", find_order)
    transitions = relation["transitions"]["nodes"]
    if setup.last_of and (transitions[0]["toStage"], transitions[0]["cause"]["ref"]) != ("LOYALTY", order_id):
        raise StoryError("the order did not move the stage")
    orders = display.format_count(relation["orderCount"], "order")
    story.report(
        setup.operator.name,
        f"sees stage {relation['stage']}, closeness {relation['closeness']:.0f} of 100, {orders}.",
        "Relation: computed from every interaction of the consumer with the brand. Each stage change names its cause.",
    )
    for transition in reversed(transitions):
        change = f"{transition['fromStage'] or 'no stage'} → {transition['toStage']}."
        story.detail(f"{datetime.fromisoformat(transition['at']):%Y-%m-%d}", change, f"Cause: {display.format_cause(transition)}.")
    latest = relation["interactions"]["nodes"][:INTERACTIONS_SHOWN_MAX]
    story.report(setup.operator.name, f"sees the last {display.format_count(len(latest), 'interaction')}, the newest at the end.")
    for interaction in reversed(latest):
        day = f"{datetime.fromisoformat(interaction['at']):%Y-%m-%d}"
        story.detail(day, display.format_label(interaction["kind"]), interaction["ref"] or "")


async def fetch_scorecards(story: Story) -> dict[str, Answer]:
    """Returns today's scorecards of the store, its region and the brand of the goods, as their operators see them."""
    setup, day = story.setup, str(story.gateway.day)
    subjects = {
        "store": (setup.operator, {"storeId": story.serving_store_id}),
        "region": (setup.operator, {"orgUnitId": setup.region_org_unit_id}),
        "brand": (setup.goods_operator, {"brandId": story.goods_brand_id}),
    }
    return {
        name: (await story.gateway.execute(person, "scorecard", **subject, fromDay=day, untilDay=day))["scorecard"]
        for name, (person, subject) in subjects.items()
    }


async def check_scorecards(story: Story, before: dict[str, Answer]) -> None:
    """Checks that each scorecard counts the order once: online, under its scenario, fulfilled by the store."""
    story.timeline.heading("6  The scorecards: one order, counted once on each level")
    for name, card in (await fetch_scorecards(story)).items():
        earlier = display.count_orders(before[name], story.serving_store_id)
        gained = {kind: count - earlier[kind] for kind, count in display.count_orders(card, story.serving_store_id).items()}
        if gained != ONE_ORDER:
            raise StoryError(f"the scorecard of the {name} gained {gained} instead of one order")
        stores = [f"{display.format_name(each['store'])} {each['total']['orders']}" for each in card["byStore"][:STORES_SHOWN_MAX]]
        story.report(
            f"Scorecard of the {name} {display.format_name(card['store'] or card['orgUnit'] or card['brand'])}",
            f"gains 1 order. Today: {display.format_totals(card['total'])}, {card['online']['orders']} of them online.",
            f"Scenario: urgent need. Fulfilled by: {', '.join(stores)}.",
        )
        for attainment in card["attainments"]:
            ratios = f"Online {attainment['onlineRatio']:.2%}, offline {attainment['offlineRatio']:.2%}."
            target = f"{attainment['totalRatio']:.2%} of {display.format_money(attainment['target']['total'])}."
            story.detail("target of the month", target, ratios)
