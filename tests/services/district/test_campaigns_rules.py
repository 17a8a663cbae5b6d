"""When a campaign runs and who may join it."""

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


def joining(total: int, terms: rules.CouponTerms = TERMS) -> rules.Joining:
    return rules.Joining(campaign_id="cmp_a", brand_id="brd_a", terms=terms, total=total)


@given(st.timedeltas(timedelta(days=-800), timedelta(days=800)))
def test_a_campaign_lasts_more_than_no_time_and_at_most_a_year(lasts: timedelta) -> None:
    campaign = msgspec.structs.replace(CAMPAIGN, ends_at=AT + lasts)
    if timedelta(0) < lasts <= rules.LASTS_MAX:
        assert rules.stage(campaign) is campaign
    else:
        with pytest.raises(Invalid) as refused:
            rules.stage(campaign)
        assert refused.value.reason == "DATES_INVALID"


@given(st.integers(1, 100_000_000), st.timedeltas(timedelta(days=-40), timedelta(days=40)))
def test_who_joins_gets_the_campaigns_dates_and_a_budget_of_its_own(total: int, since_start: timedelta) -> None:
    at = AT + since_start
    if at >= CAMPAIGN.ends_at:
        with pytest.raises(Conflict) as refused:
            rules.join(CAMPAIGN, joining(total), at, [])
        assert refused.value.reason == "CAMPAIGN_OVER"
        return
    campaign, budget = rules.join(CAMPAIGN, joining(total), at, [])
    assert campaign.brand_count == 1
    assert (budget.left, budget.issued) == (total, 0)
    assert budget.runs(at) == (at >= AT)
    assert not budget.runs(CAMPAIGN.ends_at)


def test_a_full_campaign_takes_nobody_more() -> None:
    full = msgspec.structs.replace(CAMPAIGN, brand_count=rules.BRANDS_MAX)
    with pytest.raises(Exhausted) as refused:
        rules.join(full, joining(1), AT, [full])
    assert refused.value.reason == "CAMPAIGN_FULL"


def beside(number: int, days: range, brands: int) -> rules.Campaign:
    """Another campaign of the district, over these days of CAMPAIGN."""
    starts_at, ends_at = (AT + timedelta(days=day) for day in (days.start, days.stop))
    return msgspec.structs.replace(CAMPAIGN, id=f"cmp_{number}", starts_at=starts_at, ends_at=ends_at, brand_count=brands)


@given(
    st.lists(st.tuples(st.integers(-20, 50), st.integers(1, 40), st.integers(1, rules.BRANDS_MAX)), max_size=6),
    st.integers(0, rules.BRANDS_MAX - 1),
    st.integers(-10, 29),
)
def test_a_brand_joins_unless_packs_had_too_much_to_choose_from_on_some_day(
    others: list[tuple[int, int, int]], brands: int, today: int
) -> None:
    campaign = beside(0, range(30), brands)
    all_ = [campaign, *(beside(n, range(start, start + lasts), count) for n, (start, lasts, count) in enumerate(others, 1))]
    at = AT + timedelta(days=today)
    days = [AT + timedelta(days=day) for day in range(max(0, today), 30)]
    most = max(sum(one.brand_count for one in all_ if one.starts_at <= day < one.ends_at) for day in days)
    if most >= rules.RUNNING_MAX:
        with pytest.raises(Exhausted) as refused:
            rules.join(campaign, joining(1), at, all_)
        assert (refused.value.reason, refused.value.metadata) == ("DISTRICT_FULL", {"district_id": "dst_a"})
    else:
        assert rules.join(campaign, joining(1), at, all_)[0].brand_count == brands + 1


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
def test_a_coupon_that_cannot_be_is_refused(value: Money, minimum: Money | None) -> None:
    terms = msgspec.structs.replace(TERMS, value=value, minimum_spend=minimum)
    with pytest.raises(Invalid) as refused:
        rules.join(CAMPAIGN, joining(1, terms), AT, [])
    assert refused.value.reason == "TERMS_INVALID"


def test_without_a_minimum_any_amount_will_do() -> None:
    _, budget = rules.join(CAMPAIGN, joining(1, msgspec.structs.replace(TERMS, minimum_spend=None)), AT, [])
    assert budget.terms.minimum_spend == Money("CNY")


def test_a_coupon_may_be_worth_as_much_as_must_be_spent() -> None:
    _, budget = rules.join(CAMPAIGN, joining(1, msgspec.structs.replace(TERMS, minimum_spend=TERMS.value)), AT, [])
    assert budget.terms.minimum_spend == TERMS.value
