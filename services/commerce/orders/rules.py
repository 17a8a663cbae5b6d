"""How an order goes from being placed to being paid or cancelled."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from msgspec.structs import replace

from services.commerce.catalog.rules import Price, Variant
from services.commerce.discovery.rules import check_delivered
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
    PaymentAsked,
    SummaryLine,
)  # fmt: skip
from services.commerce.orders.scenario import Basis
from services.commerce.stock.enums import Method
from services.commerce.stock.rules import Hold, Point, Store
from services.kit.enums import Scenario, Touchpoint
from services.kit.errors import Conflict, Invalid, under
from services.kit.values.money import allocate
from services.kit.values.phones import e164

PAY_WITHIN = timedelta(minutes=30)
FINISH_WITHIN = timedelta(seconds=30)
"""An approved payment that has not become a paid order by then is finished by the sweeper."""
SANDBOX_APPROVES = "approve"


# placing -------------------------------------------------------------------------------------------------------------


def check_asked(asked: NewOrder) -> NewOrder:
    """Refuses an order of nothing, of goods held and not held, of goods of no store, to nowhere, or with a phone that cannot exist."""
    if bool(asked.hold_ids) == bool(asked.lines):
        raise Invalid(Reason.LINES_MISSING, "name the holds, or the lines, that it is made of", field="hold_ids")
    if asked.lines and not asked.store_id:
        raise Invalid(Reason.INVALID_FIELD, "name the store that serves the lines", field="store_id")
    if asked.destination and not asked.destination.address.strip():
        raise Invalid(Reason.DESTINATION_MISSING, "say where it is to be delivered", field="destination.address")
    if asked.destination and asked.destination.phone:
        with under("destination.phone"):
            e164(asked.destination.phone)
    return asked


def check_store(holds: Sequence[Hold], store_id: str) -> None:
    """Refuses holds of another store than the one that was named, if one was."""
    if store_id and any(hold.store_id != store_id for hold in holds):
        raise Invalid(Reason.STORES_MIXED, "the goods are held in another store than the one named", store_ids=store_id)


def pay_by(order: Order) -> datetime:
    """When the order must be paid."""
    return order.pay_by or order.placed_at


def lines_of(holds: Sequence[Hold], variants: Mapping[str, Variant]) -> tuple[Line, ...]:
    """A line for each hold, at the price it was promised at, else at today's."""
    if not 0 < len(holds) <= LINES_MAX:
        raise Invalid(Reason.LINES_MISSING, f"an order has 1 to {LINES_MAX} lines", field="hold_ids")
    stores = sorted({hold.store_id for hold in holds})
    if len(stores) > 1:
        raise Invalid(Reason.STORES_MIXED, "one order is served by one store; place one for each", store_ids=",".join(stores))
    lines = tuple(_line(hold, variants[hold.variant_id]) for hold in holds)
    if len({line.amount.currency for line in lines}) > 1:
        raise Invalid(Reason.CURRENCY_MIXED, "one order is in one currency; place one for each")
    return lines


def place(
    holds: Sequence[Hold],
    variants: Mapping[str, Variant],
    *,
    id: str,
    at: datetime,
    real_at: datetime,
    scenario: Scenario,
    basis: Basis,
    touchpoint: Touchpoint = Touchpoint.UNSPECIFIED,
    method: Method | None = None,
    needed_by: datetime | None = None,
    coupon_ids: Sequence[str] = (),
    destination: bytes | None = None,
    store: Store | None = None,
    position: Point | None = None,
    of_holds: bool = False,
) -> Order:
    """The order of these holds: it waits for its coupons, else for its payment. `at` is the caller's time, `real_at` the machine's.

    A delivery is refused without a `destination`, and where the `store` does not bring it to its `position`, if these are given.
    """
    lines = lines_of(holds, variants)
    promises = [hold.promise for hold in holds if hold.promise]
    how = method or (promises[0].method if promises else Method.PICKUP)
    if how is Method.INSTANT_DELIVERY:
        if destination is None:
            raise Invalid(Reason.DESTINATION_MISSING, "say where it is to be delivered", field="destination")
        if store is not None:
            promised = all(hold.promise is not None and hold.promise.method is how for hold in holds)
            check_delivered(store, position, promised=promised)
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
        method=how,
        needed_by=needed_by or min((hold.needed_by for hold in holds if hold.needed_by), default=None),
        arrives_at=max((promise.arrives_at for promise in promises), default=None),
        coupon_ids=list(coupon_ids),
        destination=destination,
        of_holds=of_holds,
        amount=NOTHING,
        discount=NOTHING,
        total=NOTHING,
    )
    return with_lines(order, lines)


NOTHING = Price("XXX")
"""No money in no currency; replaced by `with_lines`."""


def with_lines(order: Order, lines: tuple[Line, ...]) -> Order:
    """The order with these lines and their sums."""
    currency = lines[0].amount.currency
    amount, discount = (sum(getattr(line, name).minor for line in lines) for name in ("amount", "discount"))
    return replace(
        order, lines=lines, amount=Price(currency, amount), discount=Price(currency, discount), total=Price(currency, amount - discount)
    )


def apply_coupons(order: Order, coupons: Sequence[AppliedCoupon]) -> Order:
    """The order with what its coupons take off, shared out to the lines of each coupon's brand; it waits for payment from now on."""
    if order.state is not OrderState.PLACING:
        return order
    lines = list(order.lines)
    for coupon in coupons:
        places = [place for place, line in enumerate(lines) if line.brand_id == coupon.brand_id]
        shares = allocate(coupon.discount.minor, [lines[place].paid.minor for place in places])
        for place, share in zip(places, shares, strict=True):
            lines[place] = _cheaper(lines[place], share)
    return with_lines(replace(order, state=OrderState.PLACED, coupons=tuple(coupons)), tuple(lines))


# paying and cancelling -----------------------------------------------------------------------------------------------

INSTEAD = {
    PaymentMethod.SANDBOX: "the sandbox takes no money and is off here; pay through a payment provider, or, where this is no more than a "
    "demonstration, set QUANYU_SANDBOX_PAYMENTS=on",
    PaymentMethod.PROVIDER: "a payment provider tells of its payments itself, by a signed notice; wait for it",
}
"""What to do about a method that is not taken."""


def check_method(method: PaymentMethod, taken: Collection[PaymentMethod]) -> None:
    """Refuses to be paid by a method that is not among those taken."""
    if method not in taken:
        raise Invalid(Reason.PAYMENT_METHOD_REFUSED, INSTEAD[method], field="method")


def approve(order: Order, *, payment_id: str, asked: PaymentAsked, at: datetime, real_at: datetime) -> tuple[Order, list[OrderPaid]]:
    """The order once its payment is approved; one that is paid or being paid stays as it is. `Conflict` when it cannot be paid."""
    if order.state in (OrderState.PAYING, OrderState.PAID):
        return order, []
    if order.state is OrderState.CANCELLED or (order.pay_by is not None and order.pay_by <= at):
        raise cancelled(order)
    if order.state is OrderState.PLACING:
        raise Conflict(
            Reason.ORDER_NOT_PLACED, "the order still waits for its coupons; place it again with the same request_id", order_id=order.id
        )
    if asked.method is PaymentMethod.SANDBOX and asked.sandbox_token != SANDBOX_APPROVES:
        raise Conflict(Reason.PAYMENT_DECLINED, "the payment was declined; pay again, with a new key", order_id=order.id)
    payment = Payment(payment_id, asked.method, order.total, at)
    return replace(order, state=OrderState.PAYING, payment=payment, sweep_at=real_at + FINISH_WITHIN), []


def settle(order: Order) -> tuple[Order, list[OrderPaid]]:
    """The order once its coupons are spent, paid when its payment was approved; `Conflict` unless one was."""
    if order.state is OrderState.PAID:
        return order, []
    if order.state is not OrderState.PAYING or order.payment is None:
        raise cancelled(order)
    paid = replace(order, state=OrderState.PAID, paid_at=order.payment.approved_at, sweep_at=None)
    return paid, [OrderPaid(order.id, summary(paid))]


def cancel(order: Order, reason: CancelReason, at: datetime) -> Order:
    """The order without effect. Cancelling twice changes nothing; what is paid, or being paid, is refused unless its coupons are lost."""
    if order.state is OrderState.CANCELLED:
        return order
    if order.state is OrderState.PAID or (order.state is OrderState.PAYING and reason is not CancelReason.COUPONS_LOST):
        raise Conflict(Reason.ORDER_PAID, "the order is paid or being paid; have it returned instead", order_id=order.id)
    return replace(
        order,
        state=OrderState.CANCELLED,
        cancelled_at=at,
        cancel_reason=reason,
        payment=None,
        rollback=bool(order.coupon_ids),
        sweep_at=None,
    )


def overdue(order: Order, real_at: datetime) -> bool:
    """Whether it waited for its payment too long."""
    return order.state in (OrderState.PLACING, OrderState.PLACED) and order.sweep_at is not None and order.sweep_at <= real_at


def summary(order: Order) -> OrderSummary:
    """The order as the events carry it."""
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


def cancelled(order: Order) -> Conflict:
    """The refusal of whoever wants to pay a cancelled order."""
    if order.cancel_reason is CancelReason.COUPONS_LOST:
        return Conflict(Reason.COUPONS_LOST, "its coupons were no longer locked; nothing was charged, place it again", order_id=order.id)
    reason = order.cancel_reason or CancelReason.NOT_PAID
    return Conflict(Reason.ORDER_CANCELLED, "the order is cancelled; place it again", order_id=order.id, cancel_reason=reason)


def _line(hold: Hold, variant: Variant) -> Line:
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


def _cheaper(line: Line, by: int) -> Line:
    currency = line.amount.currency
    return replace(line, discount=Price(currency, line.discount.minor + by), paid=Price(currency, line.paid.minor - by))
