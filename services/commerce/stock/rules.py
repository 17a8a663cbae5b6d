"""What stock is, what a hold does to it, and how a hold ends.

`reserved` is always the sum of the live holds' quantities, and never more than what is on hand.
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
COUNT_MAX = 1_000_000_000
QUANTITY_MAX = 100
NOW = timedelta(minutes=5)
"""A front end's "now" is on its way for a moment, and clocks differ."""
NEEDED_WITHIN = timedelta(days=30)
"""Goods that stand in a store now are promised for days, not for years; what is needed later is asked for later."""
HOLDS_MAX = 10
"""Calls of one holder that keep goods back at a time: each hold, ordered or not, and each unpaid order of goods that were not held."""
IMPORT_MAX = 500

Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
Quantity = Annotated[int, Meta(ge=1, le=QUANTITY_MAX)]
StoreId = Annotated[str, Meta(pattern=ids.shape("str"))]
ConsumerId = Annotated[str, Meta(pattern=ids.shape("con", length_max=96, further="."))]
Minute = Annotated[int, Meta(ge=0, le=1440)]

LIVE = (HoldState.HELD, HoldState.ORDERED)


class Point(Struct, frozen=True):
    """A place on earth, WGS 84; the order of the fields is that of MongoDB's pairs."""

    longitude: Annotated[float, Meta(ge=-180, le=180)] = 0.0
    latitude: Annotated[float, Meta(ge=-90, le=90)] = 0.0


class Store(Struct, frozen=True):
    """What commerce knows of a store, by StoreChanged."""

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
    """What a store has of a variant."""

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
    """What can be in the consumer's hands, from which store, by when."""

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
    """Goods kept back for a consumer.

    `sweep_at` is `expires_at` on the machine's clock, which a caller's may differ from. `counted` says that it is one of HOLDS_MAX of
    its holder, who is a brand for this person where `staff_brand_id` says whose staff made it.
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


class Level(Struct, frozen=True):
    """What is counted in, and what of it is never promised."""

    on_hand: Count = 0
    safety: Count = 0


class HoldAsked(Struct, frozen=True):
    """A hold that is asked for."""

    store_id: StoreId
    variant_id: str
    consumer_id: ConsumerId
    quantity: Quantity
    needed_by: datetime | None = None


def stock_id(store_id: str, variant_id: str) -> str:
    """The id of the row of a store and a variant."""
    return f"{store_id}:{variant_id}"


def available(stock: Stock) -> int:
    """What can still be promised; negative when safety was raised over it."""
    return stock.on_hand - stock.reserved - stock.safety


def check_level(on_hand: int, reserved: int) -> None:
    """Refuses a level on hand above what can be counted, below nothing, or that holds and unpaid orders do not fit into."""
    if on_hand > COUNT_MAX:
        raise Conflict(Reason.TOO_MANY_ON_HAND, f"a store has at most {COUNT_MAX} pieces of a variant; add fewer", limit=COUNT_MAX)
    if on_hand >= max(reserved, 0):
        return
    fewer = "there are not so many to take away"
    held = "holds and unpaid orders stand on more than would be left; release or cancel them first"
    raise Conflict(Reason.STOCK_RESERVED, held if reserved else fewer, reserved=reserved, on_hand=on_hand)


def check_needed(needed_by: datetime | None, at: datetime) -> None:
    """Refuses what was needed well before it is asked for: an order of it would be called urgent. And as `check_needed_within`."""
    if needed_by is not None and needed_by < at - NOW:
        raise Invalid(Reason.INVALID_FIELD, "this time is over already; say when it is needed, or leave it out", field="needed_by")
    check_needed_within(needed_by, at)


def check_needed_within(needed_by: datetime | None, at: datetime) -> None:
    """Refuses what is needed later than anything is promised for."""
    if needed_by is not None and needed_by > at + NEEDED_WITHIN:
        said = f"this is more than {NEEDED_WITHIN.days} days ahead; say when it is needed, or leave it out"
        raise Invalid(Reason.INVALID_FIELD, said, field="needed_by")


def check_holds(standing: int, free_at: datetime | None) -> None:
    """Refuses one more hold where so many stand. `free_at` is when the first of them ends, if the caller may know."""
    if standing >= HOLDS_MAX:
        told: dict[str, Any] = {"free_at": free_at.isoformat()} if free_at else {}
        raise Exhausted(
            Reason.TOO_MANY_HOLDS,
            f"at most {HOLDS_MAX} holds and unpaid orders stand for a consumer; pay for one, release or cancel it, or wait until one ends",
            limit=HOLDS_MAX, **told,
        )  # fmt: skip


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
    """A hold on this row. `held_until` is when the first of the others' live holds ends; `Exhausted` when too few are available,
    `Invalid` when it was needed before `at`, or is in more than NEEDED_WITHIN.

    `at` is the caller's time, `real_at` the machine's.
    """
    check_needed(needed_by, at)
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
    """The holds that one order takes its goods with: they begin and end together, so the first one counts for all."""
    return [replace(hold, counted=place == 0) for place, hold in enumerate(holds)]


def release(hold: Hold) -> tuple[Hold, int]:
    """The hold given back, and how many pieces come free; a hold that has ended stays as it is."""
    if hold.state is HoldState.ORDERED:
        raise Conflict(Reason.HOLD_ORDERED, "an order stands on this hold; cancel the order instead", order_id=hold.order_id)
    if hold.state is not HoldState.HELD:
        return hold, 0
    return replace(hold, state=HoldState.RELEASED), hold.quantity


def expire(hold: Hold, real_at: datetime) -> tuple[Hold, int]:
    """The hold after its time, and how many pieces come free. A hold that an order stands on ends with the order."""
    if hold.state is not HoldState.HELD or hold.sweep_at > real_at:
        return hold, 0
    return replace(hold, state=HoldState.EXPIRED), hold.quantity


def order(hold: Hold, order_id: str, at: datetime, pay_by: datetime) -> Hold:
    """The hold once an order stands on it. Its time is over when it is: the sweeper may come a little later."""
    if hold.state is HoldState.ORDERED:
        raise Conflict(Reason.HOLD_ORDERED, "an order stands on this hold already", order_id=hold.order_id)
    if hold.state is not HoldState.HELD or hold.expires_at <= at:
        raise Conflict(Reason.HOLD_ENDED, "this hold has ended; hold the goods again", hold_id=hold.id)
    return replace(hold, state=HoldState.ORDERED, order_id=order_id, expires_at=pay_by)


def give_back(hold: Hold) -> tuple[Hold, int]:
    """The hold after its order was cancelled, and how many pieces come free."""
    if hold.state is not HoldState.ORDERED:
        return hold, 0
    return replace(hold, state=HoldState.RELEASED), hold.quantity


def hold_again(hold: Hold, at: datetime) -> tuple[Hold, int]:
    """The hold after its order failed before it stood: kept for what was left of its time."""
    if hold.state is not HoldState.ORDERED:
        return hold, 0
    until = hold.held_at + HOLD_LIFE
    if until <= at:
        return give_back(hold)
    return replace(hold, state=HoldState.HELD, order_id="", expires_at=until), 0


def sell(hold: Hold) -> tuple[Hold, int]:
    """The hold after its order was paid, and how many pieces leave the stock."""
    if hold.state is not HoldState.ORDERED:
        return hold, 0
    return replace(hold, state=HoldState.SOLD), hold.quantity


def _out_of_stock(stock: Stock, quantity: int, at: datetime, held_until: datetime | None) -> Exhausted:
    # Whether there are fewer is all that is told: how many a store has is its own affair.
    fewer = available(stock) > 0
    if stock.on_hand - stock.safety < quantity:
        said = "fewer are left in this store; ask for fewer" if fewer else "there are none left in this store"
        return Exhausted(Reason.OUT_OF_STOCK, said, fewer=fewer)
    # Whoever took it since `held_until` was read took it just now.
    until = (held_until or at + HOLD_LIFE).isoformat()
    return Exhausted(Reason.OUT_OF_STOCK, "others hold what is left; ask again when the first hold ends", fewer=fewer, held_until=until)
