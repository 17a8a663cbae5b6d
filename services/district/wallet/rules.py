"""Rules of the wallet: a coupon is ISSUED, LOCKED by an order, then REDEEMED, and ISSUED again if the order fails or is returned.

EXPIRED is never stored: it is computed from the clock for an ISSUED coupon.
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

LOCK_DURATION = timedelta(minutes=45)
"""A lock that is not confirmed expires after this time."""
COUPONS_MAX = 20
"""An order locks at most this many coupons."""
LINES_MAX = 500
"""An order with coupons has at most this many lines."""


class LockState(StrEnum):
    """The state of an order's lock. Released: the coupons were rolled back, or another order took them over."""

    HELD = "HELD"
    CONFIRMED = "CONFIRMED"
    RELEASED = "GONE"


class Coupon(Struct, frozen=True):
    """A coupon of a brand, held by a consumer."""

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


class OrderLine(Struct, frozen=True):
    """A line of an order: its brand and its amount."""

    brand_id: Annotated[str, Meta(min_length=1, max_length=100)]
    amount: Money


class LockRequest(Struct, frozen=True):
    """The coupons that an order spends, the order's lines, and the store that serves it."""

    store_id: Annotated[str, Meta(min_length=1, max_length=100)]
    coupon_ids: Annotated[tuple[str, ...], Meta(min_length=1, max_length=COUPONS_MAX)]
    lines: Annotated[tuple[OrderLine, ...], Meta(min_length=1, max_length=LINES_MAX)]


class Discount(Struct, frozen=True):
    """The amount that a coupon takes off the order's lines of its brand."""

    coupon_id: str
    brand_id: str
    amount: Money


class LockTerms(Struct, frozen=True):
    """The terms of a lock: the coupons in their order, and the sum of the order's lines per brand."""

    coupon_ids: tuple[str, ...]
    amounts: dict[str, Money]


class Lock(Struct, frozen=True):
    """An order's lock on coupons; `id` is the order's id."""

    id: Annotated[str, Meta(min_length=1, max_length=100)]
    asked: LockTerms
    """The terms that the order requested."""
    discounts: tuple[Discount, ...]
    locked_at: datetime
    state: LockState = LockState.HELD
    version: int = 1


def build_terms(request: LockRequest) -> LockTerms:
    """Returns the terms of a request, with lines summed by brand.

    Raises `Conflict` (BRAND_TWICE for a repeated coupon, CURRENCY_DIFFERS) or `Invalid` for a negative line.
    """
    coupon_ids, lines = request.coupon_ids, request.lines
    if len(set(coupon_ids)) < len(coupon_ids):
        message = "A coupon is repeated. Give each coupon once."
        raise Conflict(Reason.BRAND_TWICE, message, coupon_id=_find_repeated(coupon_ids))
    if len({line.amount.currency for line in lines}) > 1:
        raise Conflict(Reason.CURRENCY_DIFFERS, "The lines of an order must have one currency.")
    amounts: dict[str, Money] = {}
    for index, line in enumerate(lines):
        if line.amount.minor < 0:
            raise Invalid("INVALID_FIELD", "`amount` of a line must be 0 or more.", field=f"lines[{index}].amount")
        before = amounts.get(line.brand_id, Money(line.amount.currency))
        amounts[line.brand_id] = Money(before.currency, before.minor + line.amount.minor)
    return LockTerms(coupon_ids=coupon_ids, amounts=amounts)


def is_unlocked(coupon: Coupon, at: datetime) -> bool:
    """True if the coupon is not redeemed and is unlocked or its lock has expired."""
    return coupon.state is CouponState.ISSUED or (
        coupon.state is CouponState.LOCKED and coupon.locked_at is not None and at >= coupon.locked_at + LOCK_DURATION
    )


def compute_state(coupon: Coupon, at: datetime) -> CouponState:
    """Returns the state as of `at`: the stored one, except EXPIRED after the validity and ISSUED after the lock expired."""
    if not is_unlocked(coupon, at):
        return coupon.state
    return CouponState.EXPIRED if at >= coupon.expires_at else CouponState.ISSUED


def compute_discount(coupon: Coupon, amounts: Mapping[str, Money]) -> Discount:
    """Returns the discount of a coupon for lines that sum to `amounts` by brand: above 0, at most the sum of its brand.

    Raises `Conflict` (NO_LINE_OF_BRAND, CURRENCY_DIFFERS, MINIMUM_SPEND_MISSED).
    """
    amount = amounts.get(coupon.brand_id)
    if amount is None or amount.minor == 0:
        message = "No line of the order has the coupon's brand. Leave the coupon out, or add goods of its brand."
        raise Conflict(Reason.NO_LINE_OF_BRAND, message, coupon_id=coupon.id)
    if amount.currency != coupon.value.currency:
        message = "The coupon and the order have different currencies. Leave the coupon out."
        raise Conflict(Reason.CURRENCY_DIFFERS, message, coupon_id=coupon.id)
    if amount.minor < coupon.minimum_spend.minor:
        raise Conflict(
            Reason.MINIMUM_SPEND_MISSED,
            "The order's lines of the brand are below the coupon's minimum spend. Add goods, or leave the coupon out.",
            coupon_id=coupon.id, minimum_minor=coupon.minimum_spend.minor, amount_minor=amount.minor,
        )  # fmt: skip
    return Discount(coupon.id, coupon.brand_id, Money(amount.currency, min(coupon.value.minor, amount.minor)))


def lock(
    order_id: str,
    terms: LockTerms,
    coupons: Mapping[str, Coupon],
    *,
    owners: Collection[str],
    district_ids: Collection[str],
    at: datetime,
    version: int = 1,
) -> tuple[Lock, list[Coupon]]:
    """Returns the order's lock and its locked coupons; a refusal locks none.

    `coupons` has the existing coupons by id, `owners` the person's consumer ids, `district_ids` the districts of the order's store.
    """
    locked: list[Coupon] = []
    discounts: list[Discount] = []
    for coupon_id in terms.coupon_ids:
        coupon = coupons.get(coupon_id)
        if coupon is None or coupon.consumer_id not in owners:
            message = "No such coupon of this consumer, or you may not see it. Check the id."
            raise NotFound(Reason.COUPON_NOT_FOUND, message, coupon_id=coupon_id)
        if any(other.brand_id == coupon.brand_id for other in locked):
            message = "Two coupons are of the same brand. Give one coupon for each brand."
            raise Conflict(Reason.BRAND_TWICE, message, coupon_id=coupon_id)
        state = compute_state(coupon, at)
        if state is not CouponState.ISSUED:
            raise Conflict(STATE_REASONS[state], STATE_MESSAGES[state], coupon_id=coupon_id)
        if coupon.district_id not in district_ids:
            raise Conflict(
                Reason.STORE_NOT_IN_DISTRICT, "The order's store is not in the coupon's district. Choose a store of that district.",
                coupon_id=coupon_id, district_id=coupon.district_id,
            )  # fmt: skip
        discounts.append(compute_discount(coupon, terms.amounts))
        locked.append(msgspec.structs.replace(coupon, state=CouponState.LOCKED, order_id=order_id, locked_at=at, redeemed_at=None))
    return Lock(id=order_id, asked=terms, discounts=tuple(discounts), locked_at=at, version=version), locked


STATE_REASONS = {
    CouponState.LOCKED: Reason.COUPON_LOCKED,
    CouponState.REDEEMED: Reason.COUPON_REDEEMED,
    CouponState.EXPIRED: Reason.COUPON_EXPIRED,
}
STATE_MESSAGES = {
    CouponState.LOCKED: "Another order has locked this coupon. Choose another coupon, or try again when the lock has expired.",
    CouponState.REDEEMED: "This coupon is redeemed already. Choose another coupon.",
    CouponState.EXPIRED: "This coupon has expired. Choose another coupon.",
}


def is_repeat(current: Lock, terms: LockTerms) -> bool:
    """True if an order requests the lock that it has; false if its lock is released.

    Raises `Conflict` (ORDER_LOCKED_OTHERWISE) if the order has a lock with other terms.
    """
    if current.state is LockState.RELEASED:
        return False
    if current.asked != terms:
        message = "This order has locked coupons with other terms. Roll them back first."
        raise Conflict(Reason.ORDER_LOCKED_OTHERWISE, message, order_id=current.id)
    return True


def confirm(current: Lock, coupons: Sequence[Coupon], at: datetime) -> tuple[Lock, list[Coupon]]:
    """Returns the confirmed lock and its redeemed coupons; a repeat changes nothing.

    Raises `Conflict` (LOCK_GONE) if the lock is released.
    """
    if current.state is LockState.CONFIRMED:
        return current, []
    if current.state is LockState.RELEASED:
        message = "The lock of this order is released. Lock the coupons again."
        raise Conflict(Reason.LOCK_GONE, message, order_id=current.id)
    redeemed = [msgspec.structs.replace(coupon, state=CouponState.REDEEMED, redeemed_at=at) for coupon in coupons]
    return msgspec.structs.replace(current, state=LockState.CONFIRMED), redeemed


def roll_back(current: Lock, coupons: Sequence[Coupon]) -> tuple[Lock, list[Coupon]]:
    """Returns the released lock and its coupons as issued; a repeat changes nothing.

    A redeemed coupon counts its rollback.
    """
    if current.state is LockState.RELEASED:
        return current, []
    issued = [
        msgspec.structs.replace(
            coupon, state=CouponState.ISSUED, order_id="", locked_at=None, redeemed_at=None,
            rollback_count=coupon.rollback_count + (coupon.state is CouponState.REDEEMED),
        )
        for coupon in coupons
    ]  # fmt: skip
    return msgspec.structs.replace(current, state=LockState.RELEASED), issued


def to_packed_coupon(coupon: Coupon) -> PackedCoupon:
    """Returns the coupon as an event contains it."""
    return PackedCoupon(
        coupon_id=coupon.id, brand_id=coupon.brand_id, value=coupon.value, expires_at=coupon.expires_at,
        name=coupon.name, name_en=coupon.name_en, minimum_spend=coupon.minimum_spend,
    )  # fmt: skip


def _find_repeated(ids: Sequence[str]) -> str:
    """Returns the first id that occurs twice."""
    return next(id for index, id in enumerate(ids) if id in ids[:index])
