"""Target rules: each order counts once for each subject, and is credited to at most one guide with evidence."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.errors import Invalid
from services.organization.targets import rules, scorecards
from services.organization.targets.enums import CreditBasis, Taken
from services.organization.targets.rules import Binding, Credit, LastOutreach, Line, Order, Seller
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
        rules.count_order(
            Order(f"ord_{n}", store, touchpoint, scenario, AT + timedelta(hours=hours), currency, items), STORES[store], ZONES
        )
        for n, (store, touchpoint, scenario, currency, hours, items) in enumerate(drafts)
    ]


def stored(sums: dict) -> dict:
    """Returns the documents that these increments create."""
    return {key: scorecards.nest(cells) for key, cells in sums.items()}


@given(
    drafts,
    st.sampled_from(["unt_brd_a", "unt_north", "unt_str_2", "unt_rtl_r"]),
    st.sampled_from(["CNY", "USD"]),
    st.integers(0, 90),
    st.integers(0, 90),
)
def test_org_unit_scorecard_counts_each_order_once(drafts: list, org_unit_id: str, currency: str, first: int, length: int) -> None:
    rows = credits(drafts)
    from_day = date(2026, 5, 30) + timedelta(days=first)
    until_day = from_day + timedelta(days=length)
    documents = stored(scorecards.count_cells(rows))
    found = [
        documents[org_unit_id, bucket]["cells"] for bucket in scorecards.buckets(from_day, until_day) if (org_unit_id, bucket) in documents
    ]
    tally = scorecards.tally(scorecards.read_cells(found), currency)
    inside = [row for row in rows if org_unit_id in row.org_unit_ids and from_day.isoformat() <= row.day <= until_day.isoformat()]
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
def test_brand_scorecard_counts_own_lines_once(drafts: list) -> None:
    rows = credits(drafts)
    documents = stored(scorecards.count_cells(rows))
    for brand in ("brd_a", "brd_b", "brd_unknown"):
        months = [document["cells"] for (subject, bucket), document in documents.items() if subject == brand and len(bucket) == 7]
        tally = scorecards.tally(scorecards.read_cells(months), "CNY")
        own = [draft for draft in drafts if draft[3] == "CNY" and any(line.brand_id == brand for line in draft[5])]
        minor = sum(line.minor for draft in own for line in draft[5] if line.brand_id == brand)
        assert (tally.whole.total.orders, tally.whole.total.minor) == (len(own), minor)


@given(drafts, st.integers(0, 30))
def test_counting_in_parts_gives_same_sums(drafts: list, cut: int) -> None:
    rows = credits(drafts)
    together, first, second = (stored(scorecards.count_cells(part)) for part in (rows, rows[:cut], rows[cut:]))
    keys = first.keys() | second.keys()
    paths = {key: [scorecards.flatten(part[key]["cells"]) for part in (first, second) if key in part] for key in keys}
    added = {
        key: {path: sum(part.get(path, 0) for part in parts) for path in {p for part in parts for p in part}}
        for key, parts in paths.items()
    }
    assert added == {key: scorecards.flatten(document["cells"]) for key, document in together.items()}


@given(st.dates(date(2023, 1, 1), date(2027, 1, 1)), st.integers(0, 365))
def test_buckets_cover_period_without_gap_or_overlap(from_day: date, length: int) -> None:
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


def test_reversed_or_too_long_period_is_refused() -> None:
    for until in (date(2026, 5, 30), date(2027, 6, 1)):
        with pytest.raises(Invalid):
            scorecards.buckets(date(2026, 5, 31), until)


def test_period_may_end_on_last_possible_day() -> None:
    assert scorecards.buckets(date(9999, 12, 31), date.max) == ["9999-12-31"]
    assert scorecards.buckets(date(9999, 11, 30), date.max) == ["9999-11-30", "9999-12"]


@pytest.mark.parametrize("written", ["20260531", "2026-W22-7", "2026-5-31", "2026-05-31 ", ""])
def test_day_in_other_format_is_refused(written: str) -> None:
    assert scorecards.parse_days("2026-05-31", "2026-05-31") == (date(2026, 5, 31), date(2026, 5, 31))
    for days in ((written, "2026-05-31"), ("2026-05-31", written)):
        with pytest.raises(Invalid):
            scorecards.parse_days(*days)


def test_order_counts_on_local_day_of_each_tenant() -> None:
    row = rules.count_order(
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
    st.builds(
        LastOutreach, brand_id=st.sampled_from(BOUND), staff_id=st.sampled_from(GUIDES[:2]), outreach_id=st.uuids().map(str), at=moments
    ),
    max_size=5,
)
orders = st.lists(lines, min_size=1, max_size=4).map(
    lambda items: rules.count_order(Order("ord_1", "str_3", "TOUCHPOINT_APP", SCENARIOS[0], AT, "USD", items), STORES["str_3"], ZONES)
)


@given(orders, bindings, messages)
def test_credited_guide_is_bound_and_evidence_given(order: Credit, bound: list[Binding], outreach: list[LastOutreach]) -> None:
    decision = rules.attribute(order, bound, outreach)
    concerned = {share.brand_id for share in order.brands} | {order.brand_id}
    candidates = {(one.brand_id, one.staff_id) for one in bound if one.brand_id in concerned}
    if decision is None:
        assert not candidates
        return
    assert (decision.bound_brand_id, decision.staff_id) in candidates
    recent = [one for one in outreach if (one.brand_id, one.staff_id) in candidates and AT - timedelta(days=7) <= one.at <= AT]
    if decision.basis is CreditBasis.OUTREACH:
        assert decision.decided_at == max(one.at for one in recent)
        assert decision.outreach_id in {one.outreach_id for one in recent}
    else:
        assert not recent
        assert decision.outreach_id is None
        # Of two bindings of a person under different ids, the latest counts.
        assert decision.decided_at == max(one.bound_at for one in bound if one.brand_id == decision.bound_brand_id)
        if ("rtl_r", decision.staff_id) in candidates or any(brand == "rtl_r" for brand, _ in candidates):
            assert decision.bound_brand_id == "rtl_r"


@given(
    orders,
    st.permutations([Binding(consumer_id="con_1", brand_id=brand, staff_id="stf_1", store_id="str_1", bound_at=AT) for brand in BOUND]),
    messages,
    st.randoms(),
)
def test_attribution_does_not_depend_on_input_order(
    order: Credit, bound: list[Binding], outreach: list[LastOutreach], random: object
) -> None:
    shuffled = list(outreach)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert rules.attribute(order, bound, outreach) == rules.attribute(order, bound[::-1], shuffled)


# Targets -------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_target_total_is_sum_of_parts(online: int, offline: int) -> None:
    if not online and not offline:
        with pytest.raises(Invalid):
            rules.create_target("unt_1", "brd_a", "2026-05", None, "CNY", online, offline)
        return
    target = rules.create_target("unt_1", "brd_a", "2026-05", None, "CNY", online, offline)
    assert target.total.minor == online + offline
    assert target.id == rules.create_target("unt_1", "brd_a", "2026-05", None, "CNY", 1, 1).id
    assert target.id != rules.create_target("unt_1", "brd_a", "2026-05", "SCENARIO_AT_HOME", "CNY", 1, 1).id


@pytest.mark.parametrize(("field", "amounts"), [("online_minor", (-1, 1)), ("offline_minor", (1, -1)), ("offline_minor", (1, 10**15))])
def test_refusal_names_field_of_invalid_amount(field: str, amounts: tuple[int, int]) -> None:
    with pytest.raises(Invalid) as refused:
        rules.create_target("unt_1", "brd_a", "2026-05", None, "CNY", *amounts)
    assert refused.value.metadata["field"] == field


@pytest.mark.parametrize("month", ["2026-13", "2026-5", "", "2026-05-01"])
def test_invalid_month_is_refused(month: str) -> None:
    with pytest.raises(Invalid):
        rules.create_target("unt_1", "brd_a", month, None, "CNY", 1, 1)


def test_ratio_is_none_without_target() -> None:
    assert edge_ratios() == [None, 0.0, 1.0]
    assert all(left < right for left, right in pairwise([scorecards.ratio(n, 10) or 0 for n in range(12)]))


def edge_ratios() -> list[float | None]:
    return [scorecards.ratio(5, 0), scorecards.ratio(0, 5), scorecards.ratio(5, 5)]
