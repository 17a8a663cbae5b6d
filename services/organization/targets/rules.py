"""How an order counts, to whom it is credited, and what units are meant to sell. Sums of many orders: `scorecards.py`."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct
from msgspec.structs import replace

from services.kit.enums import Touchpoint
from services.kit.errors import Invalid
from services.kit.values.money import MINOR_MAX, Money
from services.kit.values.opening_hours import day_of
from services.organization.targets.enums import CreditBasis, Reason, Taken

OUTREACH_DAYS = 7
SCENARIO_PREFIX = "SCENARIO_"
ONLINE = frozenset(
    {Touchpoint.MINI_PROGRAM, Touchpoint.APP, Touchpoint.WEB, Touchpoint.LIVE, Touchpoint.GUIDE_CHAT},
)


class BrandShare(Struct, frozen=True, rename={"brand_id": "b", "day": "d", "items": "i", "minor": "m"}):
    """The lines of one product brand in an order; `day` is local to that brand. Stored under one letter each: orders are many."""

    brand_id: str
    day: str
    items: int
    minor: int


class Credit(Struct, frozen=True, kw_only=True):
    """An order as it counts, once. `org_unit_ids` is the path of its store when it was paid, `day` local to the seller."""

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


def part_of(credit: Credit) -> Credit:
    """The credit as the guide of a product brand sees it whom another tenant's order is credited to: what was paid for her brand."""
    share = next((one for one in credit.brands if one.brand_id == credit.bound_brand_id), None)
    items, minor = (share.items, share.minor) if share else (0, 0)
    return replace(credit, items=items, amount=Money(credit.amount.currency, minor))


class Line(NamedTuple):
    """A line of an order: product brand, pieces, minor units paid."""

    brand_id: str
    items: int
    minor: int


class Order(NamedTuple):
    """An order as commerce tells it."""

    id: str
    store_id: str
    touchpoint: str
    scenario: str
    paid_at: datetime
    currency: str
    lines: Sequence[Line]


class Seller(NamedTuple):
    """The store that serves an order: its tenant, the path of its unit and the tenant's zone."""

    brand_id: str
    org_unit_ids: tuple[str, ...]
    zone: str


class Binding(Struct, frozen=True, kw_only=True):
    """The guide a consumer is bound to for a brand, the store she does it from, and since when."""

    consumer_id: str
    brand_id: str
    staff_id: str
    store_id: str
    bound_at: datetime


class Reached(Struct, frozen=True, kw_only=True):
    """The last message a guide wrote to a consumer for a brand."""

    brand_id: str
    staff_id: str
    outreach_id: str
    at: datetime


class Target(Struct, frozen=True, kw_only=True):
    """What a unit is meant to sell in a month."""

    id: str
    org_unit_id: str
    brand_id: str
    month: Annotated[str, Meta(pattern=r"^\d{4}-\d{2}\Z")]
    scenario: str | None = None
    online: Money
    offline: Money
    total: Money
    version: int = 1


def taken(touchpoint: str) -> Taken:
    """Where an order was taken: online in a digital touchpoint, offline everywhere else."""
    return Taken.ONLINE if touchpoint in ONLINE else Taken.OFFLINE


def count(order: Order, seller: Seller, zones: Mapping[str, str]) -> Credit:
    """An order as it counts: for its store's units on the seller's day, for each product brand on that brand's day.

    `zones` are those of known brands; lines of an unknown one count on the seller's day.
    """
    shares: dict[str, tuple[int, int]] = {}
    for line in order.lines:
        items, minor = shares.get(line.brand_id, (0, 0))
        shares[line.brand_id] = (items + line.items, minor + line.minor)
    day = day_of(order.paid_at, seller.zone).isoformat()
    days = {zone: day_of(order.paid_at, zone).isoformat() for zone in {zones.get(brand, seller.zone) for brand in shares}}
    return Credit(
        id=order.id,
        store_id=order.store_id,
        brand_id=seller.brand_id,
        paid_at=order.paid_at,
        scenario=order.scenario,
        taken=taken(order.touchpoint),
        items=sum(items for items, _ in shares.values()),
        amount=Money(order.currency, sum(minor for _, minor in shares.values())),
        org_unit_ids=seller.org_unit_ids,
        day=day,
        brands=tuple(BrandShare(brand, days[zones.get(brand, seller.zone)], *share) for brand, share in shares.items()),
    )


class Decision(NamedTuple):
    """Whom an order is credited to and the event that decided."""

    staff_id: str
    basis: CreditBasis
    bound_brand_id: str
    outreach_id: str | None
    decided_at: datetime


def guides(bindings: Iterable[Binding]) -> dict[str, Binding]:
    """Brand -> who looks after a person, of the bindings of all their ids: the latest counts."""
    latest: dict[str, Binding] = {}
    for one in sorted(bindings, key=lambda one: (one.bound_at, one.consumer_id)):
        latest[one.brand_id] = one
    return latest


def attribute(credit: Credit, bindings: Iterable[Binding], reached: Iterable[Reached]) -> Decision | None:
    """The guide an order is credited to: bound for the seller or one of its product brands. Both are those of all ids of the person.

    A guide who wrote to her within OUTREACH_DAYS before she paid comes first (the latest message decides); else the binding for the
    seller, else the one for the product brand she paid most for. None: nobody is bound.
    """
    paid = {share.brand_id: share.minor for share in credit.brands}
    bound = [one for one in bindings if one.brand_id in paid or one.brand_id == credit.brand_id]
    pairs = {(one.brand_id, one.staff_id) for one in bound}
    since = credit.paid_at - timedelta(days=OUTREACH_DAYS)
    wrote = [one for one in reached if (one.brand_id, one.staff_id) in pairs and since <= one.at <= credit.paid_at]
    if wrote:
        last = max(wrote, key=lambda one: (one.at, one.outreach_id))
        return Decision(last.staff_id, CreditBasis.OUTREACH, last.brand_id, last.outreach_id, last.at)
    if not bound:
        return None
    nearest = min(guides(bound).values(), key=lambda one: (one.brand_id != credit.brand_id, -paid.get(one.brand_id, 0), one.brand_id))
    return Decision(nearest.staff_id, CreditBasis.BINDING, nearest.brand_id, None, nearest.bound_at)


def set_target(org_unit_id: str, brand_id: str, month: str, scenario: str | None, currency: str, online: int, offline: int) -> Target:
    """A unit's target of a month; its sum is that of both parts."""
    try:
        date.fromisoformat(f"{month}-01")
    except ValueError:
        raise Invalid(Reason.INVALID_MONTH, "a month is written like 2024-05", field="month") from None
    for field, amount in (("online_minor", online), ("offline_minor", offline)):
        if not 0 <= amount <= MINOR_MAX // 2:
            raise Invalid("INVALID_FIELD", "amounts are from 0 to 5 * 10^14", field=field)
    if not online and not offline:
        raise Invalid(Reason.EMPTY_TARGET, "give an amount for online or offline")
    return Target(
        id=f"tgt_{org_unit_id}_{month}_{(scenario or 'SCENARIO_ALL').removeprefix(SCENARIO_PREFIX).lower()}",
        org_unit_id=org_unit_id, brand_id=brand_id, month=month, scenario=scenario, online=Money(currency, online),
        offline=Money(currency, offline), total=Money(currency, online + offline),
    )  # fmt: skip
