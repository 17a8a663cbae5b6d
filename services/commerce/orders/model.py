"""The model of orders: lines, coupons, payments, the order itself, and its events."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from services.commerce.catalog.rules import Price
from services.commerce.orders.enums import CancelReason, OrderState, PaymentMethod
from services.commerce.orders.scenario import ScenarioBasis
from services.commerce.stock.enums import Method
from services.commerce.stock.rules import ConsumerId, Point, Quantity, StoreId
from services.kit import ids
from services.kit.enums import Scenario, Touchpoint
from services.kit.values.event import Event

LINES_MAX = 50
"""An order has at most this many lines."""
COUPONS_MAX = 10
"""An order names at most this many coupons."""

OrderId = Annotated[str, Meta(pattern=ids.pattern("ord", length_max=60))]


class Line(Struct, frozen=True, omit_defaults=True):
    """A line of an order: `paid` = `amount` - `discount`."""

    variant_id: str
    brand_id: str
    quantity: Annotated[int, Meta(ge=1, le=1_000_000)]
    amount: Price
    discount: Price
    paid: Price
    price: Price | None = None
    offer_id: str = ""
    hold_id: str = ""


class AppliedCoupon(Struct, frozen=True):
    """A coupon spent on an order."""

    coupon_id: str
    brand_id: str
    discount: Price


class Payment(Struct, frozen=True):
    """An approved payment."""

    id: str
    method: PaymentMethod
    amount: Price
    approved_at: datetime


class NewLine(Struct, frozen=True):
    """Goods to order that are not held yet."""

    variant_id: str
    quantity: Quantity


class Destination(Struct, frozen=True):
    """The destination of a delivery."""

    address: Annotated[str, Meta(max_length=300)] = ""
    recipient: Annotated[str, Meta(max_length=100)] = ""
    phone: Annotated[str, Meta(max_length=32)] = ""
    position: Point | None = None


class NewOrder(Struct, frozen=True):
    """The fields of a PlaceOrderRequest."""

    consumer_id: ConsumerId
    hold_ids: Annotated[tuple[str, ...], Meta(max_length=LINES_MAX)] = ()
    store_id: str = ""
    lines: Annotated[tuple[NewLine, ...], Meta(max_length=LINES_MAX)] = ()
    coupon_ids: Annotated[tuple[str, ...], Meta(max_length=COUPONS_MAX)] = ()
    touchpoint: Touchpoint = Touchpoint.UNSPECIFIED
    method: Method | None = None
    needed_by: datetime | None = None
    destination: Destination | None = None
    scenario_hint: Scenario = Scenario.UNSPECIFIED


class PaymentRequest(Struct, frozen=True):
    """The fields of a PayOrderRequest."""

    order_id: str
    method: PaymentMethod
    sandbox_token: str = ""


class CouponRefusal(Struct, frozen=True):
    """The wallet's refusal of an order's coupons, stored so that a repeat of the request gets it again."""

    code: str
    reason: str
    message: str
    metadata: dict[str, str] = {}


class Order(Struct, frozen=True):
    """An order. Fields that its message lacks:

    - `brand_ids`: the brands of its lines.
    - `rollback`: true while its coupons must still be rolled back.
    - `refused`: the wallet's refusal of its coupons.
    - `of_holds`: true if its goods were held before it was placed.
    - `sweep_at`: the time, by the machine's clock, at which the sweeper cancels or finishes it.
    """

    id: OrderId
    consumer_id: ConsumerId
    store_id: StoreId
    seller_id: str
    brand_ids: list[str]
    state: OrderState
    touchpoint: Touchpoint
    scenario: Scenario
    placed_at: datetime
    amount: Price
    discount: Price
    total: Price
    lines: tuple[Line, ...] = ()
    scenario_basis: ScenarioBasis | None = None
    method: Method | None = None
    needed_by: datetime | None = None
    arrives_at: datetime | None = None
    pay_by: datetime | None = None
    paid_at: datetime | None = None
    cancelled_at: datetime | None = None
    cancel_reason: CancelReason | None = None
    coupon_ids: list[str] = []
    coupons: tuple[AppliedCoupon, ...] = ()
    payment: Payment | None = None
    destination: bytes | None = None
    refused: CouponRefusal | None = None
    rollback: bool = False
    of_holds: bool = False
    sweep_at: datetime | None = None
    batch_id: str = ""
    version: int = 1


class SummaryLine(Struct, frozen=True):
    """A line in an event."""

    brand_id: str
    variant_id: str
    quantity: int
    paid: Price


class OrderSummary(Struct, frozen=True):
    """An order in an event."""

    order_id: str
    consumer_id: str
    store_id: str
    seller_id: str
    touchpoint: Touchpoint
    scenario: Scenario
    paid_at: datetime
    lines: tuple[SummaryLine, ...]
    coupon_ids: tuple[str, ...] = ()


class OrderPaid(Event, frozen=True):
    """An order was paid."""

    kind = "order_paid"
    order_id: str
    order: OrderSummary
