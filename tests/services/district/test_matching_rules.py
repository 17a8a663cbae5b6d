"""Matching rules: the summed decayed frequency equals a recount, and ranking is stable."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.district.matching import rules
from services.district.matching.rules import Affinity, Purchase

NOW = datetime(2026, 11, 22, 13, 40, tzinfo=UTC)
consumers = st.sampled_from(["con_a", "con_b", "con_c"])
brands = st.frozensets(st.sampled_from(["brd_a", "brd_b", "brd_c"]), min_size=1)
moments = st.datetimes(datetime(2016, 1, 1), datetime(2026, 11, 22)).map(lambda at: at.replace(tzinfo=UTC))
purchases = st.builds(Purchase, consumers, moments, brands)


def recount(history: list[Purchase], consumer_id: str, brand_id: str, at: datetime) -> float:
    """Returns the decayed frequency by its definition."""
    own = [item for item in history if item.consumer_id == consumer_id and brand_id in item.brand_ids]
    return sum(float(0.5 ** ((at - item.paid_at) / rules.HALF_LIFE)) for item in own)


@given(st.lists(purchases, max_size=30), st.randoms(), st.timedeltas(timedelta(0), timedelta(days=400)))
def test_sums_in_any_order_equal_the_recount(history: list[Purchase], random: object, later: timedelta) -> None:
    shuffled = list(history)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    summed: dict[str, dict[str, Affinity]] = {}
    while shuffled:
        size = random.randint(1, 7)  # type: ignore[attr-defined]
        batch, shuffled = shuffled[:size], shuffled[size:]
        for consumer_id, added in rules.sum_by_consumer(batch).items():
            summed[consumer_id] = rules.combine([summed.get(consumer_id, {}), added])
    at = NOW + later
    for consumer_id, view in summed.items():
        for brand_id, affinity in view.items():
            own = [item for item in history if item.consumer_id == consumer_id and brand_id in item.brand_ids]
            assert rules.compute_frequency(affinity, at) == pytest.approx(recount(history, consumer_id, brand_id, at), rel=1e-9)
            assert affinity.orders == len(own)
            assert affinity.last_at == max(item.paid_at for item in own)
    assert sum(affinity.orders for view in summed.values() for affinity in view.values()) == sum(len(item.brand_ids) for item in history)


@given(purchases, st.timedeltas(timedelta(0), timedelta(days=4000)))
def test_purchase_counts_half_after_thirteen_weeks(purchase: Purchase, age: timedelta) -> None:
    affinity = Affinity(rules.compute_weight(purchase.paid_at), 1, purchase.paid_at)
    at = purchase.paid_at + age
    assert rules.compute_frequency(affinity, purchase.paid_at) == pytest.approx(1)
    assert rules.compute_frequency(affinity, at + timedelta(weeks=13)) == pytest.approx(rules.compute_frequency(affinity, at) / 2)


def test_extreme_dates_do_not_overflow() -> None:
    assert rules.compute_weight(datetime.max.replace(tzinfo=UTC)) == rules.compute_weight(rules.LATEST_AT) < float("inf")
    assert rules.compute_weight(datetime.min.replace(tzinfo=UTC)) == 0


@given(st.lists(purchases, max_size=30), st.text(max_size=5))
def test_rank_is_by_frequency_then_stable(history: list[Purchase], seed: str) -> None:
    view = rules.combine(rules.sum_by_consumer(history).values())
    candidates = ["brd_a", "brd_b", "brd_c", "brd_x", "brd_y", "brd_z"]
    ranked = rules.rank(candidates, view, NOW, seed)
    assert sorted(ranked) == candidates
    assert ranked == rules.rank(reversed(candidates), view, NOW, seed)
    bought = [brand for brand in ranked if brand in view]
    assert ranked[: len(bought)] == bought
    frequencies = [rules.compute_frequency(view[brand], NOW) for brand in bought]
    assert frequencies == sorted(frequencies, reverse=True)
    assert [brand for brand in rules.rank(candidates, {}, NOW, seed) if brand not in view] == ranked[len(bought) :]


def test_new_brands_rank_differently_for_each_consumer() -> None:
    candidates = [f"brd_{number}" for number in range(30)]
    assert len({tuple(rules.rank(candidates, {}, NOW, f"con_{number}")) for number in range(20)}) == 20


@given(st.lists(purchases, min_size=1, max_size=20))
def test_combining_views_leaves_them_unchanged(history: list[Purchase]) -> None:
    views = rules.sum_by_consumer(history)
    combined = rules.combine(views.values())
    assert sum(affinity.orders for affinity in combined.values()) == sum(i.orders for view in views.values() for i in view.values())
    assert views == rules.sum_by_consumer(history)
