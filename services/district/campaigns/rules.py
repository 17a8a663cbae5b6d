"""Rules of campaigns: their dates, the terms of coupons, and the budgets of brands."""

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
from services.kit.values.validation import VISIBLE_LINE_PATTERN

Name = Annotated[str, Meta(min_length=1, max_length=100, pattern=VISIBLE_LINE_PATTERN)]
NameEn = Annotated[str, Meta(max_length=100, pattern=VISIBLE_LINE_PATTERN)]
CampaignId = Annotated[str, Meta(pattern=ids.pattern("cmp"))]
BrandId = Annotated[str, Meta(pattern=ids.pattern("(brd|rtl)"))]
Coupons = Annotated[int, Meta(ge=0, le=100_000_000)]

BRANDS_MAX = 500
"""At most this many brands take part in a campaign."""
RUNNING_BUDGETS_MAX = 1_000
"""A district has at most this many running budgets at a moment, since packs choose from all of them."""
OVERLAPPING_CAMPAIGNS_MAX = 10_000
"""A campaign overlaps at most this many other campaigns of its district that have brands."""
DURATION_MAX = timedelta(days=366)
"""A campaign lasts at most this long."""


class CouponTerms(Struct, frozen=True):
    """The terms of a coupon: its discount (`value`), the minimum spend at the brand, and the validity in days of 24 hours."""

    name: Name
    value: Money
    validity_days: Annotated[int, Meta(ge=1, le=366)]
    minimum_spend: Money | None = None
    name_en: NameEn = ""


class JoinRequest(Struct, frozen=True):
    """A brand's request to join a campaign."""

    campaign_id: str
    brand_id: BrandId
    terms: CouponTerms
    total: Annotated[int, Meta(ge=1, le=100_000_000)]


class Campaign(Struct, frozen=True):
    """A campaign of a district."""

    id: CampaignId
    district_id: str
    name: Name
    starts_at: datetime
    ends_at: datetime
    name_en: NameEn = ""
    brand_count: Annotated[int, Meta(ge=0, le=BRANDS_MAX)] = 0
    version: int = 1


class Budget(Struct, frozen=True):
    """A brand's coupon budget in a campaign. Only group commit changes `issued`, which grows up to `total`."""

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
    def remaining(self) -> int:
        """The number of coupons that are not issued yet."""
        return self.total - self.issued

    def is_running(self, at: datetime) -> bool:
        """True if coupons are issued at that moment."""
        return self.starts_at <= at < self.ends_at


def check_campaign(campaign: Campaign) -> Campaign:
    """Returns the campaign; raises `Invalid` (DATES_INVALID) unless it lasts at most DURATION_MAX."""
    if not timedelta(0) < campaign.ends_at - campaign.starts_at <= DURATION_MAX:
        message = f"`endsAt` must be later than `startsAt`, by at most {DURATION_MAX.days} days."
        raise Invalid(Reason.DATES_INVALID, message, field="ends_at")
    return campaign


def budget_id(campaign_id: str, brand_id: str) -> str:
    """Returns the id of a brand's only budget in a campaign."""
    return f"bdg_{campaign_id}:{brand_id}"


def find_brand_count_max(campaigns: Iterable[Campaign], since: datetime) -> int:
    """Returns the greatest number of brands that take part in these campaigns at one moment from `since` on."""
    changes: list[tuple[datetime, int]] = []
    for campaign in campaigns:
        changes += [(max(campaign.starts_at, since), campaign.brand_count), (max(campaign.ends_at, since), -campaign.brand_count)]
    # At the same moment, campaigns end before others begin: negative changes sort first.
    return max(accumulate((change for _, change in sorted(changes)), initial=0))


def join(campaign: Campaign, request: JoinRequest, at: datetime, overlapping: Sequence[Campaign]) -> tuple[Campaign, Budget]:
    """Returns the campaign with one brand more, and that brand's budget.

    `overlapping` has the district's campaigns that overlap this one, and this one. Raises `Conflict` (CAMPAIGN_OVER), `Exhausted`
    (CAMPAIGN_FULL, DISTRICT_FULL) or `Invalid` (TERMS_INVALID).
    """
    if at >= campaign.ends_at:
        message = "This campaign has ended. Join a campaign that is running or planned."
        raise Conflict(Reason.CAMPAIGN_OVER, message, campaign_id=campaign.id, ended_at=campaign.ends_at)
    if campaign.brand_count >= BRANDS_MAX:
        message = f"This campaign has {BRANDS_MAX} brands, the maximum. Join another campaign."
        raise Exhausted(Reason.CAMPAIGN_FULL, message, campaign_id=campaign.id)
    clipped = (replace(other, ends_at=min(other.ends_at, campaign.ends_at)) for other in overlapping)
    if len(overlapping) >= OVERLAPPING_CAMPAIGNS_MAX or find_brand_count_max(clipped, max(campaign.starts_at, at)) >= RUNNING_BUDGETS_MAX:
        raise Exhausted(
            Reason.DISTRICT_FULL,
            f"This district has {RUNNING_BUDGETS_MAX} budgets at one time, the maximum. Join a campaign with other dates.",
            district_id=campaign.district_id,
        )
    terms = request.terms
    if terms.value.minor <= 0:
        raise Invalid(Reason.TERMS_INVALID, "`terms.value` must be greater than 0.", field="terms.value")
    minimum = terms.minimum_spend or Money(terms.value.currency)
    if minimum.minor < 0 or minimum.currency != terms.value.currency:
        raise Invalid(
            Reason.TERMS_INVALID, "`terms.minimumSpend` must be 0 or more, in the currency of `terms.value`.", field="terms.minimum_spend"
        )
    if 0 < minimum.minor < terms.value.minor:
        raise Invalid(Reason.TERMS_INVALID, "`terms.minimumSpend` must be 0 or at least `terms.value`.", field="terms.minimum_spend")
    budget = Budget(
        id=budget_id(campaign.id, request.brand_id), campaign_id=campaign.id, district_id=campaign.district_id, brand_id=request.brand_id,
        terms=replace(terms, minimum_spend=minimum), total=request.total, starts_at=campaign.starts_at,
        ends_at=campaign.ends_at,
    )  # fmt: skip
    return replace(campaign, brand_count=campaign.brand_count + 1), budget
