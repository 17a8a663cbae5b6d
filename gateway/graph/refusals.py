"""The refusals of the graph: a general one for each family of the kit, and those on whose events a front end acts.

This is the one table of reason -> type; reasons it does not name are told by their family's type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.schema.refusal_types import Refusal, refusal, refusal_field
from services.kit import errors

if TYPE_CHECKING:
    from gateway.schema.scalars import DateTime, Long


@refusal(families=(errors.Invalid,))
class InvalidInput(Refusal):
    """Something that was given can never be."""

    field: str | None = refusal_field("The part of the input that is meant, by its path: `product.variants.0.price.amount`.")


@refusal(families=(errors.NotFound,))
class NotFound(Refusal):
    """There is no such thing, or none that you may see."""


@refusal(families=(errors.Denied,))
class NotPermitted(Refusal):
    """You may not do this here."""


@refusal(families=(errors.Conflict,))
class Conflict(Refusal):
    """How things stand does not allow this now; `code` says what stands in the way."""


@refusal(families=(errors.Exhausted,))
class Exhausted(Refusal):
    """A budget, a stock or a quota has nothing left."""


@refusal(families=(errors.Unavailable, errors.Overloaded))
class TryAgain(Refusal):
    """Something that this needs does not answer or is overloaded: make the same call again, with the same key."""


@refusal("OUT_OF_STOCK")
class OutOfStock(Refusal):
    """Fewer are available than were asked for."""

    fewer: bool | None = refusal_field("Whether fewer than that could be had.")
    held_until: DateTime | None = refusal_field(
        "When others hold the goods: the time at which the first of those holds ends unless it is bought."
    )


@refusal("TOO_MANY_HOLDS")
class TooManyHolds(Refusal):
    """As many holds and unpaid orders stand for the consumer as may: pay for one, release or cancel it, or wait."""

    limit: Long | None = refusal_field("How many may stand at a time.")
    free_at: DateTime | None = refusal_field("When the first of them ends; not told when that hold is none of yours to see.")


@refusal("STORE_CLOSED")
class StoreClosed(Refusal):
    """The store is closed, or closes before the goods can be handed over."""

    opens_at: DateTime | None = refusal_field("When it opens next.")


@refusal("TOO_LATE")
class TooLate(Refusal):
    """The goods cannot be there when they are needed."""

    arrives_at: DateTime | None = refusal_field("When they could be there.")


@refusal("HOLD_ENDED", "HOLD_ORDERED")
class HoldGone(Refusal):
    """The hold has ended, or an order stands on it already."""

    order_id: str | None = refusal_field("The order that stands on it.")


@refusal(
    "COUPON_NOT_FOUND",
    "COUPON_EXPIRED",
    "COUPON_LOCKED",
    "COUPON_REDEEMED",
    "BRAND_TWICE",
    "STORE_NOT_IN_DISTRICT",
    "NO_LINE_OF_BRAND",
    "MINIMUM_SPEND_MISSED",
    "CURRENCY_DIFFERS",
)
class CouponRefused(Refusal):
    """A coupon cannot be spent on this order; held goods stay held."""

    coupon_id: str | None = refusal_field("The coupon that is meant.")


@refusal("COUPONS_LOST")
class CouponsLost(Refusal):
    """The coupons are no longer locked for the order: it is cancelled and nothing is charged."""


@refusal("PAYMENT_DECLINED")
class PaymentDeclined(Refusal):
    """The payment was declined; the order waits for another, made with a new key."""


@refusal("NO_CONSENT")
class ConsentMissing(Refusal):
    """The consumer did not allow this to the brand."""


@refusal("FREQUENCY_CAP")
class FrequencyCapReached(Refusal):
    """The brand wrote to this consumer as often as it may."""

    free_at: DateTime | None = refusal_field("When it may again.")


@refusal("QUIET_HOURS")
class QuietHours(Refusal):
    """Nobody is written to at night."""

    free_at: DateTime | None = refusal_field("When the night is over.")


@refusal("NOT_BOUND", "BOUND_ELSEWHERE")
class NotBoundToYou(Refusal):
    """The consumer is not bound to this guide."""


@refusal("OUTSIDE_DISTRICT")
class OutsideDistrict(Refusal):
    """The position lies outside the district."""


@refusal("VISIT_OVER")
class VisitOver(Refusal):
    """The visit has ended, or it is of an earlier day."""


@refusal("NOTHING_TO_GIVE")
class NothingToGive(Refusal):
    """Every brand of the running campaigns had to be declined."""

    consent_missing: Long | None = refusal_field("To how many of them the consumer gave no consent.")
    budget_spent: Long | None = refusal_field("How many of them have given all they had.")


@refusal("TASK_CLOSED")
class TaskClosed(Refusal):
    """The task is done or no longer asked for."""
