"""Every order counts once, whoever looks; and one guide at most is credited, by an event that is named."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.errors import Invalid
from services.organization.targets import rules, scorecards
from services.organization.targets.enums import CreditBasis, Taken
from services.organization.targets.rules import Binding, Credit, Line, Order, Reached, Seller
from services.organization.targets.scorecards import Split, Sum

AT = datetime(2026, 5, 31, 17, 30, tzinfo=UTC)
STORES = {
    "str_1": Seller("brd_a", ("unt_brd_a", "unt_north", "unt_str_1"), "Asia/Shanghai"),
    "str_2": Seller("brd_a", ("unt_brd_a", "unt_south", "unt_str_2"), "Asia/Shanghai"),
    "str_3": Seller("rtl_r", ("unt_rtl_r", "unt_str_3"), "America/New_York"),
}
ZONES = {"brd_a": "Asia/Shanghai", "brd_b": "Europe/London", "rtl_r": "America/New_York"}
SCENARIOS = ["SCENARIO_IN_STORE", "SCENARIO_URGENT_NEED", "SCENARIO_UNSPECIFIED"]
TOUCHPOINTS = ["TOUCHPOINT_STORE", "TOUCHPOINT_MINI_PROGRAM", "TOUCHPOINT_WEB", "TOUCHPOINT_DISTRICT_SCREEN"]

lines = st.builds(Line, st.sampled_from(["brd_a", "brd_b", "brd_unknown"]), st.integers(1, 5), st.integers(0, 10**6))
drafts = st.lists(
    st.tuples(
        st.sampled_from(sorted(STORES)), st.sampled_from(TOUCHPOINTS), st.sampled_from(SCENARIOS), st.sampled_from(["CNY", "USD"]),
        st.integers(0, 90 * 24), st.lists(lines, min_size=1, max_size=4),
    ),
    max_size=30,
)  # fmt: skip


def credits(drafts: list) -> list[Credit]:
    return [
        rules.count(Order(f"ord_{n}", store, touchpoint, scenario, AT + timedelta(hours=hours), currency, items), STORES[store], ZONES)
        for n, (store, touchpoint, scenario, currency, hours, items) in enumerate(drafts)
    ]


def stored(sums: dict) -> dict:
    """The documents that these increments leave."""
    return {key: scorecards.nested(cells) for key, cells in sums.items()}


@given(
    drafts,
    st.sampled_from(["unt_brd_a", "unt_north", "unt_str_2", "unt_rtl_r"]),
    st.sampled_from(["CNY", "USD"]),
    st.integers(0, 90),
    st.integers(0, 90),
)
def test_a_units_scorecard_counts_each_of_its_orders_once(drafts: list, unit: str, currency: str, first: int, length: int) -> None:
    rows = credits(drafts)
    from_day = date(2026, 5, 30) + timedelta(days=first)
    until_day = from_day + timedelta(days=length)
    documents = stored(scorecards.counters(rows))
    found = [documents[unit, bucket]["cells"] for bucket in scorecards.buckets(from_day, until_day) if (unit, bucket) in documents]
    tally = scorecards.tally(scorecards.cells(found), currency)
    inside = [row for row in rows if unit in row.org_unit_ids and from_day.isoformat() <= row.day <= until_day.isoformat()]
    mine = [row for row in inside if row.amount.currency == currency]
    assert tally.whole.total == Sum(len(mine), sum(row.items for row in mine), sum(row.amount.minor for row in mine))
    assert tally.whole.online.orders == sum(row.taken is Taken.ONLINE for row in mine)
    assert tally.other_currencies == sorted({row.amount.currency for row in inside} - {currency})
    for parts in (tally.by_scenario, tally.by_store):
        whole = Split()
        for part in parts.values():
            whole.online, whole.offline = whole.online.plus(part.online), whole.offline.plus(part.offline)
        assert whole == tally.whole
    assert {store: split.total.orders for store, split in tally.by_store.items()} == {
        store: n for store in STORES if (n := sum(row.store_id == store for row in mine))
    }


@given(drafts)
def test_a_brands_scorecard_counts_an_order_once_by_its_own_lines(drafts: list) -> None:
    rows = credits(drafts)
    documents = stored(scorecards.counters(rows))
    for brand in ("brd_a", "brd_b", "brd_unknown"):
        months = [document["cells"] for (subject, bucket), document in documents.items() if subject == brand and len(bucket) == 7]
        tally = scorecards.tally(scorecards.cells(months), "CNY")
        own = [draft for draft in drafts if draft[3] == "CNY" and any(line.brand_id == brand for line in draft[5])]
        minor = sum(line.minor for draft in own for line in draft[5] if line.brand_id == brand)
        assert (tally.whole.total.orders, tally.whole.total.minor) == (len(own), minor)


@given(drafts, st.integers(0, 30))
def test_counting_in_parts_comes_to_the_same(drafts: list, cut: int) -> None:
    rows = credits(drafts)
    together, first, second = (stored(scorecards.counters(part)) for part in (rows, rows[:cut], rows[cut:]))
    keys = first.keys() | second.keys()
    paths = {key: [scorecards.paths(part[key]["cells"]) for part in (first, second) if key in part] for key in keys}
    added = {
        key: {path: sum(part.get(path, 0) for part in parts) for path in {p for part in parts for p in part}}
        for key, parts in paths.items()
    }
    assert added == {key: scorecards.paths(document["cells"]) for key, document in together.items()}


@given(st.dates(date(2023, 1, 1), date(2027, 1, 1)), st.integers(0, 365))
def test_buckets_make_up_the_period_without_gap_or_overlap(from_day: date, length: int) -> None:
    until_day = from_day + timedelta(days=length)
    found = scorecards.buckets(from_day, until_day)
    covered: list[date] = []
    for bucket in found:
        day = date.fromisoformat(bucket if len(bucket) == 10 else f"{bucket}-01")
        covered.append(day)
        while len(bucket) == 7 and (day := day + timedelta(days=1)).isoformat().startswith(bucket):
            covered.append(day)
    assert covered == [from_day + timedelta(days=n) for n in range(length + 1)]
    assert len(found) <= 12 + 62
    assert scorecards.months(from_day, until_day) == sorted({day.isoformat()[:7] for day in covered})


def test_a_period_is_in_order_and_at_most_a_year() -> None:
    for until in (date(2026, 5, 30), date(2027, 6, 1)):
        with pytest.raises(Invalid):
            scorecards.buckets(date(2026, 5, 31), until)


def test_a_period_may_end_on_the_last_day_there_is() -> None:
    assert scorecards.buckets(date(9999, 12, 31), date.max) == ["9999-12-31"]
    assert scorecards.buckets(date(9999, 11, 30), date.max) == ["9999-11-30", "9999-12"]


@pytest.mark.parametrize("written", ["20260531", "2026-W22-7", "2026-5-31", "2026-05-31 ", ""])
def test_a_day_is_written_in_one_way_only(written: str) -> None:
    assert scorecards.days("2026-05-31", "2026-05-31") == (date(2026, 5, 31), date(2026, 5, 31))
    for days in ((written, "2026-05-31"), ("2026-05-31", written)):
        with pytest.raises(Invalid):
            scorecards.days(*days)


def test_an_order_belongs_to_the_local_day_of_whoever_counts_it() -> None:
    row = rules.count(
        Order("ord_1", "str_3", "TOUCHPOINT_APP", SCENARIOS[0], AT, "USD", [Line("brd_a", 1, 5), Line("brd_unknown", 1, 5)]),
        STORES["str_3"],
        ZONES,
    )
    assert row.day == "2026-05-31"
    assert {share.brand_id: share.day for share in row.brands} == {"brd_a": "2026-06-01", "brd_unknown": "2026-05-31"}


# Attribution ---------------------------------------------------------------------------------------------------------

GUIDES = ["stf_1", "stf_2"]
BOUND = ["brd_a", "brd_b", "rtl_r", "brd_other"]
moments = st.integers(-20 * 24, 20).map(lambda hours: AT + timedelta(hours=hours))
bindings = st.lists(
    st.builds(
        Binding,
        consumer_id=st.sampled_from(["con_1", "con_twin"]),
        brand_id=st.sampled_from(BOUND),
        staff_id=st.sampled_from(GUIDES),
        bound_at=moments,
    ),
    max_size=6,
    unique_by=lambda one: (one.consumer_id, one.brand_id),
)
messages = st.lists(
    st.builds(Reached, brand_id=st.sampled_from(BOUND), staff_id=st.sampled_from(GUIDES[:2]), outreach_id=st.uuids().map(str), at=moments),
    max_size=5,
)
orders = st.lists(lines, min_size=1, max_size=4).map(
    lambda items: rules.count(Order("ord_1", "str_3", "TOUCHPOINT_APP", SCENARIOS[0], AT, "USD", items), STORES["str_3"], ZONES)
)


@given(orders, bindings, messages)
def test_only_a_bound_guide_is_credited_and_the_deciding_event_is_one_of_those_given(
    order: Credit, bound: list[Binding], wrote: list[Reached]
) -> None:
    decision = rules.attribute(order, bound, wrote)
    concerned = {share.brand_id for share in order.brands} | {order.brand_id}
    candidates = {(one.brand_id, one.staff_id) for one in bound if one.brand_id in concerned}
    if decision is None:
        assert not candidates
        return
    assert (decision.bound_brand_id, decision.staff_id) in candidates
    recent = [one for one in wrote if (one.brand_id, one.staff_id) in candidates and AT - timedelta(days=7) <= one.at <= AT]
    if decision.basis is CreditBasis.OUTREACH:
        assert decision.decided_at == max(one.at for one in recent)
        assert decision.outreach_id in {one.outreach_id for one in recent}
    else:
        assert not recent
        assert decision.outreach_id is None
        # A person who is bound under two ids is looked after by whom they were bound to last.
        assert decision.decided_at == max(one.bound_at for one in bound if one.brand_id == decision.bound_brand_id)
        if ("rtl_r", decision.staff_id) in candidates or any(brand == "rtl_r" for brand, _ in candidates):
            assert decision.bound_brand_id == "rtl_r"


@given(
    orders,
    st.permutations([Binding(consumer_id="con_1", brand_id=brand, staff_id="stf_1", store_id="str_1", bound_at=AT) for brand in BOUND]),
    messages,
    st.randoms(),
)
def test_the_order_of_what_is_known_does_not_matter(order: Credit, bound: list[Binding], wrote: list[Reached], random: object) -> None:
    shuffled = list(wrote)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert rules.attribute(order, bound, wrote) == rules.attribute(order, bound[::-1], shuffled)


# Targets -------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_a_targets_sum_is_that_of_its_parts(online: int, offline: int) -> None:
    if not online and not offline:
        with pytest.raises(Invalid):
            rules.set_target("unt_1", "brd_a", "2026-05", None, "CNY", online, offline)
        return
    target = rules.set_target("unt_1", "brd_a", "2026-05", None, "CNY", online, offline)
    assert target.total.minor == online + offline
    assert target.id == rules.set_target("unt_1", "brd_a", "2026-05", None, "CNY", 1, 1).id
    assert target.id != rules.set_target("unt_1", "brd_a", "2026-05", "SCENARIO_AT_HOME", "CNY", 1, 1).id


@pytest.mark.parametrize(("field", "amounts"), [("online_minor", (-1, 1)), ("offline_minor", (1, -1)), ("offline_minor", (1, 10**15))])
def test_an_amount_that_cannot_be_is_named(field: str, amounts: tuple[int, int]) -> None:
    with pytest.raises(Invalid) as refused:
        rules.set_target("unt_1", "brd_a", "2026-05", None, "CNY", *amounts)
    assert refused.value.metadata["field"] == field


@pytest.mark.parametrize("month", ["2026-13", "2026-5", "", "2026-05-01"])
def test_a_month_is_a_month(month: str) -> None:
    with pytest.raises(Invalid):
        rules.set_target("unt_1", "brd_a", month, None, "CNY", 1, 1)


def test_ratios_are_exact_at_the_edges() -> None:
    assert rules_ratio_edges() == [None, 0.0, 1.0]
    assert all(left < right for left, right in pairwise([scorecards.ratio(n, 10) or 0 for n in range(12)]))


def rules_ratio_edges() -> list[float | None]:
    return [scorecards.ratio(5, 0), scorecards.ratio(0, 5), scorecards.ratio(5, 5)]
