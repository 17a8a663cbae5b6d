"""When a campaign runs, what a brand gives in it, and what is left of its budget."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from services.district.campaigns.enums import Reason
from services.kit import ids
from services.kit.errors import Conflict, Exhausted, Invalid
from services.kit.values.money import Money
from services.kit.values.validation import WRITTEN

Name = Annotated[str, Meta(min_length=1, max_length=100, pattern=WRITTEN)]
NameEn = Annotated[str, Meta(max_length=100, pattern=WRITTEN)]
CampaignId = Annotated[str, Meta(pattern=ids.shape("cmp"))]
BrandId = Annotated[str, Meta(pattern=ids.shape("(brd|rtl)"))]
Coupons = Annotated[int, Meta(ge=0, le=100_000_000)]

BRANDS_MAX = 500
RUNNING_MAX = 1_000
"""Budgets of one district that coupons are given from at one moment: packs choose from all of them."""
OVERLAPPING_MAX = 10_000
"""Campaigns with brands that overlap another one of their district."""
LASTS_MAX = timedelta(days=366)


class CouponTerms(Struct, frozen=True):
    """What a coupon takes off (`value`), for how much spent at the brand, and for how many days of 24 hours."""

    name: Name
    value: Money
    validity_days: Annotated[int, Meta(ge=1, le=366)]
    minimum_spend: Money | None = None
    name_en: NameEn = ""


class Joining(Struct, frozen=True):
    """What a brand brings to a campaign."""

    campaign_id: str
    brand_id: BrandId
    terms: CouponTerms
    total: Annotated[int, Meta(ge=1, le=100_000_000)]


class Campaign(Struct, frozen=True):
    id: CampaignId
    district_id: str
    name: Name
    starts_at: datetime
    ends_at: datetime
    name_en: NameEn = ""
    brand_count: Annotated[int, Meta(ge=0, le=BRANDS_MAX)] = 0
    version: int = 1


class Budget(Struct, frozen=True):
    """How many coupons a brand gives in a campaign; `issued` is moved by the group_commit alone and never goes down or past `total`."""

    id: str
    campaign_id: str
    district_id: str
    brand_id: BrandId
    terms: CouponTerms
    total: Annotated[int, Meta(ge=1, le=100_000_000)]
    starts_at: datetime
    ends_at: datetime
    issued: Coupons = 0
    version: int = 1

    @property
    def left(self) -> int:
        """How many coupons may still be given."""
        return self.total - self.issued

    def runs(self, at: datetime) -> bool:
        """Whether coupons are given at that moment."""
        return self.starts_at <= at < self.ends_at


def stage(campaign: Campaign) -> Campaign:
    """A campaign that may stand; `Invalid` DATES_INVALID otherwise."""
    if not timedelta(0) < campaign.ends_at - campaign.starts_at <= LASTS_MAX:
        raise Invalid(Reason.DATES_INVALID, f"a campaign lasts more than no time and at most {LASTS_MAX.days} days", field="ends_at")
    return campaign


def budget_id(campaign_id: str, brand_id: str) -> str:
    """The id of a brand's budget in a campaign: there is one."""
    return f"bdg_{campaign_id}:{brand_id}"


def most_at_once(campaigns: Iterable[Campaign], since: datetime) -> int:
    """The most brands that take part in campaigns at one moment from `since` on."""
    changes: list[tuple[datetime, int]] = []
    for campaign in campaigns:
        changes += [(max(campaign.starts_at, since), campaign.brand_count), (max(campaign.ends_at, since), -campaign.brand_count)]
    # At one moment those that end are gone before others begin.
    return max(accumulate((change for _, change in sorted(changes)), initial=0))


def join(campaign: Campaign, asked: Joining, at: datetime, overlapping: Sequence[Campaign]) -> tuple[Campaign, Budget]:
    """The campaign with one brand more, and that brand's budget. `overlapping`: the district's campaigns that run while it does, it too.

    `Conflict` CAMPAIGN_OVER after its end, `Exhausted` CAMPAIGN_FULL or DISTRICT_FULL, `Invalid` TERMS_INVALID for a coupon that cannot be.
    """
    if at >= campaign.ends_at:
        raise Conflict(Reason.CAMPAIGN_OVER, "this campaign has ended", campaign_id=campaign.id, ended_at=campaign.ends_at)
    if campaign.brand_count >= BRANDS_MAX:
        raise Exhausted(Reason.CAMPAIGN_FULL, f"at most {BRANDS_MAX} brands take part in a campaign", campaign_id=campaign.id)
    meanwhile = (replace(other, ends_at=min(other.ends_at, campaign.ends_at)) for other in overlapping)
    if len(overlapping) >= OVERLAPPING_MAX or most_at_once(meanwhile, max(campaign.starts_at, at)) >= RUNNING_MAX:
        raise Exhausted(
            Reason.DISTRICT_FULL,
            f"at most {RUNNING_MAX} kinds of coupons are given in a district at once",
            district_id=campaign.district_id,
        )
    terms = asked.terms
    if terms.value.minor <= 0:
        raise Invalid(Reason.TERMS_INVALID, "a coupon takes off more than nothing", field="terms.value")
    minimum = terms.minimum_spend or Money(terms.value.currency)
    if minimum.minor < 0 or minimum.currency != terms.value.currency:
        raise Invalid(
            Reason.TERMS_INVALID, "the minimum spend is nothing or more, in the currency of the value", field="terms.minimum_spend"
        )
    if 0 < minimum.minor < terms.value.minor:
        raise Invalid(Reason.TERMS_INVALID, "the minimum spend is nothing, or as much as the coupon takes off", field="terms.minimum_spend")
    budget = Budget(
        id=budget_id(campaign.id, asked.brand_id), campaign_id=campaign.id, district_id=campaign.district_id, brand_id=asked.brand_id,
        terms=replace(terms, minimum_spend=minimum), total=asked.total, starts_at=campaign.starts_at,
        ends_at=campaign.ends_at,
    )  # fmt: skip
    return replace(campaign, brand_count=campaign.brand_count + 1), budget
