"""Refusal types of the graph: one for each refusal family, and one for each reason whose fields a front end uses.

This is the only table of reasons to types. A reason that it does not name has the type of its family.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.schema.refusal_types import Refusal, refusal_field, refusal_type
from services.kit import errors

if TYPE_CHECKING:
    from gateway.schema.scalars import DateTime, Long


@refusal_type(families=(errors.Invalid,))
class InvalidInput(Refusal):
    """A value of the input is invalid. The same input fails again."""

    field: str | None = refusal_field("The path of the invalid value in the input, such as `product.variants.0.price.amount`.")


@refusal_type(families=(errors.NotFound,))
class NotFound(Refusal):
    """The object does not exist, or you may not see it."""


@refusal_type(families=(errors.Denied,))
class NotPermitted(Refusal):
    """Your roles do not permit this mutation on this object."""


@refusal_type(families=(errors.Conflict,))
class Conflict(Refusal):
    """The current state does not allow this mutation. `code` is the reason."""


@refusal_type(families=(errors.Exhausted,))
class Exhausted(Refusal):
    """A budget, a stock or a quota is used up."""


@refusal_type(families=(errors.Unavailable, errors.Overloaded))
class TryAgain(Refusal):
    """A service is unavailable or overloaded. Retry the mutation with the same idempotencyKey."""


@refusal_type("OUT_OF_STOCK")
class OutOfStock(Refusal):
    """The store has fewer items available than requested."""

    fewer: bool | None = refusal_field("True if a smaller quantity is available.")
    held_until: DateTime | None = refusal_field(
        "When the first hold of other consumers on these goods ends, unless they buy them. Null if there is no such hold."
    )


@refusal_type("TOO_MANY_HOLDS")
class TooManyHolds(Refusal):
    """The consumer has the maximum number of holds and unpaid orders. Pay for one, release or cancel one, or wait."""

    limit: Long | None = refusal_field("The maximum number of holds and unpaid orders at a time.")
    free_at: DateTime | None = refusal_field("When the first of them ends. Null if you may not see it.")


@refusal_type("STORE_CLOSED")
class StoreClosed(Refusal):
    """The store is closed, or it closes before the goods can be handed over."""

    opens_at: DateTime | None = refusal_field("When the store opens next.")


@refusal_type("TOO_LATE")
class TooLate(Refusal):
    """The goods cannot arrive by `neededBy`."""

    arrives_at: DateTime | None = refusal_field("When they could arrive.")


@refusal_type("HOLD_ENDED", "HOLD_ORDERED")
class HoldGone(Refusal):
    """The hold has ended, or an order already uses it."""

    order_id: str | None = refusal_field("The id of the order that uses it.")


@refusal_type(
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
    """A coupon cannot be used for this order. Held goods remain held."""

    coupon_id: str | None = refusal_field("The id of the refused coupon.")


@refusal_type("COUPONS_LOST")
class CouponsLost(Refusal):
    """The coupons are no longer locked for the order. The order is cancelled and nothing is charged."""


@refusal_type("PAYMENT_DECLINED")
class PaymentDeclined(Refusal):
    """The payment was declined. Pay again with a new idempotencyKey."""


@refusal_type("NO_CONSENT")
class ConsentMissing(Refusal):
    """The consumer has not given the brand consent for this purpose."""


@refusal_type("FREQUENCY_CAP")
class FrequencyCapReached(Refusal):
    """The brand has sent this consumer the maximum number of messages."""

    free_at: DateTime | None = refusal_field("When the brand may send the next message.")


@refusal_type("QUIET_HOURS")
class QuietHours(Refusal):
    """Messages are not sent at night."""

    free_at: DateTime | None = refusal_field("When messages may be sent again.")


@refusal_type("NOT_BOUND", "BOUND_ELSEWHERE")
class NotBoundToYou(Refusal):
    """The consumer is not bound to this guide."""


@refusal_type("OUTSIDE_DISTRICT")
class OutsideDistrict(Refusal):
    """The position is outside the district."""


@refusal_type("VISIT_OVER")
class VisitOver(Refusal):
    """The visit has ended, or it began on an earlier day."""


@refusal_type("NOTHING_TO_GIVE")
class NothingToGive(Refusal):
    """No brand of the running campaigns can give a coupon."""

    consent_missing: Long | None = refusal_field("The number of brands without the consumer's consent.")
    budget_spent: Long | None = refusal_field("The number of brands whose budget is used up.")


@refusal_type("TASK_CLOSED")
class TaskClosed(Refusal):
    """The task is already done or withdrawn."""
