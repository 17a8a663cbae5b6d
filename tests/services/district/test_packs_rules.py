"""Pack rules: at most six of the best brands with budget and consent; skipped brands are declined."""

from datetime import UTC, date, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.district.campaigns.rules import Budget, CouponTerms
from services.district.packs import rules
from services.district.packs.enums import DeclineReason, PickKind
from services.district.packs.rules import Candidate, PickReason
from services.district.places.enums import VisitState
from services.district.places.rules import Visit
from services.kit.enums import Touchpoint
from services.kit.errors import Conflict, Exhausted, NotFound
from services.kit.values.money import Money

AT = datetime(2026, 11, 22, 13, 40, tzinfo=UTC)
DAY = date(2026, 11, 22)
VISIT = Visit(
    id="vis_a", consumer_id="con_a", district_id="dst_a", day="2026-11-22", touchpoint=Touchpoint.APP, entered_at=AT, open_key="k"
)
NEW = PickReason(PickKind.NEW_TO_YOU)


def budget(number: int, left: int, campaign: str = "a", is_running: bool = True) -> Budget:
    return Budget(
        id=f"bdg_{campaign}_{number}", campaign_id=f"cmp_{campaign}", district_id="dst_a", brand_id=f"brd_{number}",
        terms=CouponTerms(name="券", value=Money("CNY", 3000), minimum_spend=Money("CNY"), validity_days=7), total=5, issued=5 - left,
        starts_at=AT - timedelta(days=1), ends_at=AT + timedelta(days=1 if is_running else 0),
    )  # fmt: skip


def assemble(ranked: list[Candidate], budgets: dict[str, Budget]) -> rules.IssuedPack:
    return rules.assemble(ranked, budgets, id="pck_a", visit=VISIT, consumer_id="con_a", at=AT)


situations = st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.booleans()), min_size=1, max_size=30)


@given(situations)
def test_pack_has_best_brands_and_declines_skipped_ones(brands: list[tuple[int, bool, bool]]) -> None:
    ranked = [
        Candidate(f"brd_{n}", NEW, (budget(n, 2),) if seen else (), consents) for n, (_, consents, seen) in enumerate(brands)
    ]  # `seen`: the budget had coupons left when it was read; fewer may be left now
    current = {f"bdg_a_{n}": budget(n, left) for n, (left, _, seen) in enumerate(brands) if seen}
    able = [n for n, (left, consents, seen) in enumerate(brands) if left and consents and seen]
    if not able:
        with pytest.raises(Exhausted) as refused:
            assemble(ranked, current)
        without_consent = sum(not consents for _, consents, _ in brands)
        assert refused.value.metadata["consent_missing"] == str(without_consent)
        assert refused.value.metadata["budget_spent"] == str(len(brands) - without_consent)
        return
    issue = assemble(ranked, current)
    picked = able[:6]
    assert [entry.brand_id for entry in issue.pack.entries] == [f"brd_{n}" for n in picked]
    assert list(issue.taken) == [f"bdg_a_{n}" for n in picked]
    last = picked[-1] if len(picked) == 6 else len(brands) - 1
    skipped = [n for n in range(last + 1) if n not in picked][: rules.DECLINED_MAX]
    assert [(item.brand_id, item.reason) for item in issue.pack.declined] == [
        (f"brd_{n}", DeclineReason.BUDGET_SPENT if brands[n][1] else DeclineReason.CONSENT_MISSING) for n in skipped
    ]
    assert [item.id for item in issue.coupons] == [entry.coupon_id for entry in issue.pack.entries]
    assert {item.pack_id for item in issue.coupons} == {issue.pack.id}
    assert [item.coupon_id for item in issue.event.coupons] == [item.id for item in issue.coupons]


def test_brand_with_two_campaigns_uses_the_available_budget() -> None:
    both = (budget(1, 1, "a"), budget(1, 1, "b"))
    issue = assemble([Candidate("brd_1", NEW, both, True)], {"bdg_a_1": budget(1, 0, "a"), "bdg_b_1": budget(1, 1, "b")})
    assert issue.taken == ("bdg_b_1",)
    assert issue.pack.declined == ()


def test_ended_campaign_gives_no_coupon() -> None:
    with pytest.raises(Exhausted):
        assemble([Candidate("brd_1", NEW, (budget(1, 3),), True)], {"bdg_a_1": budget(1, 3, is_running=False)})


def test_pack_without_campaign_is_refused() -> None:
    with pytest.raises(Conflict) as refused:
        assemble([], {})
    assert refused.value.reason == "NO_CAMPAIGN"


@pytest.mark.parametrize(
    "visit",
    [
        msgspec.structs.replace(VISIT, state=VisitState.LEFT),
        msgspec.structs.replace(VISIT, day="2026-11-21"),
    ],
)
def test_pack_needs_open_visit_of_today(visit: Visit) -> None:
    rules.check_visit(VISIT, DAY)
    with pytest.raises(Conflict) as refused:
        rules.check_visit(visit, DAY)
    assert refused.value.reason == "VISIT_OVER"


def test_visit_of_another_person_is_not_found() -> None:
    rules.check_owner(VISIT, {"con_a", "con_b"})
    with pytest.raises(NotFound) as refused:
        rules.check_owner(VISIT, {"con_b"})
    assert refused.value.reason == "VISIT_NOT_FOUND"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=40))
def test_shortlist_is_bounded_and_needs_consent(brands: list[tuple[bool, int]]) -> None:
    ranked = [
        Candidate(f"brd_{n}", NEW, tuple(budget(n, 1, c) for c in "abc"[:count]), has_consent)
        for n, (has_consent, count) in enumerate(brands)
    ]
    shortlist = rules.shortlist(ranked)
    everything = [item.id for candidate in ranked if candidate.has_consent for item in candidate.budgets]
    assert shortlist == everything[: rules.CANDIDATES_MAX]


def test_pack_id_differs_by_consumer_district_and_day() -> None:
    keys = [("con_a", "dst_a", DAY), ("con_b", "dst_a", DAY), ("con_a", "dst_b", DAY), ("con_a", "dst_a", DAY + timedelta(days=1))]
    assert len({rules.pack_id(*key) for key in keys}) == 4
    assert rules.pack_id(*keys[0]) == rules.pack_id(*keys[0])
