"""Rules of relations: the relation of a person with a brand is a left fold over their interactions in order of time.

**Stage** (AIPL) at a moment t is the deepest one whose condition holds:

- LOYALTY: at least 3 orders in the 180 days before t; - PURCHASE: an order in the 365 days before t;
- INTEREST: an interaction that the consumer initiated in the 180 days before t; - AWARENESS: any interaction before t.

An interaction only deepens the stage (ADVANCE, caused by the interaction). Time only reduces it (LAPSE, at the moment when an interaction
expires, caused by that interaction). A relation as of t includes all lapses that are due at t.

**Closeness** = 100 · (1 - 2^(-heat / 40)) with heat = Σ weight(kind) · 2^(-age / 30 days). One new order is 29, three are 65. Without
interactions the heat halves every 30 days. 100 is never reached.

A late interaction restarts the fold, so that the result does not depend on the order of arrival.
"""

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from services.member.relation.enums import Direction, InteractionKind, Stage

LOYALTY_ORDERS_MIN = 3
"""This many orders within the loyalty period make a loyal consumer."""
TIME_RESOLUTION = timedelta(milliseconds=1)
"""Stored times have this resolution."""
HALF_LIFE = timedelta(days=30)
"""Heat halves within this time."""
HEAT_SCALE = 40.0
"""A relation with this heat has a closeness of 50."""
FUTURE_MAX = timedelta(minutes=5)
"""A recorded interaction may lie at most this far in the future, for clocks that run fast."""
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
"""An interaction recorded by hand with an earlier time is refused as a mistake."""

STAGE_DURATION = {Stage.LOYALTY: timedelta(days=180), Stage.PURCHASE: timedelta(days=365), Stage.INTEREST: timedelta(days=180)}
"""An interaction supports a stage for this long."""

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
CONSUMER_INITIATED = frozenset(InteractionKind) - {
    InteractionKind.CONTENT_VIEWED,
    InteractionKind.PACK_RECEIVED,
    InteractionKind.OUTREACH_RECEIVED,
}
"""The consumer initiates interactions of these kinds; the brand initiates all others."""
RECORDED_FROM_EVENTS = frozenset({InteractionKind.PACK_RECEIVED, InteractionKind.OUTREACH_RECEIVED, InteractionKind.ORDER_PAID})
"""Interactions of these kinds are recorded from events only; a request to record one is refused."""


class Money(Struct, frozen=True):
    minor: int
    currency: str


class Interaction(Struct, frozen=True, omit_defaults=True):
    """An interaction of a consumer with a brand, or of a brand with a consumer."""

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
    """The interaction that caused a transition; `ref` is the id of the order, pack or message behind it."""

    interaction_id: str
    kind: InteractionKind
    ref: str = ""


class StageEvidence(Struct, frozen=True):
    """An interaction that may support a stage, and its time."""

    at: datetime
    cause: Cause


class Relation(Struct, frozen=True, omit_defaults=True):
    """The state of the fold. `heat` is as of `last_at`; `closeness` is computed by `evaluate` only."""

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
    orders: list[StageEvidence] = []
    """The latest LOYALTY_ORDERS_MIN orders in order of time."""
    turned: StageEvidence | None = None
    """The latest interaction that the consumer initiated."""
    version: int = 1


class Transition(Struct, frozen=True, omit_defaults=True):
    """A change of the stage."""

    id: str
    consumer_id: str
    brand_id: str
    from_stage: Stage
    to_stage: Stage
    at: datetime
    direction: Direction
    cause: Cause
    number: int
    """The position in the relation: 1, 2, 3 …"""
    version: int = 1


FoldResult = tuple[Relation | None, list[Transition]]
"""A relation (None without interactions) and the transitions that the fold added."""


def relation_id(person_id: str, brand_id: str) -> str:
    """Returns the id of the relation of a person with a brand; concurrent writers conflict in that document."""
    return f"rel_{person_id}_{brand_id}"


def interaction_id(ref: str, brand_id: str) -> str:
    """Returns the id of the interaction that an event about `ref` is for a brand; a repeated event gives the same id."""
    return f"int_{ref}_{brand_id}"


def fold_key(interaction: Interaction) -> tuple[datetime, str]:
    """Returns the sort key in which interactions are folded: time, then id."""
    return interaction.at, interaction.id


def compute_closeness(heat: float) -> float:
    """Returns the closeness, 0 to 100, of a heat."""
    return 100.0 * (1.0 - math.pow(2.0, -heat / HEAT_SCALE))


def decay(heat: float, passed: timedelta) -> float:
    """Returns the heat after some time without interactions."""
    return heat * math.pow(2.0, -(passed / HALF_LIFE))


def recount(person_id: str, brand_id: str, interactions: Iterable[Interaction]) -> FoldResult:
    """Returns the relation and all its transitions, folded from the start. The order of `interactions` does not matter."""
    return advance(None, person_id, brand_id, sorted(interactions, key=fold_key))


def is_late(relation: Relation | None, interaction: Interaction) -> bool:
    """True if an interaction is earlier than one that the relation includes, so that the fold must restart."""
    return relation is not None and fold_key(interaction) <= (relation.last_at, relation.last.interaction_id)


def advance(relation: Relation | None, person_id: str, brand_id: str, interactions: Sequence[Interaction]) -> FoldResult:
    """Returns the relation after further interactions, in order of time and none of them late, and its new transitions."""
    transitions: list[Transition] = []
    for interaction in interactions:
        if relation is None:
            relation = _start(person_id, brand_id, interaction)
        relation = _apply_lapses(relation, interaction.at, transitions)
        relation = _apply(relation, interaction, transitions)
    return relation, transitions


def evaluate(relation: Relation, at: datetime) -> tuple[Relation, list[Transition]]:
    """Returns the relation as of a later moment without further interactions, and the lapses that became due."""
    transitions: list[Transition] = []
    relation = _apply_lapses(relation, at, transitions)
    heat = decay(relation.heat, max(at - relation.last_at, timedelta()))
    return replace(relation, closeness=compute_closeness(heat)), transitions


def _start(person_id: str, brand_id: str, first: Interaction) -> Relation:
    cause = Cause(first.id, first.kind, first.ref)
    return Relation(relation_id(person_id, brand_id), person_id, brand_id, Stage.UNSPECIFIED, first.at, first.at, first.at, cause)


def _apply(relation: Relation, interaction: Interaction, transitions: list[Transition]) -> Relation:
    """Returns the relation after an interaction: one step of the fold without lapses."""
    at, cause = interaction.at, Cause(interaction.id, interaction.kind, interaction.ref)
    current = StageEvidence(at, cause)
    is_order = interaction.kind is InteractionKind.ORDER_PAID
    orders = [*relation.orders, current][-LOYALTY_ORDERS_MIN:] if is_order else relation.orders
    turned = current if interaction.kind in CONSUMER_INITIATED else relation.turned
    stage, evidence = _find_stage(orders, turned, at)
    if has_moved := stage is not relation.stage:
        transitions.append(_build_transition(relation, stage, at, Direction.ADVANCE, cause))
    return replace(
        relation,
        stage=stage,
        stage_since=at if has_moved else relation.stage_since,
        transition_count=relation.transition_count + has_moved,
        lapses_at=evidence.at + STAGE_DURATION[stage] if evidence else None,
        last_at=at,
        last=cause,
        heat=decay(relation.heat, at - relation.last_at) + WEIGHT[interaction.kind],
        interaction_count=relation.interaction_count + 1,
        order_count=relation.order_count + is_order,
        spent=_add_payment(relation.spent, interaction.paid),
        orders=orders,
        turned=turned,
    )


def _apply_lapses(relation: Relation, at: datetime, transitions: list[Transition]) -> Relation:
    """Returns the relation after all lapses until `at`, and appends them to `transitions`."""
    while (lapses_at := relation.lapses_at) is not None and lapses_at <= at:
        _, expired = _find_stage(relation.orders, relation.turned, lapses_at - TIME_RESOLUTION)
        assert expired is not None
        stage, evidence = _find_stage(relation.orders, relation.turned, lapses_at)
        transitions.append(_build_transition(relation, stage, lapses_at, Direction.LAPSE, expired.cause))
        relation = replace(
            relation,
            stage=stage,
            stage_since=lapses_at,
            transition_count=relation.transition_count + 1,
            lapses_at=evidence.at + STAGE_DURATION[stage] if evidence else None,
        )
    return relation


def _build_transition(relation: Relation, stage: Stage, at: datetime, direction: Direction, cause: Cause) -> Transition:
    number = relation.transition_count + 1
    id, consumer_id, brand_id = f"{relation.id}_{number}", relation.consumer_id, relation.brand_id
    return Transition(id, consumer_id, brand_id, relation.stage, stage, at, direction, cause, number)


def _find_stage(orders: Sequence[StageEvidence], turned: StageEvidence | None, at: datetime) -> tuple[Stage, StageEvidence | None]:
    """Returns the deepest stage at a moment not before the last interaction, and the interaction that supports it."""
    if len(orders) == LOYALTY_ORDERS_MIN and at < orders[0].at + STAGE_DURATION[Stage.LOYALTY]:
        return Stage.LOYALTY, orders[0]
    if orders and at < orders[-1].at + STAGE_DURATION[Stage.PURCHASE]:
        return Stage.PURCHASE, orders[-1]
    if turned and at < turned.at + STAGE_DURATION[Stage.INTEREST]:
        return Stage.INTEREST, turned
    return Stage.AWARENESS, None


def _add_payment(spent: list[Money], paid: Money | None) -> list[Money]:
    """Returns the sums per currency with a payment added."""
    if paid is None or not paid.minor:
        return spent
    totals = {money.currency: money.minor for money in spent}
    totals[paid.currency] = totals.get(paid.currency, 0) + paid.minor
    return [Money(totals[currency], currency) for currency in sorted(totals)]
