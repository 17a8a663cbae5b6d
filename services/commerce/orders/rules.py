"""Rules of orders: how an order is placed, paid and cancelled."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from msgspec.structs import replace

from services.commerce.catalog.rules import Price, Variant
from services.commerce.discovery.rules import check_delivery
from services.commerce.orders.enums import CancelReason, OrderState, PaymentMethod, Reason
from services.commerce.orders.model import (
    LINES_MAX,
    AppliedCoupon,
    Line,
    NewOrder,
    Order,
    OrderPaid,
    OrderSummary,
    Payment,
    PaymentRequest,
    SummaryLine,
)  # fmt: skip
from services.commerce.orders.scenario import ScenarioBasis
from services.commerce.stock.enums import Method
from services.commerce.stock.rules import Hold, Point, Store
from services.kit.enums import Scenario, Touchpoint
from services.kit.errors import Conflict, Invalid, field_prefix
from services.kit.values.money import allocate
from services.kit.values.phones import to_e164

PAY_WITHIN = timedelta(minutes=30)
"""An order that is not paid within this time is cancelled."""
FINISH_WITHIN = timedelta(seconds=30)
"""The sweeper finishes an order that is not paid this long after its payment was approved."""
SANDBOX_APPROVAL_TOKEN = "approve"
"""The sandbox approves a payment with this token and declines any other."""
NO_MONEY = Price("XXX")
"""The sums of an order before `set_lines` calculates them. XXX is the ISO 4217 code of no currency."""


# placing -------------------------------------------------------------------------------------------------------------


def check_new_order(new: NewOrder) -> NewOrder:
    """Returns the order to be placed. `Invalid` if its fields do not fit together or its phone number is not valid."""
    if bool(new.hold_ids) == bool(new.lines):
        raise Invalid(Reason.LINES_MISSING, "An order needs either `holdIds` or `lines`. Set one of them.", field="hold_ids")
    if new.lines and not new.store_id:
        raise Invalid(Reason.INVALID_FIELD, "An order with `lines` needs `storeId`. Set it.", field="store_id")
    if new.destination and not new.destination.address.strip():
        raise Invalid(Reason.DESTINATION_MISSING, "The destination has no address. Set `destination.address`.", field="destination.address")
    if new.destination and new.destination.phone:
        with field_prefix("destination.phone"):
            to_e164(new.destination.phone)
    return new


def check_store(holds: Sequence[Hold], store_id: str) -> None:
    """Raises `Invalid` if a store is named and a hold is in another store."""
    if store_id and any(hold.store_id != store_id for hold in holds):
        message = "The goods are held in another store. Correct `storeId`, or leave it out."
        raise Invalid(Reason.STORES_MIXED, message, store_ids=store_id)


def pay_by(order: Order) -> datetime:
    """Returns the time by which the order must be paid."""
    return order.pay_by or order.placed_at


def build_lines(holds: Sequence[Hold], variants: Mapping[str, Variant]) -> tuple[Line, ...]:
    """Returns a line for each hold, at the promised price or else at the current one. `Invalid` if the holds do not form one order."""
    if not 0 < len(holds) <= LINES_MAX:
        raise Invalid(Reason.LINES_MISSING, f"An order must have 1 to {LINES_MAX} lines.", field="hold_ids")
    stores = sorted({hold.store_id for hold in holds})
    if len(stores) > 1:
        message = "The goods are held in several stores. Place one order for each store."
        raise Invalid(Reason.STORES_MIXED, message, store_ids=",".join(stores))
    lines = tuple(_build_line(hold, variants[hold.variant_id]) for hold in holds)
    if len({line.amount.currency for line in lines}) > 1:
        raise Invalid(Reason.CURRENCY_MIXED, "The goods have prices in several currencies. Place one order for each currency.")
    return lines


def place(
    holds: Sequence[Hold],
    variants: Mapping[str, Variant],
    *,
    id: str,
    at: datetime,
    real_at: datetime,
    scenario: Scenario,
    basis: ScenarioBasis,
    touchpoint: Touchpoint = Touchpoint.UNSPECIFIED,
    method: Method | None = None,
    needed_by: datetime | None = None,
    coupon_ids: Sequence[str] = (),
    destination: bytes | None = None,
    store: Store | None = None,
    position: Point | None = None,
    of_holds: bool = False,
) -> Order:
    """Returns the order of these holds. It waits for its coupons if it has any, otherwise for its payment.

    `at` is the caller's time, `real_at` the machine's. `Invalid` for a delivery without a `destination`. `Conflict` if `store` does not
    deliver to `position`; both are optional.
    """
    lines = build_lines(holds, variants)
    promises = [hold.promise for hold in holds if hold.promise]
    chosen_method = method or (promises[0].method if promises else Method.PICKUP)
    if chosen_method is Method.INSTANT_DELIVERY:
        if destination is None:
            raise Invalid(Reason.DESTINATION_MISSING, "A delivery needs a destination. Set `destination`.", field="destination")
        if store is not None:
            promised = all(hold.promise is not None and hold.promise.method is chosen_method for hold in holds)
            check_delivery(store, position, promised=promised)
    order = Order(
        id=id,
        consumer_id=holds[0].consumer_id,
        store_id=holds[0].store_id,
        seller_id=holds[0].seller_id,
        brand_ids=sorted({line.brand_id for line in lines}),
        state=OrderState.PLACING if coupon_ids else OrderState.PLACED,
        touchpoint=touchpoint,
        scenario=scenario,
        scenario_basis=basis,
        placed_at=at,
        pay_by=at + PAY_WITHIN,
        sweep_at=real_at + PAY_WITHIN,
        method=chosen_method,
        needed_by=needed_by or min((hold.needed_by for hold in holds if hold.needed_by), default=None),
        arrives_at=max((promise.arrives_at for promise in promises), default=None),
        coupon_ids=list(coupon_ids),
        destination=destination,
        of_holds=of_holds,
        amount=NO_MONEY,
        discount=NO_MONEY,
        total=NO_MONEY,
    )
    return set_lines(order, lines)


def set_lines(order: Order, lines: tuple[Line, ...]) -> Order:
    """Returns the order with these lines and their sums."""
    currency = lines[0].amount.currency
    amount, discount = (sum(getattr(line, name).minor for line in lines) for name in ("amount", "discount"))
    return replace(
        order, lines=lines, amount=Price(currency, amount), discount=Price(currency, discount), total=Price(currency, amount - discount)
    )


def apply_coupons(order: Order, coupons: Sequence[AppliedCoupon]) -> Order:
    """Returns the order with the discount of each coupon allocated to the lines of its brand. The order then waits for its payment."""
    if order.state is not OrderState.PLACING:
        return order
    lines = list(order.lines)
    for coupon in coupons:
        indexes = [index for index, line in enumerate(lines) if line.brand_id == coupon.brand_id]
        shares = allocate(coupon.discount.minor, [lines[index].paid.minor for index in indexes])
        for index, share in zip(indexes, shares, strict=True):
            lines[index] = _discount_line(lines[index], share)
    return set_lines(replace(order, state=OrderState.PLACED, coupons=tuple(coupons)), tuple(lines))


# paying and cancelling -----------------------------------------------------------------------------------------------

METHOD_REFUSALS = {
    PaymentMethod.SANDBOX: "Sandbox payments are off because they take no money. Pay through a payment provider. For a demonstration, set "
    "QUANYU_SANDBOX_PAYMENTS=on.",
    PaymentMethod.PROVIDER: "Only the payment provider reports its payments, by a signed notice. Wait for that notice.",
}
"""The refusal message for each payment method that is not accepted."""


def check_method(method: PaymentMethod, accepted: Collection[PaymentMethod]) -> None:
    """Raises `Invalid` if the payment method is not accepted."""
    if method not in accepted:
        raise Invalid(Reason.PAYMENT_METHOD_REFUSED, METHOD_REFUSALS[method], field="method")


def approve(order: Order, *, payment_id: str, request: PaymentRequest, at: datetime, real_at: datetime) -> tuple[Order, list[OrderPaid]]:
    """Returns the order with its payment approved. A paid order, or one being paid, does not change. `Conflict` if it cannot be paid."""
    if order.state in (OrderState.PAYING, OrderState.PAID):
        return order, []
    if order.state is OrderState.CANCELLED or (order.pay_by is not None and order.pay_by <= at):
        raise cancelled_refusal(order)
    if order.state is OrderState.PLACING:
        message = "The order still waits for its coupons. Place it again with the same `idempotencyKey`."
        raise Conflict(Reason.ORDER_NOT_PLACED, message, order_id=order.id)
    if request.method is PaymentMethod.SANDBOX and request.sandbox_token != SANDBOX_APPROVAL_TOKEN:
        raise Conflict(Reason.PAYMENT_DECLINED, "The payment was declined. Pay again with a new `idempotencyKey`.", order_id=order.id)
    payment = Payment(payment_id, request.method, order.total, at)
    return replace(order, state=OrderState.PAYING, payment=payment, sweep_at=real_at + FINISH_WITHIN), []


def settle(order: Order) -> tuple[Order, list[OrderPaid]]:
    """Returns the order as paid at the time of its approved payment, and the event. `Conflict` if no payment was approved."""
    if order.state is OrderState.PAID:
        return order, []
    if order.state is not OrderState.PAYING or order.payment is None:
        raise cancelled_refusal(order)
    paid = replace(order, state=OrderState.PAID, paid_at=order.payment.approved_at, sweep_at=None)
    return paid, [OrderPaid(order.id, summarize(paid))]


def cancel(order: Order, reason: CancelReason, at: datetime) -> Order:
    """Returns the cancelled order. A cancelled order does not change.

    `Conflict` if the order is paid, or is being paid and its coupons are not lost.
    """
    if order.state is OrderState.CANCELLED:
        return order
    if order.state is OrderState.PAID or (order.state is OrderState.PAYING and reason is not CancelReason.COUPONS_LOST):
        raise Conflict(Reason.ORDER_PAID, "The order is paid or being paid. Return the goods instead.", order_id=order.id)
    return replace(
        order,
        state=OrderState.CANCELLED,
        cancelled_at=at,
        cancel_reason=reason,
        payment=None,
        rollback=bool(order.coupon_ids),
        sweep_at=None,
    )


def is_overdue(order: Order, real_at: datetime) -> bool:
    """True if the order was not paid in time, by the machine's clock."""
    return order.state in (OrderState.PLACING, OrderState.PLACED) and order.sweep_at is not None and order.sweep_at <= real_at


def summarize(order: Order) -> OrderSummary:
    """Returns the form of a paid order in events."""
    assert order.paid_at is not None
    return OrderSummary(
        order_id=order.id,
        consumer_id=order.consumer_id,
        store_id=order.store_id,
        seller_id=order.seller_id,
        touchpoint=order.touchpoint,
        scenario=order.scenario,
        paid_at=order.paid_at,
        lines=tuple(SummaryLine(line.brand_id, line.variant_id, line.quantity, line.paid) for line in order.lines),
        coupon_ids=tuple(coupon.coupon_id for coupon in order.coupons),
    )


def cancelled_refusal(order: Order) -> Conflict:
    """Returns the refusal to pay a cancelled order."""
    if order.cancel_reason is CancelReason.COUPONS_LOST:
        message = "The order's coupons were no longer locked, and nothing was charged. Place the order again."
        return Conflict(Reason.COUPONS_LOST, message, order_id=order.id)
    reason = order.cancel_reason or CancelReason.NOT_PAID
    return Conflict(Reason.ORDER_CANCELLED, "The order is cancelled. Place it again.", order_id=order.id, cancel_reason=reason)


def _build_line(hold: Hold, variant: Variant) -> Line:
    price = hold.promise.price if hold.promise else variant.price
    amount = Price(price.currency, price.minor * hold.quantity)
    return Line(
        variant_id=hold.variant_id,
        offer_id=variant.offer_id,
        brand_id=hold.brand_id,
        hold_id=hold.id,
        quantity=hold.quantity,
        price=price,
        amount=amount,
        discount=Price(price.currency),
        paid=amount,
    )


def _discount_line(line: Line, minor: int) -> Line:
    currency = line.amount.currency
    return replace(line, discount=Price(currency, line.discount.minor + minor), paid=Price(currency, line.paid.minor - minor))
