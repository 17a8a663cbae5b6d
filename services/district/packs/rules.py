"""Which coupons go into the day's pack: the best brands that have a coupon left and the consumer's consent, at most six."""

from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime, timedelta
from hashlib import blake2b

from msgspec import Struct

from services.district.campaigns.rules import Budget
from services.district.matching.rules import Interest, frequency
from services.district.packs.enums import DeclineReason, PickKind, Reason
from services.district.places.enums import Reason as VisitReason
from services.district.places.enums import VisitState
from services.district.places.rules import PackedCoupon, Visit
from services.district.wallet.rules import Coupon, packed
from services.kit.enums import Touchpoint
from services.kit.errors import Conflict, Exhausted, NotFound
from services.kit.values.event import Event
from services.kit.values.money import Money

COUPONS_MAX = 6
CANDIDATES_MAX = 24
DECLINED_MAX = 24


class PickReason(Struct, frozen=True):
    kind: PickKind
    purchase_count: int = 0
    last_purchase_at: datetime | None = None
    decayed_frequency: float = 0.0


class Declined(Struct, frozen=True):
    brand_id: str
    reason: DeclineReason


class PackEntry(Struct, frozen=True):
    coupon_id: str
    brand_id: str
    campaign_id: str
    name: str
    value: Money
    minimum_spend: Money
    expires_at: datetime
    reason: PickReason
    name_en: str = ""


class Pack(Struct, frozen=True):
    id: str
    consumer_id: str
    district_id: str
    visit_id: str
    day: str
    issued_at: datetime
    entries: tuple[PackEntry, ...]
    declined: tuple[Declined, ...] = ()
    version: int = 1


class PackIssued(Event, frozen=True):
    kind = "pack_issued"
    pack_id: str
    consumer_id: str
    district_id: str
    coupons: tuple[PackedCoupon, ...]
    touchpoint: Touchpoint


class Candidate(Struct, frozen=True):
    """A brand in the order of preference. `budgets`: of its running campaigns, those that had something left when they were read."""

    brand_id: str
    reason: PickReason
    budgets: tuple[Budget, ...]
    consents: bool


class Issue(Struct, frozen=True):
    """What issuing a pack changes: one coupon off each budget of `taken`, the pack and its coupons."""

    pack: Pack
    coupons: tuple[Coupon, ...]
    taken: tuple[str, ...]
    event: PackIssued


def pack_id(consumer_id: str, district_id: str, day: date) -> str:
    """The id of a consumer's pack of that day in that district: there is one."""
    return f"pck_{blake2b(f'{consumer_id}|{district_id}|{day.isoformat()}'.encode(), digest_size=16).hexdigest()}"


def coupon_id(pack: str, brand_id: str) -> str:
    """The id of a brand's coupon in a pack: there is one."""
    return f"cpn_{blake2b(f'{pack}|{brand_id}'.encode(), digest_size=16).hexdigest()}"


def check_owner(visit: Visit, owners: Collection[str]) -> None:
    """`NotFound` VISIT_NOT_FOUND unless the visit is this person's, under whichever of their ids."""
    if visit.consumer_id not in owners:
        raise NotFound(VisitReason.VISIT_NOT_FOUND, "there is no such visit for you", id=visit.id)


def check_visit(visit: Visit, today: date) -> None:
    """`Conflict` VISIT_OVER unless the visit is open and of today."""
    if visit.state is not VisitState.OPEN or visit.day != today.isoformat():
        raise Conflict(Reason.VISIT_OVER, "a pack is given on an open visit of today; enter the district again", visit_id=visit.id)


def why(interest: Interest | None, at: datetime) -> PickReason:
    """The numbers behind a brand's place in the order."""
    if interest is None or not interest.orders:
        return PickReason(PickKind.NEW_TO_YOU)
    return PickReason(PickKind.BOUGHT_BEFORE, interest.orders, interest.last_at, frequency(interest, at))


def shortlist(ranked: Sequence[Candidate]) -> list[str]:
    """The ids of the budgets that a decision may need: of the best consenting brands, at most CANDIDATES_MAX."""
    open_ = [budget.id for candidate in ranked if candidate.consents for budget in candidate.budgets]
    return open_[:CANDIDATES_MAX]


def assemble(ranked: Sequence[Candidate], budgets: Mapping[str, Budget], *, id: str, visit: Visit, consumer_id: str, at: datetime) -> Issue:
    """The pack: walks down the ranked brands until six have a coupon in it; who is passed over on the way is declined.

    `budgets`: the shortlisted ones as they stand now, by id. `Conflict` NO_CAMPAIGN without a brand at all, `Exhausted`
    NOTHING_TO_GIVE when all had to be declined.
    """
    if not ranked:
        raise Conflict(Reason.NO_CAMPAIGN, "no campaign runs in this district now", district_id=visit.district_id)
    picked: list[tuple[Candidate, Budget]] = []
    declined: list[Declined] = []
    for candidate in ranked:
        if len(picked) == COUPONS_MAX:
            break
        standing = [budgets[budget.id] for budget in candidate.budgets if budget.id in budgets]
        budget = next((budget for budget in standing if budget.left > 0 and budget.runs(at)), None)
        if not candidate.consents:
            declined.append(Declined(candidate.brand_id, DeclineReason.CONSENT_MISSING))
        elif budget is not None:
            picked.append((candidate, budget))
        elif len(standing) == len(candidate.budgets):
            declined.append(Declined(candidate.brand_id, DeclineReason.BUDGET_SPENT))
    if not picked:
        raise _nothing(declined, visit)
    return _issue(picked, declined, id=id, visit=visit, consumer_id=consumer_id, at=at)


def _issue(
    picked: Sequence[tuple[Candidate, Budget]], declined: Sequence[Declined], *, id: str, visit: Visit, consumer_id: str, at: datetime
) -> Issue:
    coupons = tuple(_coupon(id, budget, consumer_id, at) for _, budget in picked)
    entries = tuple(
        PackEntry(
            coupon_id=coupon.id, brand_id=coupon.brand_id, campaign_id=coupon.campaign_id, name=coupon.name, name_en=coupon.name_en,
            value=coupon.value, minimum_spend=coupon.minimum_spend, expires_at=coupon.expires_at, reason=candidate.reason,
        )
        for coupon, (candidate, _) in zip(coupons, picked, strict=True)
    )  # fmt: skip
    pack = Pack(
        id=id, consumer_id=consumer_id, district_id=visit.district_id, visit_id=visit.id, day=visit.day, issued_at=at,
        entries=entries, declined=tuple(declined[:DECLINED_MAX]),
    )  # fmt: skip
    event = PackIssued(
        pack_id=id, consumer_id=consumer_id, district_id=visit.district_id, coupons=tuple(map(packed, coupons)), touchpoint=visit.touchpoint
    )
    return Issue(pack=pack, coupons=coupons, taken=tuple(budget.id for _, budget in picked), event=event)


def _coupon(pack: str, budget: Budget, consumer_id: str, at: datetime) -> Coupon:
    terms = budget.terms
    return Coupon(
        id=coupon_id(pack, budget.brand_id), consumer_id=consumer_id, brand_id=budget.brand_id, campaign_id=budget.campaign_id,
        district_id=budget.district_id, pack_id=pack, name=terms.name, name_en=terms.name_en, value=terms.value,
        minimum_spend=terms.minimum_spend or Money(terms.value.currency),
        issued_at=at, expires_at=at + timedelta(days=terms.validity_days),
    )  # fmt: skip


def _nothing(declined: Sequence[Declined], visit: Visit) -> Exhausted:
    missing = sum(item.reason is DeclineReason.CONSENT_MISSING for item in declined)
    return Exhausted(
        Reason.NOTHING_TO_GIVE, "every brand had to be declined: no consent for district coupons, or nothing left",
        district_id=visit.district_id, consent_missing=missing, budget_spent=len(declined) - missing,
    )  # fmt: skip
