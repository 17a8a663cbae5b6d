"""Rules of targets: how an order counts, the guide it is credited to, and monthly targets. Sums of orders are in `scorecards.py`."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct
from msgspec.structs import replace

from services.kit.enums import Touchpoint
from services.kit.errors import Invalid
from services.kit.values.money import MINOR_MAX, Money
from services.kit.values.opening_hours import local_day
from services.organization.targets.enums import CreditBasis, Reason, Taken

OUTREACH_DAYS = 7
"""A guide's message decides the credit of an order that is paid within this many days."""
SCENARIO_PREFIX = "SCENARIO_"
ONLINE_TOUCHPOINTS = frozenset(
    {Touchpoint.MINI_PROGRAM, Touchpoint.APP, Touchpoint.WEB, Touchpoint.LIVE, Touchpoint.GUIDE_CHAT},
)


class BrandShare(Struct, frozen=True, rename={"brand_id": "b", "day": "d", "items": "i", "minor": "m"}):
    """The lines of one product brand in an order. `day` is local to the brand. Stored names have one letter, since orders are many."""

    brand_id: str
    day: str
    items: int
    minor: int


class Credit(Struct, frozen=True, kw_only=True):
    """An order as it counts once. `org_unit_ids` is the path of its store at payment; `day` is local to the seller."""

    id: str
    store_id: str
    brand_id: str
    staff_id: str | None = None
    basis: CreditBasis | None = None
    bound_brand_id: str | None = None
    outreach_id: str | None = None
    decided_at: datetime | None = None
    paid_at: datetime
    scenario: str
    taken: Taken
    items: int
    amount: Money
    org_unit_ids: tuple[str, ...]
    day: str
    brands: tuple[BrandShare, ...] = ()
    version: int = 1


def bound_brand_part(credit: Credit) -> Credit:
    """Returns the part of a credit that belongs to the guide's brand, when the order is of another tenant."""
    share = next((share for share in credit.brands if share.brand_id == credit.bound_brand_id), None)
    items, minor = (share.items, share.minor) if share else (0, 0)
    return replace(credit, items=items, amount=Money(credit.amount.currency, minor))


class Line(NamedTuple):
    """A line of an order: its product brand, number of items, and the amount paid in minor units."""

    brand_id: str
    items: int
    minor: int


class Order(NamedTuple):
    """A paid order, from an event of commerce."""

    id: str
    store_id: str
    touchpoint: str
    scenario: str
    paid_at: datetime
    currency: str
    lines: Sequence[Line]


class Seller(NamedTuple):
    """The store that serves an order: its tenant, the path of its org unit, and the tenant's zone."""

    brand_id: str
    org_unit_ids: tuple[str, ...]
    zone: str


class Binding(Struct, frozen=True, kw_only=True):
    """The guide that a consumer is bound to for a brand, with the guide's store and the start time."""

    consumer_id: str
    brand_id: str
    staff_id: str
    store_id: str
    bound_at: datetime


class LastOutreach(Struct, frozen=True, kw_only=True):
    """The last message of a guide to a consumer for a brand."""

    brand_id: str
    staff_id: str
    outreach_id: str
    at: datetime


class Target(Struct, frozen=True, kw_only=True):
    """The sales target of an org unit for a month, in one scenario or in all."""

    id: str
    org_unit_id: str
    brand_id: str
    month: Annotated[str, Meta(pattern=r"^\d{4}-\d{2}\Z")]
    scenario: str | None = None
    online: Money
    offline: Money
    total: Money
    version: int = 1


def classify_touchpoint(touchpoint: str) -> Taken:
    """Returns whether an order was taken online, at a digital touchpoint, or offline."""
    return Taken.ONLINE if touchpoint in ONLINE_TOUCHPOINTS else Taken.OFFLINE


def count_order(order: Order, seller: Seller, zones: Mapping[str, str]) -> Credit:
    """Returns an order as it counts: for the store's org units on the seller's day, for each product brand on the brand's day.

    `zones` maps the known brands to their zones. The lines of an unknown brand count on the seller's day.
    """
    shares: dict[str, tuple[int, int]] = {}
    for line in order.lines:
        items, minor = shares.get(line.brand_id, (0, 0))
        shares[line.brand_id] = (items + line.items, minor + line.minor)
    day = local_day(order.paid_at, seller.zone).isoformat()
    days = {zone: local_day(order.paid_at, zone).isoformat() for zone in {zones.get(brand, seller.zone) for brand in shares}}
    return Credit(
        id=order.id,
        store_id=order.store_id,
        brand_id=seller.brand_id,
        paid_at=order.paid_at,
        scenario=order.scenario,
        taken=classify_touchpoint(order.touchpoint),
        items=sum(items for items, _ in shares.values()),
        amount=Money(order.currency, sum(minor for _, minor in shares.values())),
        org_unit_ids=seller.org_unit_ids,
        day=day,
        brands=tuple(BrandShare(brand, days[zones.get(brand, seller.zone)], *share) for brand, share in shares.items()),
    )


class Attribution(NamedTuple):
    """The guide that an order is credited to, and the evidence."""

    staff_id: str
    basis: CreditBasis
    bound_brand_id: str
    outreach_id: str | None
    decided_at: datetime


def latest_bindings(bindings: Iterable[Binding]) -> dict[str, Binding]:
    """Returns the latest binding of a person for each brand. `bindings` are those of all ids of the person."""
    latest: dict[str, Binding] = {}
    for binding in sorted(bindings, key=lambda one: (one.bound_at, one.consumer_id)):
        latest[binding.brand_id] = binding
    return latest


def attribute(credit: Credit, bindings: Iterable[Binding], outreach: Iterable[LastOutreach]) -> Attribution | None:
    """Returns the guide that an order is credited to, or None if the person is bound to no guide of the brands concerned.

    `bindings` and `outreach` are those of all ids of the person. Concerned are the seller and the product brands of the order.
    1. The latest message of a bound guide, at most `OUTREACH_DAYS` days before payment.
    2. The binding for the seller.
    3. The binding for the product brand with the highest amount.
    """
    paid = {share.brand_id: share.minor for share in credit.brands}
    concerned = [one for one in bindings if one.brand_id in paid or one.brand_id == credit.brand_id]
    pairs = {(one.brand_id, one.staff_id) for one in concerned}
    since = credit.paid_at - timedelta(days=OUTREACH_DAYS)
    recent = [one for one in outreach if (one.brand_id, one.staff_id) in pairs and since <= one.at <= credit.paid_at]
    if recent:
        last = max(recent, key=lambda one: (one.at, one.outreach_id))
        return Attribution(last.staff_id, CreditBasis.OUTREACH, last.brand_id, last.outreach_id, last.at)
    if not concerned:
        return None
    first = min(
        latest_bindings(concerned).values(),
        key=lambda one: (one.brand_id != credit.brand_id, -paid.get(one.brand_id, 0), one.brand_id),
    )
    return Attribution(first.staff_id, CreditBasis.BINDING, first.brand_id, None, first.bound_at)


def create_target(org_unit_id: str, brand_id: str, month: str, scenario: str | None, currency: str, online: int, offline: int) -> Target:
    """Returns the target of an org unit for a month. Its total is the sum of online and offline. `Invalid` for a bad month or amount."""
    try:
        date.fromisoformat(f"{month}-01")
    except ValueError:
        raise Invalid(Reason.INVALID_MONTH, "This is not a month. Write it as YYYY-MM, like 2024-05.", field="month") from None
    for field, amount in (("online_minor", online), ("offline_minor", offline)):
        if not 0 <= amount <= MINOR_MAX // 2:
            raise Invalid("INVALID_FIELD", f"The amount is out of range. Choose 0 to {MINOR_MAX // 2:,} minor units.", field=field)
    if not online and not offline:
        raise Invalid(Reason.EMPTY_TARGET, "The target is empty. Set an amount for online, offline or both.")
    return Target(
        id=f"tgt_{org_unit_id}_{month}_{(scenario or 'SCENARIO_ALL').removeprefix(SCENARIO_PREFIX).lower()}",
        org_unit_id=org_unit_id, brand_id=brand_id, month=month, scenario=scenario, online=Money(currency, online),
        offline=Money(currency, offline), total=Money(currency, online + offline),
    )  # fmt: skip
