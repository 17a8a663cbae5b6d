"""How a person stands with a brand follows from what happened, and from nothing else: a left fold over the interactions in order of time.

**Stage** (AIPL) at a moment t is the deepest that holds then:

- LOYALTY: at least 3 orders in the 180 days before t; - PURCHASE: an order in the 365 days before t;
- INTEREST: something the person did towards the brand in the 180 days before t; - AWARENESS: anything at all.

An event can only deepen it (ADVANCE, caused by the event), time can only undo it (LAPSE, at the very moment an event runs out, caused by
that event). Lapses that are due are part of what a relation is as of now, whether anything happened since or not.

**Closeness** = 100 · (1 - 2^(-heat / 40)) where heat = Σ weight(kind) · 2^(-age / 30 days): a fresh order is 29, three of them 65, and what
nothing is added to halves its heat every 30 days. 100 is never reached.

Interactions that come late make the fold start anew, so that the result is the one it would be had they come in time.
"""

import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import replace

LOYAL_ORDERS = 3
LOYAL_WITHIN = timedelta(days=180)
PURCHASE_WITHIN = timedelta(days=365)
INTEREST_WITHIN = timedelta(days=180)
HALF_LIFE = timedelta(days=30)
HEAT_SCALE = 40.0
AHEAD_MAX = timedelta(minutes=5)


class Reason(StrEnum):
    CONSUMER_NOT_FOUND = "CONSUMER_NOT_FOUND"
    RELATION_NOT_FOUND = "RELATION_NOT_FOUND"
    BRAND_NOT_YOURS = "BRAND_NOT_YOURS"
    KIND_NOT_RECORDED = "KIND_NOT_RECORDED"
    IN_THE_FUTURE = "IN_THE_FUTURE"
    CONSUMER_OR_BRAND = "CONSUMER_OR_BRAND"
    INVALID_FIELD = "INVALID_FIELD"


class Stage(StrEnum):
    NONE = "STAGE_UNSPECIFIED"
    AWARENESS = "STAGE_AWARENESS"
    INTEREST = "STAGE_INTEREST"
    PURCHASE = "STAGE_PURCHASE"
    LOYALTY = "STAGE_LOYALTY"


DEPTH = {stage: depth for depth, stage in enumerate(Stage)}


class Direction(StrEnum):
    ADVANCE = "DIRECTION_ADVANCE"
    LAPSE = "DIRECTION_LAPSE"


class Kind(StrEnum):
    PACK_RECEIVED = "INTERACTION_KIND_PACK_RECEIVED"
    OUTREACH_RECEIVED = "INTERACTION_KIND_OUTREACH_RECEIVED"
    ORDER_PAID = "INTERACTION_KIND_ORDER_PAID"
    CONTENT_VIEWED = "INTERACTION_KIND_CONTENT_VIEWED"
    OFFER_VIEWED = "INTERACTION_KIND_OFFER_VIEWED"
    OFFER_KEPT = "INTERACTION_KIND_OFFER_KEPT"
    FOLLOWED = "INTERACTION_KIND_FOLLOWED"
    STORE_VISITED = "INTERACTION_KIND_STORE_VISITED"
    ASKED = "INTERACTION_KIND_ASKED"


WEIGHT = {
    Kind.CONTENT_VIEWED: 1.0,
    Kind.PACK_RECEIVED: 2.0,
    Kind.OUTREACH_RECEIVED: 2.0,
    Kind.OFFER_VIEWED: 2.0,
    Kind.OFFER_KEPT: 6.0,
    Kind.STORE_VISITED: 6.0,
    Kind.ASKED: 6.0,
    Kind.FOLLOWED: 8.0,
    Kind.ORDER_PAID: 20.0,
}
TURNS_TO = frozenset(Kind) - {Kind.CONTENT_VIEWED, Kind.PACK_RECEIVED, Kind.OUTREACH_RECEIVED}
"""What a person does towards a brand, rather than the brand towards the person."""
FROM_FACTS = frozenset({Kind.PACK_RECEIVED, Kind.OUTREACH_RECEIVED, Kind.ORDER_PAID})


class Money(Struct, frozen=True):
    minor: int
    currency: str


class Interaction(Struct, frozen=True):
    """Something that happened between a consumer and a brand."""

    id: str
    consumer_id: str
    brand_id: str
    kind: Kind
    at: datetime
    touchpoint: str = "TOUCHPOINT_UNSPECIFIED"
    scenario: str = "SCENARIO_UNSPECIFIED"
    ref: Annotated[str, Meta(max_length=100)] = ""
    paid: Money | None = None
    version: int = 1


class Cause(Struct, frozen=True):
    interaction_id: str
    kind: Kind
    ref: str = ""


class Mark(Struct, frozen=True):
    """An event that still holds a stage up."""

    at: datetime
    cause: Cause


class Relation(Struct, frozen=True):
    """What the fold knows after the interactions so far. `heat` is as of `last_at`; `closeness` and `lapses_at` follow (see `as_of`)."""

    id: str
    consumer_id: str
    brand_id: str
    stage: Stage
    stage_since: datetime
    first_at: datetime
    last_at: datetime
    last: Cause
    heat: float = 0.0
    closeness: float = 0.0
    lapses_at: datetime | None = None
    interaction_count: int = 0
    order_count: int = 0
    spent: list[Money] = []
    transition_count: int = 0
    orders: list[Mark] = []
    """The latest LOYAL_ORDERS orders, in order of time."""
    turned: Mark | None = None
    """The latest thing the person did towards the brand."""
    version: int = 1


class Transition(Struct, frozen=True):
    """One move of a stage."""

    id: str
    consumer_id: str
    brand_id: str
    from_stage: Stage
    to_stage: Stage
    at: datetime
    direction: Direction
    cause: Cause
    number: int
    """1, 2, 3 … within the relation."""
    version: int = 1


Folded = tuple[Relation | None, list[Transition]]


def relation_id(person_id: str, brand_id: str) -> str:
    """The relation of a person with a brand has one id, so that two writers meet in one row."""
    return f"rel_{person_id}_{brand_id}"


def interaction_id(ref: str, brand_id: str) -> str:
    """The interaction that a fact about `ref` means for a brand: the same fact means the same interaction."""
    return f"int_{ref}_{brand_id}"


def order(interaction: Interaction) -> tuple[datetime, str]:
    """What interactions are folded by."""
    return interaction.at, interaction.id


def closeness(heat: float) -> float:
    """0 to 100, see above."""
    return 100.0 * (1.0 - math.pow(2.0, -heat / HEAT_SCALE))


def cooled(heat: float, passed: timedelta) -> float:
    """Heat after some time in which nothing happened."""
    return heat * math.pow(2.0, -(passed / HALF_LIFE))


def recount(person_id: str, brand_id: str, interactions: Iterable[Interaction]) -> Folded:
    """The relation and all its moves, from scratch. The order in which the interactions come does not matter."""
    return advance(None, person_id, brand_id, sorted(interactions, key=order))


def is_late(relation: Relation | None, interaction: Interaction) -> bool:
    """Whether an interaction comes before one that is counted already, so that the fold must start anew."""
    return relation is not None and order(interaction) <= (relation.last_at, relation.last.interaction_id)


def advance(relation: Relation | None, person_id: str, brand_id: str, interactions: Sequence[Interaction]) -> Folded:
    """Goes on with a relation by interactions in order of time, none of them late; the relation and its new moves."""
    moves: list[Transition] = []
    for interaction in interactions:
        if relation is None:
            relation = _born(person_id, brand_id, interaction)
        relation = _lapsed(relation, interaction.at, moves)
        relation = _after(relation, interaction, moves)
    return relation, moves


def as_of(relation: Relation, at: datetime) -> tuple[Relation, list[Transition]]:
    """The relation at a later moment at which nothing else happened, and the lapses that became due."""
    moves: list[Transition] = []
    relation = _lapsed(relation, at, moves)
    heat = cooled(relation.heat, max(at - relation.last_at, timedelta()))
    return replace(relation, closeness=closeness(heat)), moves


def _born(person_id: str, brand_id: str, first: Interaction) -> Relation:
    cause = Cause(first.id, first.kind, first.ref)
    return Relation(relation_id(person_id, brand_id), person_id, brand_id, Stage.NONE, first.at, first.at, first.at, cause)


def _after(relation: Relation, interaction: Interaction, moves: list[Transition]) -> Relation:
    """One step of the fold: the event itself."""
    cause = Cause(interaction.id, interaction.kind, interaction.ref)
    mark = Mark(interaction.at, cause)
    is_order = interaction.kind is Kind.ORDER_PAID
    heat = cooled(relation.heat, interaction.at - relation.last_at) + WEIGHT[interaction.kind]
    relation = replace(
        relation,
        last_at=interaction.at,
        last=cause,
        heat=heat,
        closeness=closeness(heat),
        interaction_count=relation.interaction_count + 1,
        order_count=relation.order_count + is_order,
        spent=_plus(relation.spent, interaction.paid),
        orders=[*relation.orders, mark][-LOYAL_ORDERS:] if is_order else relation.orders,
        turned=mark if interaction.kind in TURNS_TO else relation.turned,
    )
    stage = _stage(relation, interaction.at)
    relation = _moved(relation, stage, interaction.at, Direction.ADVANCE, cause, moves)
    held_by, window = _held(relation)
    return replace(relation, lapses_at=held_by.at + window if held_by else None)


def _lapsed(relation: Relation, at: datetime, moves: list[Transition]) -> Relation:
    """The relation after everything that ran out until `at`."""
    while relation.lapses_at is not None and relation.lapses_at <= at:
        held_by, _ = _held(relation)
        assert held_by is not None
        then = relation.lapses_at
        relation = _moved(relation, _stage(relation, then), then, Direction.LAPSE, held_by.cause, moves)
        held_by, window = _held(relation)
        relation = replace(relation, lapses_at=held_by.at + window if held_by else None)
    return relation


def _moved(relation: Relation, stage: Stage, at: datetime, direction: Direction, cause: Cause, moves: list[Transition]) -> Relation:
    if stage is relation.stage:
        return relation
    number = relation.transition_count + 1
    id, consumer_id, brand_id = f"{relation.id}_{number}", relation.consumer_id, relation.brand_id
    moves.append(Transition(id, consumer_id, brand_id, relation.stage, stage, at, direction, cause, number))
    return replace(relation, stage=stage, stage_since=at, transition_count=number)


def _stage(relation: Relation, at: datetime) -> Stage:
    """The deepest stage that holds at a moment not before the last event."""
    orders = relation.orders
    if len(orders) == LOYAL_ORDERS and at < orders[0].at + LOYAL_WITHIN:
        return Stage.LOYALTY
    if orders and at < orders[-1].at + PURCHASE_WITHIN:
        return Stage.PURCHASE
    if relation.turned and at < relation.turned.at + INTEREST_WITHIN:
        return Stage.INTEREST
    return Stage.AWARENESS


def _held(relation: Relation) -> tuple[Mark | None, timedelta]:
    """The event that holds the stage up, and for how long it does."""
    if relation.stage is Stage.LOYALTY:
        return relation.orders[0], LOYAL_WITHIN
    if relation.stage is Stage.PURCHASE:
        return relation.orders[-1], PURCHASE_WITHIN
    if relation.stage is Stage.INTEREST:
        return relation.turned, INTEREST_WITHIN
    return None, timedelta()


def _plus(spent: list[Money], paid: Money | None) -> list[Money]:
    if paid is None or not paid.minor:
        return spent
    total = paid.minor + sum(money.minor for money in spent if money.currency == paid.currency)
    others = [money for money in spent if money.currency != paid.currency]
    return sorted([*others, Money(total, paid.currency)], key=lambda money: money.currency)


# what facts mean -----------------------------------------------------------------------------------------------------


def of_order(order: dict[str, Any]) -> list[Interaction]:
    """What a paid order (an OrderSummary's fields) means: a purchase with each brand in it, and with the seller if that is none of them."""
    if not order.get("consumer_id"):
        return []
    lines = order.get("lines", [])
    paid: dict[str, dict[str, int]] = {}
    for line in lines:
        money = line.get("paid", {})
        brand = paid.setdefault(line["brand_id"], {})
        brand[money.get("currency", "")] = brand.get(money.get("currency", ""), 0) + money.get("minor", 0)
    if (seller_id := order.get("seller_id", "")) and seller_id not in paid:
        total: dict[str, int] = {}
        for by_currency in paid.values():
            for currency, minor in by_currency.items():
                total[currency] = total.get(currency, 0) + minor
        paid[seller_id] = total
    return [
        Interaction(
            id=interaction_id(order["order_id"], brand_id),
            consumer_id=order["consumer_id"],
            brand_id=brand_id,
            kind=Kind.ORDER_PAID,
            at=order["paid_at"],
            touchpoint=order.get("touchpoint", "TOUCHPOINT_UNSPECIFIED"),
            scenario=order.get("scenario", "SCENARIO_UNSPECIFIED"),
            ref=order["order_id"],
            # An order is in one currency.
            paid=next((Money(minor, currency) for currency, minor in by_currency.items() if currency), None),
        )
        for brand_id, by_currency in paid.items()
    ]


def of_pack(pack: dict[str, Any], at: datetime) -> list[Interaction]:
    """What a given pack (a PackIssued's fields) means: each brand with a coupon in it reached the consumer."""
    return [
        Interaction(
            id=interaction_id(pack["pack_id"], brand_id),
            consumer_id=pack["consumer_id"],
            brand_id=brand_id,
            kind=Kind.PACK_RECEIVED,
            at=at,
            touchpoint=pack.get("touchpoint", "TOUCHPOINT_UNSPECIFIED"),
            scenario="SCENARIO_DISTRICT_VISIT",
            ref=pack["pack_id"],
        )
        for brand_id in dict.fromkeys(coupon["brand_id"] for coupon in pack.get("coupons", []))
    ]
