"""Decayed frequency: grown by sums it is what counting anew would give."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.district.matching import rules
from services.district.matching.rules import Interest, Purchase

NOW = datetime(2026, 11, 22, 13, 40, tzinfo=UTC)
consumers = st.sampled_from(["con_a", "con_b", "con_c"])
brands = st.frozensets(st.sampled_from(["brd_a", "brd_b", "brd_c"]), min_size=1)
moments = st.datetimes(datetime(2016, 1, 1), datetime(2026, 11, 22)).map(lambda at: at.replace(tzinfo=UTC))
purchases = st.builds(Purchase, consumers, moments, brands)


def recount(history: list[Purchase], consumer_id: str, brand_id: str, at: datetime) -> float:
    """The formula, word for word."""
    mine = [item for item in history if item.consumer_id == consumer_id and brand_id in item.brand_ids]
    return sum(float(0.5 ** ((at - item.paid_at) / rules.HALF_LIFE)) for item in mine)


@given(st.lists(purchases, max_size=30), st.randoms(), st.timedeltas(timedelta(0), timedelta(days=400)))
def test_grown_by_sums_in_any_order_and_any_batches_it_is_the_recount(history: list[Purchase], chance: object, later: timedelta) -> None:
    shuffled = list(history)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    grown: dict[str, dict[str, Interest]] = {}
    while shuffled:
        size = chance.randint(1, 7)  # type: ignore[attr-defined]
        batch, shuffled = shuffled[:size], shuffled[size:]
        for consumer_id, added in rules.gather(batch).items():
            grown[consumer_id] = rules.combine([grown.get(consumer_id, {}), added])
    at = NOW + later
    for consumer_id, view in grown.items():
        for brand_id, interest in view.items():
            mine = [item for item in history if item.consumer_id == consumer_id and brand_id in item.brand_ids]
            assert rules.frequency(interest, at) == pytest.approx(recount(history, consumer_id, brand_id, at), rel=1e-9)
            assert interest.orders == len(mine)
            assert interest.last_at == max(item.paid_at for item in mine)
    assert sum(interest.orders for view in grown.values() for interest in view.values()) == sum(len(item.brand_ids) for item in history)


@given(purchases, st.timedeltas(timedelta(0), timedelta(days=4000)))
def test_a_purchase_counts_half_after_thirteen_weeks(purchase: Purchase, age: timedelta) -> None:
    interest = Interest(rules.gain(purchase.paid_at), 1, purchase.paid_at)
    at = purchase.paid_at + age
    assert rules.frequency(interest, purchase.paid_at) == pytest.approx(1)
    assert rules.frequency(interest, at + timedelta(weeks=13)) == pytest.approx(rules.frequency(interest, at) / 2)


def test_a_date_out_of_all_bounds_does_not_overflow() -> None:
    assert rules.gain(datetime.max.replace(tzinfo=UTC)) == rules.gain(rules.LATEST) < float("inf")
    assert rules.gain(datetime.min.replace(tzinfo=UTC)) == 0


@given(st.lists(purchases, max_size=30), st.text(max_size=5))
def test_the_order_is_by_frequency_then_by_a_stable_order_of_the_new(history: list[Purchase], seed: str) -> None:
    view = rules.combine(rules.gather(history).values())
    candidates = ["brd_a", "brd_b", "brd_c", "brd_x", "brd_y", "brd_z"]
    ranked = rules.rank(candidates, view, NOW, seed)
    assert sorted(ranked) == candidates
    assert ranked == rules.rank(reversed(candidates), view, NOW, seed)
    bought = [brand for brand in ranked if brand in view]
    assert ranked[: len(bought)] == bought
    frequencies = [rules.frequency(view[brand], NOW) for brand in bought]
    assert frequencies == sorted(frequencies, reverse=True)
    assert [brand for brand in rules.rank(candidates, {}, NOW, seed) if brand not in view] == ranked[len(bought) :]


def test_the_new_ones_come_in_another_order_for_another_consumer() -> None:
    candidates = [f"brd_{number}" for number in range(30)]
    assert len({tuple(rules.rank(candidates, {}, NOW, f"con_{number}")) for number in range(20)}) == 20


@given(st.lists(purchases, min_size=1, max_size=20))
def test_unlinking_restores_what_each_id_had(history: list[Purchase]) -> None:
    views = rules.gather(history)
    together = rules.combine(views.values())
    assert sum(interest.orders for interest in together.values()) == sum(i.orders for view in views.values() for i in view.values())
    assert views == rules.gather(history)
