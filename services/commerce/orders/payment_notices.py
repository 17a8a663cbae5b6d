"""Payment notices: the signed webhooks by which payment providers report payments."""

import msgspec
from msgspec import Struct

from services.commerce.catalog.rules import Price
from services.commerce.orders.enums import PaymentMethod, Reason
from services.commerce.orders.model import Order, OrderId
from services.kit.errors import Conflict, Invalid

PAYMENT_APPROVED = "payment.approved"
"""The type of the notices that change an order."""
SANDBOX_SENDER = "sandbox"
"""The sender of notices about payments that take no money."""


class Notice(Struct, frozen=True):
    """A notice of any type."""

    type: str


class ApprovedPayment(Struct, frozen=True):
    """The data of a notice that a payment was approved."""

    order_id: OrderId
    amount: Price


class PaymentApprovedNotice(Struct, frozen=True):
    """A notice that a payment was approved."""

    data: ApprovedPayment


def parse_payment(body: bytes) -> ApprovedPayment | None:
    """Returns the payment of a notice, or None if the notice has another type. `Invalid` if the body is malformed."""
    try:
        if msgspec.json.decode(body, type=Notice).type != PAYMENT_APPROVED:
            return None
        return msgspec.json.decode(body, type=PaymentApprovedNotice).data
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"The body is not a notice of a known form. Send the documented JSON. Cause: {error}."
        raise Invalid(Reason.NOTICE_INVALID, message, field="body") from None


def payment_method(sender: str) -> PaymentMethod:
    """Returns the payment method of the payments that this sender reports."""
    return PaymentMethod.SANDBOX if sender == SANDBOX_SENDER else PaymentMethod.PROVIDER


def check_amount(payment: ApprovedPayment, order: Order) -> None:
    """Raises `Conflict` if the payment differs from the order's total."""
    if payment.amount != order.total:
        message = "The paid amount differs from the order's total. Refund it, and pay the exact total."
        raise Conflict(Reason.AMOUNT_DIFFERS, message, order_id=order.id)
