"""Orders of the time before: what an import's row must be, and the paid order it becomes."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from services.commerce.catalog.rules import Price
from services.commerce.orders.enums import OrderState, Reason
from services.commerce.orders.model import Line, Order, OrderId, OrderSummary
from services.commerce.stock.rules import ConsumerId, StoreId
from services.kit.enums import Scenario, Touchpoint
from services.kit.errors import Invalid, NotFound
from services.kit.mongo.codec import as_struct
from services.kit.values.event import Event
from services.kit.values.money import MINOR_MAX, Currency

IMPORT_MAX = 500
LINES_MAX = 200


class ImportedLine(Struct, frozen=True):
    """A line of an imported order."""

    variant_id: str
    quantity: int
    paid: Price


class ImportedOrder(Struct, frozen=True):
    """An order of the time before, not checked yet."""

    order_id: str
    consumer_id: str
    store_id: str
    paid_at: datetime
    lines: tuple[ImportedLine, ...] = ()
    touchpoint: Touchpoint = Touchpoint.UNSPECIFIED
    scenario: Scenario = Scenario.UNSPECIFIED


class Bounds(Struct, frozen=True):
    """What is checked of a row, in one pass: a check of each of its lines as a struct would cost more than all the rest."""

    order_id: OrderId
    consumer_id: ConsumerId
    store_id: StoreId
    currency: Currency
    quantity: list[Annotated[int, Meta(ge=1, le=1_000_000)]]
    paid: list[Annotated[int, Meta(ge=0, le=MINOR_MAX)]]
    total: Annotated[int, Meta(le=MINOR_MAX)]


class OrdersImported(Event, frozen=True):
    """A batch of orders from before this installation was imported."""

    kind = "orders_imported"
    batch_id: str
    orders: tuple[OrderSummary, ...]


def order_of(row: ImportedOrder, *, batch_id: str, now: datetime, seller_id: str | None, brands: Mapping[str, str]) -> Order:
    """The paid order a row becomes. `seller_id` runs its store (None: no such store), `brands` are those of the variants that exist."""
    if not 0 < len(row.lines) <= LINES_MAX:
        raise Invalid(Reason.LINES_MISSING, f"an order has 1 to {LINES_MAX} lines", field="lines")
    if seller_id is None:
        raise NotFound(Reason.STORE_NOT_FOUND, "there is no such store", store_id=row.store_id)
    if row.paid_at > now:
        raise Invalid(Reason.NOT_PAST, "an imported order was paid in the past", field="paid_at")
    currency = row.lines[0].paid.currency
    for line in row.lines:
        if line.variant_id not in brands:
            raise NotFound(Reason.VARIANT_NOT_FOUND, f"there is no variant {line.variant_id}", variant_id=line.variant_id)
        if line.paid.currency != currency:
            raise Invalid(Reason.CURRENCY_MIXED, "one order is in one currency", field="paid")
    _check(row, currency)
    nothing = Price(currency)
    lines = tuple(Line(line.variant_id, brands[line.variant_id], line.quantity, line.paid, nothing, line.paid) for line in row.lines)
    total = Price(currency, _total(row))
    return Order(
        id=row.order_id,
        consumer_id=row.consumer_id,
        store_id=row.store_id,
        seller_id=seller_id,
        brand_ids=sorted({line.brand_id for line in lines}),
        state=OrderState.PAID,
        touchpoint=row.touchpoint,
        scenario=row.scenario if row.scenario is not Scenario.UNSPECIFIED else _usual(row.touchpoint),
        placed_at=row.paid_at,
        paid_at=row.paid_at,
        amount=total,
        discount=nothing,
        total=total,
        lines=lines,
        batch_id=batch_id,
    )


def _check(row: ImportedOrder, currency: str) -> None:
    as_struct(
        {
            "order_id": row.order_id,
            "consumer_id": row.consumer_id,
            "store_id": row.store_id,
            "currency": currency,
            "quantity": [line.quantity for line in row.lines],
            "paid": [line.paid.minor for line in row.lines],
            "total": _total(row),
        },
        Bounds,
    )


def _total(row: ImportedOrder) -> int:
    return sum(line.paid.minor for line in row.lines)


def _usual(touchpoint: Touchpoint) -> Scenario:
    return Scenario.IN_STORE if touchpoint is Touchpoint.STORE else Scenario.AT_HOME
