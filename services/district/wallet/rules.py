"""A coupon's life: ISSUED -> LOCKED by an order -> REDEEMED, and back to ISSUED when the order fails or is returned.

EXPIRED is never stored: the clock tells it of a coupon that is ISSUED.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from services.district.places.rules import PackedCoupon
from services.district.wallet.enums import CouponState, Reason
from services.kit.errors import Conflict, Invalid, NotFound
from services.kit.values.money import Money

LOCK_LASTS = timedelta(minutes=45)
COUPONS_MAX = 20
LINES_MAX = 500


class LockState(StrEnum):
    HELD = "HELD"
    CONFIRMED = "CONFIRMED"
    GONE = "GONE"


class Coupon(Struct, frozen=True):
    id: str
    consumer_id: str
    brand_id: str
    campaign_id: str
    district_id: str
    pack_id: str
    name: str
    value: Money
    minimum_spend: Money
    issued_at: datetime
    expires_at: datetime
    name_en: str = ""
    state: CouponState = CouponState.ISSUED
    order_id: str = ""
    locked_at: datetime | None = None
    redeemed_at: datetime | None = None
    rollback_count: int = 0
    version: int = 1


class Line(Struct, frozen=True):
    brand_id: Annotated[str, Meta(min_length=1, max_length=100)]
    amount: Money


class Spending(Struct, frozen=True):
    """Coupons that an order is to spend, its lines, and the store that serves it."""

    store_id: Annotated[str, Meta(min_length=1, max_length=100)]
    coupon_ids: Annotated[tuple[str, ...], Meta(min_length=1, max_length=COUPONS_MAX)]
    lines: Annotated[tuple[Line, ...], Meta(min_length=1, max_length=LINES_MAX)]


class Discount(Struct, frozen=True):
    """What a coupon takes off the order's lines of its brand."""

    coupon_id: str
    brand_id: str
    amount: Money


class Asked(Struct, frozen=True):
    """What an order asks to lock: the coupons in their order, and what its lines amount to by brand."""

    coupon_ids: tuple[str, ...]
    amounts: dict[str, Money]


class Lock(Struct, frozen=True):
    """An order's hold on coupons; `id` is the order's."""

    id: Annotated[str, Meta(min_length=1, max_length=100)]
    asked: Asked
    discounts: tuple[Discount, ...]
    locked_at: datetime
    state: LockState = LockState.HELD
    version: int = 1


def ask(spending: Spending) -> Asked:
    """What is asked for, lines summed by brand. BRAND_TWICE for one coupon twice, CURRENCY_DIFFERS, `Invalid` for a line below nothing."""
    coupon_ids, lines = spending.coupon_ids, spending.lines
    if len(set(coupon_ids)) < len(coupon_ids):
        raise Conflict(Reason.BRAND_TWICE, "each coupon can be spent once", coupon_id=_twice(coupon_ids))
    if len({line.amount.currency for line in lines}) > 1:
        raise Conflict(Reason.CURRENCY_DIFFERS, "the lines of an order have one currency")
    amounts: dict[str, Money] = {}
    for place, line in enumerate(lines):
        if line.amount.minor < 0:
            raise Invalid("INVALID_FIELD", "a line amounts to nothing or more", field=f"lines[{place}].amount")
        before = amounts.get(line.brand_id, Money(line.amount.currency))
        amounts[line.brand_id] = Money(before.currency, before.minor + line.amount.minor)
    return Asked(coupon_ids=coupon_ids, amounts=amounts)


def free(coupon: Coupon, at: datetime) -> bool:
    """Whether nobody's word holds the coupon: it is not locked, or by a lock whose time is over."""
    return coupon.state is CouponState.ISSUED or (
        coupon.state is CouponState.LOCKED and coupon.locked_at is not None and at >= coupon.locked_at + LOCK_LASTS
    )


def state_at(coupon: Coupon, at: datetime) -> CouponState:
    """What the coupon is as of `at`: as stored, but EXPIRED by the clock and ISSUED again when its lock's time is over."""
    if not free(coupon, at):
        return coupon.state
    return CouponState.EXPIRED if at >= coupon.expires_at else CouponState.ISSUED


def discount(coupon: Coupon, amounts: Mapping[str, Money]) -> Discount:
    """What the coupon takes off lines that amount to `amounts` by brand; more than nothing, at most what they amount to."""
    amount = amounts.get(coupon.brand_id)
    if amount is None or amount.minor == 0:
        raise Conflict(Reason.NO_LINE_OF_BRAND, "no line of the order is of this coupon's brand", coupon_id=coupon.id)
    if amount.currency != coupon.value.currency:
        raise Conflict(Reason.CURRENCY_DIFFERS, "the coupon is of another currency", coupon_id=coupon.id)
    if amount.minor < coupon.minimum_spend.minor:
        raise Conflict(
            Reason.MINIMUM_SPEND_MISSED, "the order's lines of this brand amount to less than the coupon asks for",
            coupon_id=coupon.id, minimum_minor=coupon.minimum_spend.minor, amount_minor=amount.minor,
        )  # fmt: skip
    return Discount(coupon.id, coupon.brand_id, Money(amount.currency, min(coupon.value.minor, amount.minor)))


def lock(
    order_id: str,
    asked: Asked,
    coupons: Mapping[str, Coupon],
    *,
    owners: Collection[str],
    district_ids: Collection[str],
    at: datetime,
    version: int = 1,
) -> tuple[Lock, list[Coupon]]:
    """The order's lock and its coupons, locked; a refusal locks none.

    `coupons` by id, those that exist; `owners`: the person's ids; `district_ids`: where the store stands that serves the order.
    """
    locked: list[Coupon] = []
    discounts: list[Discount] = []
    for coupon_id in asked.coupon_ids:
        coupon = coupons.get(coupon_id)
        if coupon is None or coupon.consumer_id not in owners:
            raise NotFound(Reason.COUPON_NOT_FOUND, "there is no such coupon for this consumer", coupon_id=coupon_id)
        if any(other.brand_id == coupon.brand_id for other in locked):
            raise Conflict(Reason.BRAND_TWICE, "an order takes one coupon of each brand", coupon_id=coupon_id)
        state = state_at(coupon, at)
        if state is not CouponState.ISSUED:
            raise Conflict(REFUSED[state], WHY[state], coupon_id=coupon_id)
        if coupon.district_id not in district_ids:
            raise Conflict(
                Reason.STORE_NOT_IN_DISTRICT, "this coupon is spent in stores of its district; let one of those serve the order",
                coupon_id=coupon_id, district_id=coupon.district_id,
            )  # fmt: skip
        discounts.append(discount(coupon, asked.amounts))
        locked.append(msgspec.structs.replace(coupon, state=CouponState.LOCKED, order_id=order_id, locked_at=at, redeemed_at=None))
    return Lock(id=order_id, asked=asked, discounts=tuple(discounts), locked_at=at, version=version), locked


REFUSED = {
    CouponState.LOCKED: Reason.COUPON_LOCKED,
    CouponState.REDEEMED: Reason.COUPON_REDEEMED,
    CouponState.EXPIRED: Reason.COUPON_EXPIRED,
}
WHY = {
    CouponState.LOCKED: "another order holds this coupon",
    CouponState.REDEEMED: "this coupon was spent",
    CouponState.EXPIRED: "this coupon's days are over",
}


def same(held: Lock, asked: Asked) -> bool:
    """Whether an order asks again for what it holds. `Conflict` ORDER_LOCKED_OTHERWISE when it holds something else; a lock that is gone
    holds nothing."""
    if held.state is LockState.GONE:
        return False
    if held.asked != asked:
        raise Conflict(Reason.ORDER_LOCKED_OTHERWISE, "this order holds other coupons; roll them back first", order_id=held.id)
    return True


def confirm(held: Lock, coupons: Sequence[Coupon], at: datetime) -> tuple[Lock, list[Coupon]]:
    """The lock confirmed and its coupons spent; nothing to change when they are. `Conflict` LOCK_GONE when it holds nothing any more."""
    if held.state is LockState.CONFIRMED:
        return held, []
    if held.state is LockState.GONE:
        raise Conflict(Reason.LOCK_GONE, "the coupons of this order were given back or taken over", order_id=held.id)
    spent = [msgspec.structs.replace(coupon, state=CouponState.REDEEMED, redeemed_at=at) for coupon in coupons]
    return msgspec.structs.replace(held, state=LockState.CONFIRMED), spent


def roll_back(held: Lock, coupons: Sequence[Coupon]) -> tuple[Lock, list[Coupon]]:
    """The lock gone and its coupons given back; nothing to change when it is. A spent coupon counts that it came back."""
    if held.state is LockState.GONE:
        return held, []
    back = [
        msgspec.structs.replace(
            coupon, state=CouponState.ISSUED, order_id="", locked_at=None, redeemed_at=None,
            rollback_count=coupon.rollback_count + (coupon.state is CouponState.REDEEMED),
        )
        for coupon in coupons
    ]  # fmt: skip
    return msgspec.structs.replace(held, state=LockState.GONE), back


def packed(coupon: Coupon) -> PackedCoupon:
    """The coupon as events carry it."""
    return PackedCoupon(
        coupon_id=coupon.id, brand_id=coupon.brand_id, value=coupon.value, expires_at=coupon.expires_at,
        name=coupon.name, name_en=coupon.name_en, minimum_spend=coupon.minimum_spend,
    )  # fmt: skip


def _twice(ids: Sequence[str]) -> str:
    return next(id for index, id in enumerate(ids) if id in ids[:index])
