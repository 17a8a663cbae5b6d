"""Relation rules: the fold gives one result for any order, and each transition names its cause."""

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


def fold_in_batches(batches):
    """Folds batch by batch like the repository: continues unless an interaction is late, then restarts."""
    relation, transitions, so_far = None, [], []
    for batch in batches:
        batch = sorted(batch, key=rules.fold_key)
        so_far += batch
        if batch and rules.is_late(relation, batch[0]):
            relation, transitions = rules.recount("con_a", "brd_1", so_far)
        else:
            relation, more = rules.advance(relation, "con_a", "brd_1", batch)
            transitions = transitions + more
    return relation, transitions


@given(INTERACTIONS, st.randoms(), st.integers(1, 6))
def test_batched_fold_equals_recount(interactions, random, size):
    shuffled = random.sample(interactions, len(interactions))
    batches = [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
    assert fold_in_batches(batches) == rules.recount("con_a", "brd_1", interactions)


def stage_by_definition(interactions, at):
    """Returns the stage at a moment by its definition, without a fold."""
    so_far = [one for one in interactions if one.at <= at]
    if not so_far:
        return Stage.UNSPECIFIED
    orders = [one for one in so_far if one.kind is InteractionKind.ORDER_PAID]
    if sum(at < one.at + rules.STAGE_DURATION[Stage.LOYALTY] for one in orders) >= rules.LOYALTY_ORDERS_MIN:
        return Stage.LOYALTY
    if any(at < one.at + rules.STAGE_DURATION[Stage.PURCHASE] for one in orders):
        return Stage.PURCHASE
    if any(at < one.at + rules.STAGE_DURATION[Stage.INTEREST] for one in so_far if one.kind in rules.CONSUMER_INITIATED):
        return Stage.INTEREST
    return Stage.AWARENESS


@given(INTERACTIONS.filter(bool), st.integers(0, 500))
def test_stage_at_any_moment_follows_its_definition(interactions, days):
    relation, transitions = rules.recount("con_a", "brd_1", interactions)
    at = relation.last_at + days * DAY
    current, due = rules.evaluate(relation, at)
    assert current.stage is stage_by_definition(interactions, at)
    for transition in [*transitions, *due]:
        assert stage_by_definition(interactions, transition.at) in {
            other.to_stage for other in [*transitions, *due] if other.at == transition.at
        }


@given(INTERACTIONS.filter(bool))
def test_transitions_form_a_chain_with_causes(interactions):
    relation, transitions = rules.recount("con_a", "brd_1", interactions)
    relation, due = rules.evaluate(relation, START + 3000 * DAY)
    transitions = [*transitions, *due]
    causes = {one.id: one for one in interactions}
    assert relation.stage is Stage.AWARENESS
    assert [transition.number for transition in transitions] == list(range(1, relation.transition_count + 1))
    assert [transition.from_stage for transition in transitions] == [
        Stage.UNSPECIFIED,
        *(transition.to_stage for transition in transitions[:-1]),
    ]
    for transition in transitions:
        deeper = STAGES.index(transition.to_stage) > STAGES.index(transition.from_stage)
        assert (transition.direction is Direction.ADVANCE) == deeper
        cause = causes[transition.cause.interaction_id]
        assert (cause.kind, cause.ref) == (transition.cause.kind, transition.cause.ref)
        assert cause.at == transition.at if deeper else cause.at < transition.at


@given(INTERACTIONS.filter(bool), st.integers(0, 400))
def test_closeness_follows_decayed_weights(interactions, days):
    relation, _ = rules.recount("con_a", "brd_1", interactions)
    at = relation.last_at + days * DAY
    heat = sum(rules.WEIGHT[one.kind] * 0.5 ** ((at - one.at) / rules.HALF_LIFE) for one in interactions)
    current, _ = rules.evaluate(relation, at)
    assert current.closeness == pytest.approx(100 * (1 - 2 ** (-heat / rules.HEAT_SCALE)), rel=1e-9, abs=1e-9)
    assert 0 <= current.closeness <= 100


@given(INTERACTIONS)
def test_recount_of_linked_consumers_includes_both(interactions):
    mine = [one for one in interactions if one.consumer_id == "con_a"]
    theirs = [one for one in interactions if one.consumer_id == "con_b"]
    linked, _ = rules.recount("con_a", "brd_1", [*mine, *theirs])
    assert (linked.interaction_count if linked else 0) == len(interactions)
    assert rules.recount("con_a", "brd_1", [one for one in interactions if one.consumer_id == "con_a"]) == fold_in_batches([mine])


@given(INTERACTIONS)
def test_spent_amounts_add_up_per_currency(interactions):
    relation, _ = rules.recount("con_a", "brd_1", interactions)
    spent = {money.currency: money.minor for money in relation.spent} if relation else {}
    for currency in ("CNY", "USD"):
        assert spent.get(currency, 0) == sum(one.paid.minor for one in interactions if one.paid and one.paid.currency == currency)


def test_three_orders_make_loyalty_until_they_expire():
    orders = [Interaction(f"int_{n}", "con_a", "brd_1", InteractionKind.ORDER_PAID, START + n * 10 * DAY, ref=f"ord_{n}") for n in range(3)]
    relation, transitions = rules.recount("con_a", "brd_1", orders)
    assert [(transition.to_stage, transition.cause.ref) for transition in transitions] == [
        (Stage.PURCHASE, "ord_0"),
        (Stage.LOYALTY, "ord_2"),
    ]
    assert relation.lapses_at == START + 180 * DAY
    later, due = rules.evaluate(relation, START + 400 * DAY)
    assert [(transition.to_stage, transition.at - START, transition.cause) for transition in due] == [
        (Stage.PURCHASE, 180 * DAY, Cause("int_0", InteractionKind.ORDER_PAID, "ord_0")),
        (Stage.AWARENESS, 385 * DAY, Cause("int_2", InteractionKind.ORDER_PAID, "ord_2")),
    ]
    assert (later.stage, later.lapses_at) == (Stage.AWARENESS, None)


def test_order_is_a_purchase_for_brands_and_seller():
    lines: list[Any] = [
        {"brand_id": "brd_1", "paid": {"minor": 100, "currency": "CNY"}},
        {"brand_id": "brd_2", "paid": {"minor": 30, "currency": "CNY"}},
        {"brand_id": "brd_1", "paid": {"minor": 5, "currency": "CNY"}},
    ]
    order = events_pb2.OrderSummary(
        order_id="ord_1", consumer_id="con_a", seller_id="rtl_1", paid_at=START, touchpoint="TOUCHPOINT_APP",
        scenario="SCENARIO_URGENT_NEED", lines=lines,
    )  # fmt: skip
    by_brand = {one.brand_id: one for one in interactions.from_order(order)}
    assert {brand: one.paid.minor for brand, one in by_brand.items()} == {"brd_1": 105, "brd_2": 30, "rtl_1": 135}
    assert {one.id for one in by_brand.values()} == {"int_ord_1_brd_1", "int_ord_1_brd_2", "int_ord_1_rtl_1"}
    assert {(one.at, one.touchpoint, one.scenario) for one in by_brand.values()} == {(START, "TOUCHPOINT_APP", "SCENARIO_URGENT_NEED")}
    order.seller_id = "brd_2"
    assert [one.brand_id for one in interactions.from_order(order)] == ["brd_1", "brd_2"]
    order.consumer_id = ""
    assert interactions.from_order(order) == []


def test_every_interaction_kind_has_a_weight():
    assert set(rules.WEIGHT) == set(InteractionKind)
