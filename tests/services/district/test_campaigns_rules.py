"""Campaign rules: dates, limits and coupon terms."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.district.campaigns import rules
from services.kit.errors import Conflict, Exhausted, Invalid
from services.kit.values.money import Money

AT = datetime(2026, 11, 22, tzinfo=UTC)
TERMS = rules.CouponTerms(name="满200减30", value=Money("CNY", 3000), minimum_spend=Money("CNY", 20000), validity_days=7)
CAMPAIGN = rules.Campaign(id="cmp_a", district_id="dst_a", name="十一月", starts_at=AT, ends_at=AT + timedelta(days=30))


def join_request(total: int, terms: rules.CouponTerms = TERMS) -> rules.JoinRequest:
    return rules.JoinRequest(campaign_id="cmp_a", brand_id="brd_a", terms=terms, total=total)


@given(st.timedeltas(timedelta(days=-800), timedelta(days=800)))
def test_campaign_duration_is_positive_and_bounded(duration: timedelta) -> None:
    campaign = msgspec.structs.replace(CAMPAIGN, ends_at=AT + duration)
    if timedelta(0) < duration <= rules.DURATION_MAX:
        assert rules.check_campaign(campaign) is campaign
    else:
        with pytest.raises(Invalid) as refused:
            rules.check_campaign(campaign)
        assert refused.value.reason == "DATES_INVALID"


@given(st.integers(1, 100_000_000), st.timedeltas(timedelta(days=-40), timedelta(days=40)))
def test_join_creates_budget_with_campaign_dates(total: int, since_start: timedelta) -> None:
    at = AT + since_start
    if at >= CAMPAIGN.ends_at:
        with pytest.raises(Conflict) as refused:
            rules.join(CAMPAIGN, join_request(total), at, [])
        assert refused.value.reason == "CAMPAIGN_OVER"
        return
    campaign, budget = rules.join(CAMPAIGN, join_request(total), at, [])
    assert campaign.brand_count == 1
    assert (budget.remaining, budget.issued) == (total, 0)
    assert budget.is_running(at) == (at >= AT)
    assert not budget.is_running(CAMPAIGN.ends_at)


def test_full_campaign_refuses_further_brands() -> None:
    full = msgspec.structs.replace(CAMPAIGN, brand_count=rules.BRANDS_MAX)
    with pytest.raises(Exhausted) as refused:
        rules.join(full, join_request(1), AT, [full])
    assert refused.value.reason == "CAMPAIGN_FULL"


def other_campaign(number: int, days: range, brands: int) -> rules.Campaign:
    """Returns another campaign of the district, on these days relative to CAMPAIGN."""
    starts_at, ends_at = (AT + timedelta(days=day) for day in (days.start, days.stop))
    return msgspec.structs.replace(CAMPAIGN, id=f"cmp_{number}", starts_at=starts_at, ends_at=ends_at, brand_count=brands)


@given(
    st.lists(st.tuples(st.integers(-20, 50), st.integers(1, 40), st.integers(1, rules.BRANDS_MAX)), max_size=6),
    st.integers(0, rules.BRANDS_MAX - 1),
    st.integers(-10, 29),
)
def test_join_is_refused_above_running_budgets_limit(others: list[tuple[int, int, int]], brands: int, today: int) -> None:
    campaign = other_campaign(0, range(30), brands)
    campaigns = [
        campaign,
        *(other_campaign(n, range(start, start + duration), count) for n, (start, duration, count) in enumerate(others, 1)),
    ]
    at = AT + timedelta(days=today)
    days = [AT + timedelta(days=day) for day in range(max(0, today), 30)]
    most = max(sum(one.brand_count for one in campaigns if one.starts_at <= day < one.ends_at) for day in days)
    if most >= rules.RUNNING_BUDGETS_MAX:
        with pytest.raises(Exhausted) as refused:
            rules.join(campaign, join_request(1), at, campaigns)
        assert (refused.value.reason, refused.value.metadata) == ("DISTRICT_FULL", {"district_id": "dst_a"})
    else:
        assert rules.join(campaign, join_request(1), at, campaigns)[0].brand_count == brands + 1


@pytest.mark.parametrize(
    ("value", "minimum"),
    [
        (Money("CNY"), None),
        (Money("CNY", -1), None),
        (Money("CNY", 1), Money("USD")),
        (Money("CNY", 1), Money("CNY", -1)),
        (Money("CNY", 3000), Money("CNY", 2999)),
        (Money("CNY", 3000), Money("CNY", 1)),
    ],
)
def test_bad_coupon_terms_are_refused(value: Money, minimum: Money | None) -> None:
    terms = msgspec.structs.replace(TERMS, value=value, minimum_spend=minimum)
    with pytest.raises(Invalid) as refused:
        rules.join(CAMPAIGN, join_request(1, terms), AT, [])
    assert refused.value.reason == "TERMS_INVALID"


def test_missing_minimum_spend_means_zero() -> None:
    _, budget = rules.join(CAMPAIGN, join_request(1, msgspec.structs.replace(TERMS, minimum_spend=None)), AT, [])
    assert budget.terms.minimum_spend == Money("CNY")


def test_minimum_spend_may_equal_the_value() -> None:
    _, budget = rules.join(CAMPAIGN, join_request(1, msgspec.structs.replace(TERMS, minimum_spend=TERMS.value)), AT, [])
    assert budget.terms.minimum_spend == TERMS.value
