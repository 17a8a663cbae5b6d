"""Chapters 5 and 6: what the order changed. Her stage with the brand moved, and the scorecards count it once."""

from datetime import datetime

from services.local.story import wording
from services.local.story.stage import Answer, Surprise
from services.local.story.walk import Walk

EVENTS_SHOWN, STORES_SHOWN = 6, 3
ONE_ORDER = {"orders": 1, "online": 1, "offline": 0, "urgent need": 1, "by the store": 1}


async def asset(walk: Walk, order_id: str) -> None:
    """The stage of the relation and the events that moved it."""
    cast, stage = walk.cast, walk.stage
    walk.timeline.chapter("5  The consumer asset: her stage, and what moved it 消费者资产")

    async def counted() -> Answer | None:
        relation: Answer | None = (
            await stage.ask(cast.operator, "consumer_asset", consumerId=cast.consumer.subject, brandId=cast.brand_id, first=20)
        )["relation"]
        refs = [node["ref"] for node in relation["interactions"]["nodes"]] if relation else []
        return relation if order_id in refs else None

    relation = await stage.until("the relation", counted)
    transitions = relation["transitions"]["nodes"]
    if cast.last_of and (transitions[0]["toStage"], transitions[0]["cause"]["ref"]) != ("LOYALTY", order_id):
        raise Surprise("this order did not move her stage")
    walk.tell(
        cast.operator.called,
        f"sees stage {relation['stage']}, closeness {relation['closeness']:.0f} of 100",
        wording.count(relation["orderCount"], "order"),
    )
    for transition in reversed(transitions):
        walk.tell(
            f"  {datetime.fromisoformat(transition['at']):%Y-%m-%d}",
            f"{transition['fromStage'] or 'nobody'} → {transition['toStage']}",
            wording.cause(transition),
        )
    events = relation["interactions"]["nodes"][:EVENTS_SHOWN]
    walk.tell(cast.operator.called, f"sees the last {wording.count(len(events), 'event')} between them", "the newest at the end")
    for event in reversed(events):
        walk.tell(f"  {datetime.fromisoformat(event['at']):%Y-%m-%d}", wording.words(event["kind"]), event["ref"] or "")


async def scorecards(walk: Walk) -> dict[str, Answer]:
    """The day's scorecards of the store, its region and the brand of the goods, as their operators see them."""
    cast, day = walk.cast, str(walk.stage.day)
    subjects = {
        "store": (cast.operator, {"storeId": walk.served_by}),
        "region": (cast.operator, {"unitId": cast.region_unit_id}),
        "brand": (cast.goods_operator, {"brandId": walk.goods_brand_id}),
    }
    return {
        name: (await walk.stage.ask(person, "scorecard", **subject, fromDay=day, untilDay=day))["scorecard"]
        for name, (person, subject) in subjects.items()
    }


async def counted_once(walk: Walk, before: dict[str, Answer]) -> None:
    """The order on each scorecard: once, online, under its scenario, fulfilled by the store."""
    walk.timeline.chapter("6  The scorecards: counted once, taken online, fulfilled by the store")
    for name, card in (await scorecards(walk)).items():
        earlier = wording.counts(before[name], walk.served_by)
        gained = {what: count - earlier[what] for what, count in wording.counts(card, walk.served_by).items()}
        if gained != ONE_ORDER:
            raise Surprise(f"the scorecard of the {name} gained {gained}")
        fulfilled = ", ".join(f"{wording.name(each['store'])} {each['total']['orders']}" for each in card["byStore"][:STORES_SHOWN])
        walk.tell(
            f"scorecard of the {name} {wording.name(card['store'] or card['unit'] or card['brand'])}",
            f"+1 order: {wording.figures(card['total'])}, online {card['online']['orders']}, offline {card['offline']['orders']}",
            f"scenario urgent need; fulfilled by {fulfilled}",
        )
        for attainment in card["attainments"]:
            ratios = f"online {attainment['onlineRatio']:.2%}, offline {attainment['offlineRatio']:.2%}"
            target = f"{attainment['totalRatio']:.2%} of {wording.money(attainment['target']['total'])}"
            walk.tell("  target of the month", target, ratios)
