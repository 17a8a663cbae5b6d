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
from datetime import UTC, datetime, timedelta
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from services.member.relation.enums import Direction, InteractionKind, Stage

LOYAL_ORDERS = 3
INSTANT = timedelta(milliseconds=1)
"""The grain of time in the whole suite."""
HALF_LIFE = timedelta(days=30)
HEAT_SCALE = 40.0
AHEAD_MAX = timedelta(minutes=5)
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
"""Nobody records by hand what was before: an earlier time is a mistake."""

WITHIN = {Stage.LOYALTY: timedelta(days=180), Stage.PURCHASE: timedelta(days=365), Stage.INTEREST: timedelta(days=180)}
"""For how long an event holds a stage up."""

WEIGHT = {
    InteractionKind.CONTENT_VIEWED: 1.0,
    InteractionKind.PACK_RECEIVED: 2.0,
    InteractionKind.OUTREACH_RECEIVED: 2.0,
    InteractionKind.OFFER_VIEWED: 2.0,
    InteractionKind.OFFER_KEPT: 6.0,
    InteractionKind.STORE_VISITED: 6.0,
    InteractionKind.ASKED: 6.0,
    InteractionKind.FOLLOWED: 8.0,
    InteractionKind.ORDER_PAID: 20.0,
}
TURNS_TO = frozenset(InteractionKind) - {InteractionKind.CONTENT_VIEWED, InteractionKind.PACK_RECEIVED, InteractionKind.OUTREACH_RECEIVED}
"""What a person does towards a brand, rather than the brand towards the person."""
FROM_EVENTS = frozenset({InteractionKind.PACK_RECEIVED, InteractionKind.OUTREACH_RECEIVED, InteractionKind.ORDER_PAID})


class Money(Struct, frozen=True):
    minor: int
    currency: str


class Interaction(Struct, frozen=True, omit_defaults=True):
    """Something that happened between a consumer and a brand."""

    id: str
    consumer_id: str
    brand_id: str
    kind: InteractionKind
    at: datetime
    touchpoint: str = "TOUCHPOINT_UNSPECIFIED"
    scenario: str = "SCENARIO_UNSPECIFIED"
    ref: Annotated[str, Meta(max_length=100)] = ""
    paid: Money | None = None
    version: int = 1


class Cause(Struct, frozen=True):
    interaction_id: str
    kind: InteractionKind
    ref: str = ""


class Mark(Struct, frozen=True):
    """An event that still holds a stage up."""

    at: datetime
    cause: Cause


class Relation(Struct, frozen=True, omit_defaults=True):
    """What the fold knows after the interactions so far. `heat` is as of `last_at`; `closeness` is told by `as_of` only."""

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


class Transition(Struct, frozen=True, omit_defaults=True):
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
    """The interaction that an event about `ref` means for a brand: the same event means the same interaction."""
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
    return Relation(relation_id(person_id, brand_id), person_id, brand_id, Stage.UNSPECIFIED, first.at, first.at, first.at, cause)


def _after(relation: Relation, interaction: Interaction, moves: list[Transition]) -> Relation:
    """One step of the fold: the event itself."""
    at, cause = interaction.at, Cause(interaction.id, interaction.kind, interaction.ref)
    mark = Mark(at, cause)
    is_order = interaction.kind is InteractionKind.ORDER_PAID
    orders = [*relation.orders, mark][-LOYAL_ORDERS:] if is_order else relation.orders
    turned = mark if interaction.kind in TURNS_TO else relation.turned
    stage, held_by = _stage(orders, turned, at)
    if moved := stage is not relation.stage:
        moves.append(_move(relation, stage, at, Direction.ADVANCE, cause))
    return replace(
        relation,
        stage=stage,
        stage_since=at if moved else relation.stage_since,
        transition_count=relation.transition_count + moved,
        lapses_at=held_by.at + WITHIN[stage] if held_by else None,
        last_at=at,
        last=cause,
        heat=cooled(relation.heat, at - relation.last_at) + WEIGHT[interaction.kind],
        interaction_count=relation.interaction_count + 1,
        order_count=relation.order_count + is_order,
        spent=_plus(relation.spent, interaction.paid),
        orders=orders,
        turned=turned,
    )


def _lapsed(relation: Relation, at: datetime, moves: list[Transition]) -> Relation:
    """The relation after everything that ran out until `at`."""
    while (then := relation.lapses_at) is not None and then <= at:
        _, ran_out = _stage(relation.orders, relation.turned, then - INSTANT)
        assert ran_out is not None
        stage, held_by = _stage(relation.orders, relation.turned, then)
        moves.append(_move(relation, stage, then, Direction.LAPSE, ran_out.cause))
        relation = replace(
            relation,
            stage=stage,
            stage_since=then,
            transition_count=relation.transition_count + 1,
            lapses_at=held_by.at + WITHIN[stage] if held_by else None,
        )
    return relation


def _move(relation: Relation, stage: Stage, at: datetime, direction: Direction, cause: Cause) -> Transition:
    number = relation.transition_count + 1
    id, consumer_id, brand_id = f"{relation.id}_{number}", relation.consumer_id, relation.brand_id
    return Transition(id, consumer_id, brand_id, relation.stage, stage, at, direction, cause, number)


def _stage(orders: Sequence[Mark], turned: Mark | None, at: datetime) -> tuple[Stage, Mark | None]:
    """The deepest stage that holds at a moment not before the last event, and the event that holds it up."""
    if len(orders) == LOYAL_ORDERS and at < orders[0].at + WITHIN[Stage.LOYALTY]:
        return Stage.LOYALTY, orders[0]
    if orders and at < orders[-1].at + WITHIN[Stage.PURCHASE]:
        return Stage.PURCHASE, orders[-1]
    if turned and at < turned.at + WITHIN[Stage.INTEREST]:
        return Stage.INTEREST, turned
    return Stage.AWARENESS, None


def _plus(spent: list[Money], paid: Money | None) -> list[Money]:
    if paid is None or not paid.minor:
        return spent
    totals = {money.currency: money.minor for money in spent}
    totals[paid.currency] = totals.get(paid.currency, 0) + paid.minor
    return [Money(totals[currency], currency) for currency in sorted(totals)]
