"""Rules of packs: a pack has one coupon of each of the best brands with budget and consent, at most six."""

from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime, timedelta
from hashlib import blake2b

from msgspec import Struct

from services.district.campaigns.rules import Budget
from services.district.matching.rules import Affinity, compute_frequency
from services.district.packs.enums import DeclineReason, PickKind, Reason
from services.district.places.enums import Reason as VisitReason
from services.district.places.enums import VisitState
from services.district.places.rules import PackedCoupon, Visit
from services.district.wallet.rules import Coupon, to_packed_coupon
from services.kit.enums import Touchpoint
from services.kit.errors import Conflict, Exhausted, NotFound
from services.kit.values.event import Event
from services.kit.values.money import Money

COUPONS_MAX = 6
"""A pack has at most this many coupons."""
CANDIDATES_MAX = 24
"""A decision reads at most this many budgets."""
DECLINED_MAX = 24
"""A pack lists at most this many declined brands."""


class PickReason(Struct, frozen=True):
    """Why a brand is in the pack, with the numbers behind it."""

    kind: PickKind
    purchase_count: int = 0
    last_purchase_at: datetime | None = None
    decayed_frequency: float = 0.0


class Declined(Struct, frozen=True):
    """A brand that is not in the pack although it ranks high enough, and why."""

    brand_id: str
    reason: DeclineReason


class PackEntry(Struct, frozen=True):
    """A coupon in a pack, and why it is there."""

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
    """A consumer's pack of coupons for one day in one district."""

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
    """A ranked brand, and the budgets of its running campaigns that had coupons left when they were read."""

    brand_id: str
    reason: PickReason
    budgets: tuple[Budget, ...]
    has_consent: bool


class IssuedPack(Struct, frozen=True):
    """An issued pack with its coupons and its event; each budget in `taken` has one coupon less."""

    pack: Pack
    coupons: tuple[Coupon, ...]
    taken: tuple[str, ...]
    event: PackIssued


def pack_id(consumer_id: str, district_id: str, day: date) -> str:
    """Returns the id of a consumer's only pack of that day in that district."""
    return f"pck_{blake2b(f'{consumer_id}|{district_id}|{day.isoformat()}'.encode(), digest_size=16).hexdigest()}"


def coupon_id(pack: str, brand_id: str) -> str:
    """Returns the id of a brand's only coupon in a pack."""
    return f"cpn_{blake2b(f'{pack}|{brand_id}'.encode(), digest_size=16).hexdigest()}"


def check_owner(visit: Visit, owners: Collection[str]) -> None:
    """Raises `NotFound` (VISIT_NOT_FOUND) unless the visit belongs to one of these consumer ids of a person."""
    if visit.consumer_id not in owners:
        message = "No such visit, or you may not see it. Check the id."
        raise NotFound(VisitReason.VISIT_NOT_FOUND, message, id=visit.id)


def check_visit(visit: Visit, today: date) -> None:
    """Raises `Conflict` (VISIT_OVER) unless the visit is open and of today."""
    if visit.state is not VisitState.OPEN or visit.day != today.isoformat():
        message = "The visit has ended or is not of today. Enter the district again."
        raise Conflict(Reason.VISIT_OVER, message, visit_id=visit.id)


def explain_pick(affinity: Affinity | None, at: datetime) -> PickReason:
    """Returns the numbers behind a brand's rank."""
    if affinity is None or not affinity.orders:
        return PickReason(PickKind.NEW_TO_YOU)
    return PickReason(PickKind.BOUGHT_BEFORE, affinity.orders, affinity.last_at, compute_frequency(affinity, at))


def shortlist(ranked: Sequence[Candidate]) -> list[str]:
    """Returns the ids of the budgets of the best brands with consent, at most CANDIDATES_MAX."""
    budget_ids = [budget.id for candidate in ranked if candidate.has_consent for budget in candidate.budgets]
    return budget_ids[:CANDIDATES_MAX]


def assemble(
    ranked: Sequence[Candidate], budgets: Mapping[str, Budget], *, id: str, visit: Visit, consumer_id: str, at: datetime
) -> IssuedPack:
    """Returns the pack of the first six ranked brands with budget and consent; brands skipped before them are declined.

    `budgets` has the current state of the shortlisted ones by id. Raises `Conflict` (NO_CAMPAIGN) without a brand, `Exhausted`
    (NOTHING_TO_GIVE) if all brands are declined.
    """
    if not ranked:
        message = "No campaign is running in this district. Try again when one has started."
        raise Conflict(Reason.NO_CAMPAIGN, message, district_id=visit.district_id)
    picked: list[tuple[Candidate, Budget]] = []
    declined: list[Declined] = []
    for candidate in ranked:
        if len(picked) == COUPONS_MAX:
            break
        current_budgets = [budgets[budget.id] for budget in candidate.budgets if budget.id in budgets]
        budget = next((budget for budget in current_budgets if budget.remaining > 0 and budget.is_running(at)), None)
        if not candidate.has_consent:
            declined.append(Declined(candidate.brand_id, DeclineReason.CONSENT_MISSING))
        elif budget is not None:
            picked.append((candidate, budget))
        elif len(current_budgets) == len(candidate.budgets):
            declined.append(Declined(candidate.brand_id, DeclineReason.BUDGET_SPENT))
    if not picked:
        raise _build_empty_pack_refusal(declined, visit)
    return _build_issued_pack(picked, declined, id=id, visit=visit, consumer_id=consumer_id, at=at)


def _build_issued_pack(
    picked: Sequence[tuple[Candidate, Budget]], declined: Sequence[Declined], *, id: str, visit: Visit, consumer_id: str, at: datetime
) -> IssuedPack:
    coupons = tuple(_build_coupon(id, budget, consumer_id, at) for _, budget in picked)
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
        pack_id=id,
        consumer_id=consumer_id,
        district_id=visit.district_id,
        coupons=tuple(map(to_packed_coupon, coupons)),
        touchpoint=visit.touchpoint,
    )
    return IssuedPack(pack=pack, coupons=coupons, taken=tuple(budget.id for _, budget in picked), event=event)


def _build_coupon(pack: str, budget: Budget, consumer_id: str, at: datetime) -> Coupon:
    terms = budget.terms
    return Coupon(
        id=coupon_id(pack, budget.brand_id), consumer_id=consumer_id, brand_id=budget.brand_id, campaign_id=budget.campaign_id,
        district_id=budget.district_id, pack_id=pack, name=terms.name, name_en=terms.name_en, value=terms.value,
        minimum_spend=terms.minimum_spend or Money(terms.value.currency),
        issued_at=at, expires_at=at + timedelta(days=terms.validity_days),
    )  # fmt: skip


def _build_empty_pack_refusal(declined: Sequence[Declined], visit: Visit) -> Exhausted:
    without_consent = sum(item.reason is DeclineReason.CONSENT_MISSING for item in declined)
    return Exhausted(
        Reason.NOTHING_TO_GIVE, "No brand has both a coupon left and your consent to district coupons. Check your consents.",
        district_id=visit.district_id, consent_missing=without_consent, budget_spent=len(declined) - without_consent,
    )  # fmt: skip
