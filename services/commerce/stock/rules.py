"""Rules of stock and of the holds on it: how a hold begins, is ordered and ends.

`reserved` always equals the sum of the live holds' quantities and never exceeds the pieces on hand.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import replace

from services.commerce.catalog.rules import Attributes, Price, Text
from services.commerce.stock.enums import Availability, HoldState, Method, Reason
from services.kit import ids
from services.kit.errors import Conflict, Exhausted, Invalid

HOLD_LIFE = timedelta(minutes=15)
"""A hold that is not ordered ends after this time."""
COUNT_MAX = 1_000_000_000
"""A store counts at most this many pieces of a variant."""
QUANTITY_MAX = 100
"""A hold has at most this many pieces."""
NEEDED_BY_TOLERANCE = timedelta(minutes=5)
"""A `needed_by` may lie this far in the past: a request takes time, and clocks differ."""
NEEDED_WITHIN = timedelta(days=30)
"""A `needed_by` may lie this far in the future: a store promises goods that it has now."""
HOLDS_MAX = 10
"""A holder has at most this many live holds. An unpaid order of goods that were not held before counts as one."""
IMPORT_MAX = 500
"""An import has at most this many rows."""

Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
Quantity = Annotated[int, Meta(ge=1, le=QUANTITY_MAX)]
StoreId = Annotated[str, Meta(pattern=ids.pattern("str"))]
ConsumerId = Annotated[str, Meta(pattern=ids.pattern("con", length_max=96, extra="."))]
Minute = Annotated[int, Meta(ge=0, le=1440)]

LIVE = (HoldState.HELD, HoldState.ORDERED)
"""The goods of a hold in one of these states are reserved."""


class Point(Struct, frozen=True):
    """A place on earth, WGS 84. The fields have the order of MongoDB's coordinate pairs."""

    longitude: Annotated[float, Meta(ge=-180, le=180)] = 0.0
    latitude: Annotated[float, Meta(ge=-90, le=90)] = 0.0


class Store(Struct, frozen=True):
    """A store as the events StoreChanged describe it."""

    id: StoreId
    brand_id: str
    name: str = ""
    position: Point | None = None
    zone: str = "Asia/Shanghai"
    opens_minute: Minute = 0
    closes_minute: Minute = 0
    delivers: bool = False
    active: bool = True
    version: int = 1


class Stock(Struct, frozen=True):
    """The stock of a variant in a store."""

    id: str
    store_id: StoreId
    variant_id: str
    brand_id: str
    seller_id: str
    on_hand: Count = 0
    reserved: Count = 0
    safety: Count = 0
    version: int = 1


class Promise(Struct, frozen=True):
    """A promise: which goods reach the consumer, from which store, by when."""

    variant_id: str
    offer_id: str
    brand_id: str
    store_id: str
    store_name: str
    method: Method
    distance_metres: int
    ready_at: datetime
    arrives_at: datetime
    price: Price
    availability: Availability
    name: Text
    attributes: Attributes = {}
    store_position: Point | None = None
    open_until: datetime | None = None


class Hold(Struct, frozen=True):
    """Goods reserved for a consumer.

    `sweep_at` is `expires_at` by the machine's clock, from which the caller's clock may differ. `counted` is true if the hold counts
    against its holder's quota. `staff_brand_id` is the brand whose staff made the hold, if staff made it.
    """

    id: str
    stock_id: str
    store_id: StoreId
    seller_id: str
    variant_id: str
    brand_id: str
    consumer_id: ConsumerId
    quantity: Quantity
    held_at: datetime
    expires_at: datetime
    sweep_at: datetime
    state: HoldState = HoldState.HELD
    needed_by: datetime | None = None
    order_id: str = ""
    promise: Promise | None = None
    counted: bool = True
    staff_brand_id: str | None = None
    version: int = 1


class StockLevel(Struct, frozen=True):
    """A counted level: the pieces on hand, and the safety stock among them that is never promised."""

    on_hand: Count = 0
    safety: Count = 0


class HoldRequest(Struct, frozen=True):
    """The fields of a HoldStockRequest."""

    store_id: StoreId
    variant_id: str
    consumer_id: ConsumerId
    quantity: Quantity
    needed_by: datetime | None = None


def stock_id(store_id: str, variant_id: str) -> str:
    """Returns the id of the stock of a variant in a store."""
    return f"{store_id}:{variant_id}"


def available(stock: Stock) -> int:
    """Returns the number of pieces that can be promised. Negative if the safety stock was raised above it."""
    return stock.on_hand - stock.reserved - stock.safety


def check_level(on_hand: int, reserved: int) -> None:
    """Raises `Conflict` if the pieces on hand exceed COUNT_MAX, are negative or are fewer than the reserved ones."""
    if on_hand > COUNT_MAX:
        raise Conflict(Reason.TOO_MANY_ON_HAND, f"A store has at most {COUNT_MAX} pieces of a variant. Add fewer.", limit=COUNT_MAX)
    if on_hand >= max(reserved, 0):
        return
    too_few = "The store has fewer pieces than this change removes. Remove fewer."
    held = "Holds and unpaid orders reserve more pieces than would be left. Release or cancel them first."
    raise Conflict(Reason.STOCK_RESERVED, held if reserved else too_few, reserved=reserved, on_hand=on_hand)


def check_needed_by(needed_by: datetime | None, at: datetime) -> None:
    """Raises `Invalid` if the time is over by more than the tolerance, or too far ahead.

    An order for a past time would count as an urgent need.
    """
    if needed_by is not None and needed_by < at - NEEDED_BY_TOLERANCE:
        raise Invalid(Reason.INVALID_FIELD, "`neededBy` is in the past. Set a later time, or leave it out.", field="needed_by")
    check_needed_by_max(needed_by, at)


def check_needed_by_max(needed_by: datetime | None, at: datetime) -> None:
    """Raises `Invalid` if the time is more than NEEDED_WITHIN ahead."""
    if needed_by is not None and needed_by > at + NEEDED_WITHIN:
        message = f"`neededBy` is more than {NEEDED_WITHIN.days} days ahead. Set an earlier time, or leave it out."
        raise Invalid(Reason.INVALID_FIELD, message, field="needed_by")


def check_holds(live: int, free_at: datetime | None) -> None:
    """Raises `Exhausted` if a holder with this many live holds may not make another.

    `free_at` is the earliest end of one of them, if the caller may know it.
    """
    if live >= HOLDS_MAX:
        metadata: dict[str, Any] = {"free_at": free_at.isoformat()} if free_at else {}
        message = f"The consumer has {HOLDS_MAX} holds and unpaid orders, the maximum. Pay for one, release or cancel it, or wait."
        raise Exhausted(Reason.TOO_MANY_HOLDS, message, limit=HOLDS_MAX, **metadata)


def hold(
    stock: Stock,
    *,
    id: str,
    consumer_id: str,
    quantity: int,
    at: datetime,
    real_at: datetime,
    needed_by: datetime | None = None,
    promise: Promise | None = None,
    held_until: datetime | None = None,
    staff_brand_id: str | None = None,
) -> Hold:
    """Returns a new hold on this stock. `at` is the caller's time, `real_at` the machine's.

    `Exhausted` if too few pieces are available; it carries `held_until`, the earliest end of a live hold on the stock.
    `Invalid` if `needed_by` is in the past or too far ahead.
    """
    check_needed_by(needed_by, at)
    if available(stock) < quantity:
        raise _out_of_stock(stock, quantity, at, held_until)
    return Hold(
        id=id,
        stock_id=stock.id,
        store_id=stock.store_id,
        seller_id=stock.seller_id,
        variant_id=stock.variant_id,
        brand_id=stock.brand_id,
        consumer_id=consumer_id,
        staff_brand_id=staff_brand_id,
        quantity=quantity,
        held_at=at,
        expires_at=at + HOLD_LIFE,
        sweep_at=real_at + HOLD_LIFE,
        needed_by=needed_by,
        promise=promise,
    )


def counted_once(holds: Sequence[Hold]) -> list[Hold]:
    """Returns the holds of one order such that only the first counts against the quota: they begin and end together."""
    return [replace(hold, counted=index == 0) for index, hold in enumerate(holds)]


def release(hold: Hold) -> tuple[Hold, int]:
    """Returns the released hold and the number of freed pieces. A hold that has ended does not change."""
    if hold.state is HoldState.ORDERED:
        raise Conflict(Reason.HOLD_ORDERED, "This hold belongs to an order. Cancel the order instead.", order_id=hold.order_id)
    if hold.state is not HoldState.HELD:
        return hold, 0
    return replace(hold, state=HoldState.RELEASED), hold.quantity


def expire(hold: Hold, real_at: datetime) -> tuple[Hold, int]:
    """Returns the expired hold and the number of freed pieces. An ordered hold ends with its order."""
    if hold.state is not HoldState.HELD or hold.sweep_at > real_at:
        return hold, 0
    return replace(hold, state=HoldState.EXPIRED), hold.quantity


def order(hold: Hold, order_id: str, at: datetime, pay_by: datetime) -> Hold:
    """Returns the hold as ordered. `Conflict` if it is ordered already or has ended, even if the sweeper has not expired it yet."""
    if hold.state is HoldState.ORDERED:
        raise Conflict(Reason.HOLD_ORDERED, "This hold belongs to another order already. Hold the goods again.", order_id=hold.order_id)
    if hold.state is not HoldState.HELD or hold.expires_at <= at:
        raise Conflict(Reason.HOLD_ENDED, "This hold has ended. Hold the goods again.", hold_id=hold.id)
    return replace(hold, state=HoldState.ORDERED, order_id=order_id, expires_at=pay_by)


def give_back(hold: Hold) -> tuple[Hold, int]:
    """Returns the hold of a cancelled order and the number of freed pieces."""
    if hold.state is not HoldState.ORDERED:
        return hold, 0
    return replace(hold, state=HoldState.RELEASED), hold.quantity


def hold_again(hold: Hold, at: datetime) -> tuple[Hold, int]:
    """Returns the hold of an order whose coupons were refused, held for the rest of its time, and the number of freed pieces."""
    if hold.state is not HoldState.ORDERED:
        return hold, 0
    until = hold.held_at + HOLD_LIFE
    if until <= at:
        return give_back(hold)
    return replace(hold, state=HoldState.HELD, order_id="", expires_at=until), 0


def sell(hold: Hold) -> tuple[Hold, int]:
    """Returns the hold of a paid order and the number of pieces that leave the stock."""
    if hold.state is not HoldState.ORDERED:
        return hold, 0
    return replace(hold, state=HoldState.SOLD), hold.quantity


def _out_of_stock(stock: Stock, quantity: int, at: datetime, held_until: datetime | None) -> Exhausted:
    # The refusal only says that fewer are left: the number of pieces in a store is not public.
    fewer = available(stock) > 0
    if stock.on_hand - stock.safety < quantity:
        message = "This store has fewer pieces. Choose a smaller quantity." if fewer else "This store has none left. Choose another one."
        return Exhausted(Reason.OUT_OF_STOCK, message, fewer=fewer)
    # Without `held_until` the pieces were held after it was read, so that hold began about now.
    until = (held_until or at + HOLD_LIFE).isoformat()
    message = "The remaining pieces are held for other consumers. Retry when the first hold ends."
    return Exhausted(Reason.OUT_OF_STOCK, message, fewer=fewer, held_until=until)
