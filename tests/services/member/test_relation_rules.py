"""The fold: one result whatever the order, a cause for every move, and nothing lost when people are linked and unlinked."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanyu.events.v1 import events_pb2
from services.member.relation import interactions, rules
from services.member.relation.enums import Direction, InteractionKind, Stage
from services.member.relation.rules import Cause, Interaction, Money

START = datetime(2025, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
STAGES = list(Stage)
"""From the shallowest to the deepest."""
# Days rather than arbitrary moments, so that ties and exact run-outs are met.
TIMES = st.integers(0, 900).map(lambda days: START + days * DAY)
INTERACTIONS = st.lists(
    st.builds(
        Interaction,
        id=st.integers(0, 10**6).map(lambda number: f"int_{number:07}"),
        consumer_id=st.sampled_from(["con_a", "con_b"]),
        brand_id=st.just("brd_1"),
        kind=st.sampled_from(InteractionKind),
        at=TIMES,
        ref=st.just("ref"),
        paid=st.none() | st.builds(Money, minor=st.integers(0, 10**6), currency=st.sampled_from(["CNY", "USD"])),
    ),
    unique_by=lambda one: one.id,
    max_size=25,
)


def kept(batches):
    """What a store does: goes on where nothing is late, starts anew where something is."""
    relation, moves, seen = None, [], []
    for batch in batches:
        batch = sorted(batch, key=rules.order)
        seen += batch
        if batch and rules.is_late(relation, batch[0]):
            relation, moves = rules.recount("con_a", "brd_1", seen)
        else:
            relation, more = rules.advance(relation, "con_a", "brd_1", batch)
            moves = moves + more
    return relation, moves


@given(INTERACTIONS, st.randoms(), st.integers(1, 6))
def test_kept_step_by_step_equals_counted_from_scratch(interactions, random, size):
    shuffled = random.sample(interactions, len(interactions))
    batches = [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
    assert kept(batches) == rules.recount("con_a", "brd_1", interactions)


def stage_by_definition(interactions, at):
    """The stage at a moment straight from the definition, without a fold."""
    so_far = [one for one in interactions if one.at <= at]
    if not so_far:
        return Stage.UNSPECIFIED
    orders = [one for one in so_far if one.kind is InteractionKind.ORDER_PAID]
    if sum(at < one.at + rules.WITHIN[Stage.LOYALTY] for one in orders) >= rules.LOYAL_ORDERS:
        return Stage.LOYALTY
    if any(at < one.at + rules.WITHIN[Stage.PURCHASE] for one in orders):
        return Stage.PURCHASE
    if any(at < one.at + rules.WITHIN[Stage.INTEREST] for one in so_far if one.kind in rules.TURNS_TO):
        return Stage.INTEREST
    return Stage.AWARENESS


@given(INTERACTIONS.filter(bool), st.integers(0, 500))
def test_the_stage_as_of_any_later_moment_is_what_its_definition_says(interactions, days):
    relation, moves = rules.recount("con_a", "brd_1", interactions)
    at = relation.last_at + days * DAY
    now, due = rules.as_of(relation, at)
    assert now.stage is stage_by_definition(interactions, at)
    for move in [*moves, *due]:
        assert stage_by_definition(interactions, move.at) in {other.to_stage for other in [*moves, *due] if other.at == move.at}


@given(INTERACTIONS.filter(bool))
def test_moves_form_a_chain_and_each_names_its_cause(interactions):
    relation, moves = rules.recount("con_a", "brd_1", interactions)
    relation, due = rules.as_of(relation, START + 3000 * DAY)
    moves = [*moves, *due]
    causes = {one.id: one for one in interactions}
    assert relation.stage is Stage.AWARENESS
    assert [move.number for move in moves] == list(range(1, relation.transition_count + 1))
    assert [move.from_stage for move in moves] == [Stage.UNSPECIFIED, *(move.to_stage for move in moves[:-1])]
    for move in moves:
        deeper = STAGES.index(move.to_stage) > STAGES.index(move.from_stage)
        assert (move.direction is Direction.ADVANCE) == deeper
        cause = causes[move.cause.interaction_id]
        assert (cause.kind, cause.ref) == (move.cause.kind, move.cause.ref)
        assert cause.at == move.at if deeper else cause.at < move.at


@given(INTERACTIONS.filter(bool), st.integers(0, 400))
def test_closeness_is_the_sum_of_weights_halved_every_thirty_days(interactions, days):
    relation, _ = rules.recount("con_a", "brd_1", interactions)
    at = relation.last_at + days * DAY
    heat = sum(rules.WEIGHT[one.kind] * 0.5 ** ((at - one.at) / rules.HALF_LIFE) for one in interactions)
    now, _ = rules.as_of(relation, at)
    assert now.closeness == pytest.approx(100 * (1 - 2 ** (-heat / rules.HEAT_SCALE)), rel=1e-9, abs=1e-9)
    assert 0 <= now.closeness <= 100


@given(INTERACTIONS)
def test_linking_counts_both_and_unlinking_restores(interactions):
    mine = [one for one in interactions if one.consumer_id == "con_a"]
    theirs = [one for one in interactions if one.consumer_id == "con_b"]
    linked, _ = rules.recount("con_a", "brd_1", [*mine, *theirs])
    assert (linked.interaction_count if linked else 0) == len(interactions)
    assert rules.recount("con_a", "brd_1", [one for one in interactions if one.consumer_id == "con_a"]) == kept([mine])


@given(INTERACTIONS)
def test_what_was_spent_adds_up_per_currency(interactions):
    relation, _ = rules.recount("con_a", "brd_1", interactions)
    spent = {money.currency: money.minor for money in relation.spent} if relation else {}
    for currency in ("CNY", "USD"):
        assert spent.get(currency, 0) == sum(one.paid.minor for one in interactions if one.paid and one.paid.currency == currency)


def test_three_orders_make_loyalty_and_time_takes_it_back():
    orders = [Interaction(f"int_{n}", "con_a", "brd_1", InteractionKind.ORDER_PAID, START + n * 10 * DAY, ref=f"ord_{n}") for n in range(3)]
    relation, moves = rules.recount("con_a", "brd_1", orders)
    assert [(move.to_stage, move.cause.ref) for move in moves] == [(Stage.PURCHASE, "ord_0"), (Stage.LOYALTY, "ord_2")]
    assert relation.lapses_at == START + 180 * DAY
    later, due = rules.as_of(relation, START + 400 * DAY)
    assert [(move.to_stage, move.at - START, move.cause) for move in due] == [
        (Stage.PURCHASE, 180 * DAY, Cause("int_0", InteractionKind.ORDER_PAID, "ord_0")),
        (Stage.AWARENESS, 385 * DAY, Cause("int_2", InteractionKind.ORDER_PAID, "ord_2")),
    ]
    assert (later.stage, later.lapses_at) == (Stage.AWARENESS, None)


def test_an_order_is_a_purchase_for_each_brand_in_it_and_for_the_seller():
    lines: list[Any] = [
        {"brand_id": "brd_1", "paid": {"minor": 100, "currency": "CNY"}},
        {"brand_id": "brd_2", "paid": {"minor": 30, "currency": "CNY"}},
        {"brand_id": "brd_1", "paid": {"minor": 5, "currency": "CNY"}},
    ]
    order = events_pb2.OrderSummary(
        order_id="ord_1", consumer_id="con_a", seller_id="rtl_1", paid_at=START, touchpoint="TOUCHPOINT_APP",
        scenario="SCENARIO_URGENT_NEED", lines=lines,
    )  # fmt: skip
    meant = {one.brand_id: one for one in interactions.of_order(order)}
    assert {brand: one.paid.minor for brand, one in meant.items()} == {"brd_1": 105, "brd_2": 30, "rtl_1": 135}
    assert {one.id for one in meant.values()} == {"int_ord_1_brd_1", "int_ord_1_brd_2", "int_ord_1_rtl_1"}
    assert {(one.at, one.touchpoint, one.scenario) for one in meant.values()} == {(START, "TOUCHPOINT_APP", "SCENARIO_URGENT_NEED")}
    order.seller_id = "brd_2"
    assert [one.brand_id for one in interactions.of_order(order)] == ["brd_1", "brd_2"]
    order.consumer_id = ""
    assert interactions.of_order(order) == []


def test_every_interaction_kind_has_a_weight():
    assert set(rules.WEIGHT) == set(InteractionKind)
