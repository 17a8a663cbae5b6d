"""What payment providers tell of their own accord."""

import msgspec
from msgspec import Struct

from services.commerce.catalog.rules import Price
from services.commerce.orders.enums import PaymentMethod, Reason
from services.commerce.orders.model import Order, OrderId
from services.kit.errors import Conflict, Invalid

APPROVED = "payment.approved"
SANDBOX = "sandbox"
"""The sender that takes no money."""


class Notice(Struct, frozen=True):
    """A notice of any type."""

    type: str


class Paid(Struct, frozen=True):
    """The data of a notice that a payment was approved."""

    order_id: OrderId
    amount: Price


class Approved(Struct, frozen=True):
    """The notice itself."""

    data: Paid


def paid(body: bytes) -> Paid | None:
    """What was paid, by a notice of that type; None for one of another type."""
    try:
        if msgspec.json.decode(body, type=Notice).type != APPROVED:
            return None
        return msgspec.json.decode(body, type=Approved).data
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(Reason.NOTICE_INVALID, f"the notice is not as its sender's are: {error}", field="body") from None


def method_of(sender: str) -> PaymentMethod:
    """How an order is paid that this sender tells of."""
    return PaymentMethod.SANDBOX if sender == SANDBOX else PaymentMethod.PROVIDER


def check_amount(paid: Paid, order: Order) -> None:
    """Refuses a payment of anything but the order's total."""
    if paid.amount != order.total:
        raise Conflict(Reason.AMOUNT_DIFFERS, "what was paid is not what the order comes to", order_id=order.id)
