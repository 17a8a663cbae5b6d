"""Rules of importing orders from an earlier system: a row must meet them and becomes a paid order."""

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
from services.kit.mongo.codec import to_struct
from services.kit.values.event import Event
from services.kit.values.money import MINOR_MAX, Currency

IMPORT_MAX = 500
"""An import has at most this many orders."""
LINES_MAX = 200
"""An imported order has at most this many lines."""


class ImportedLine(Struct, frozen=True):
    """A line of an imported order."""

    variant_id: str
    quantity: int
    paid: Price


class ImportedOrder(Struct, frozen=True):
    """An order of an earlier system, not checked yet."""

    order_id: str
    consumer_id: str
    store_id: str
    paid_at: datetime
    lines: tuple[ImportedLine, ...] = ()
    touchpoint: Touchpoint = Touchpoint.UNSPECIFIED
    scenario: Scenario = Scenario.UNSPECIFIED


class RowBounds(Struct, frozen=True):
    """The bounds of a row, checked in one conversion: converting each line separately would cost more than the rest of the import."""

    order_id: OrderId
    consumer_id: ConsumerId
    store_id: StoreId
    currency: Currency
    quantity: list[Annotated[int, Meta(ge=1, le=1_000_000)]]
    paid: list[Annotated[int, Meta(ge=0, le=MINOR_MAX)]]
    total: Annotated[int, Meta(le=MINOR_MAX)]


class OrdersImported(Event, frozen=True):
    """A batch of orders of an earlier system was imported."""

    kind = "orders_imported"
    batch_id: str
    orders: tuple[OrderSummary, ...]


def build_order(row: ImportedOrder, *, batch_id: str, now: datetime, seller_id: str | None, brands: Mapping[str, str]) -> Order:
    """Returns the paid order of a row. `Invalid` or `NotFound` if the row does not meet a rule.

    `seller_id` owns the store and is None if the store does not exist. `brands` has the brand of each existing variant.
    """
    if not 0 < len(row.lines) <= LINES_MAX:
        raise Invalid(Reason.LINES_MISSING, f"An order must have 1 to {LINES_MAX} lines.", field="lines")
    if seller_id is None:
        raise NotFound(Reason.STORE_NOT_FOUND, "No such store. Check the id.", store_id=row.store_id)
    if row.paid_at > now:
        raise Invalid(Reason.NOT_PAST, "The time of payment is in the future. Import only paid orders.", field="paid_at")
    currency = row.lines[0].paid.currency
    for line in row.lines:
        if line.variant_id not in brands:
            raise NotFound(Reason.VARIANT_NOT_FOUND, f"No such variant: {line.variant_id}. Check the id.", variant_id=line.variant_id)
        if line.paid.currency != currency:
            raise Invalid(Reason.CURRENCY_MIXED, "The order has several currencies. Use one currency.", field="paid")
    _check_bounds(row, currency)
    no_discount = Price(currency)
    lines = tuple(Line(line.variant_id, brands[line.variant_id], line.quantity, line.paid, no_discount, line.paid) for line in row.lines)
    total = Price(currency, _total(row))
    return Order(
        id=row.order_id,
        consumer_id=row.consumer_id,
        store_id=row.store_id,
        seller_id=seller_id,
        brand_ids=sorted({line.brand_id for line in lines}),
        state=OrderState.PAID,
        touchpoint=row.touchpoint,
        scenario=row.scenario if row.scenario is not Scenario.UNSPECIFIED else _default_scenario(row.touchpoint),
        placed_at=row.paid_at,
        paid_at=row.paid_at,
        amount=total,
        discount=no_discount,
        total=total,
        lines=lines,
        batch_id=batch_id,
    )


def _check_bounds(row: ImportedOrder, currency: str) -> None:
    to_struct(
        {
            "order_id": row.order_id,
            "consumer_id": row.consumer_id,
            "store_id": row.store_id,
            "currency": currency,
            "quantity": [line.quantity for line in row.lines],
            "paid": [line.paid.minor for line in row.lines],
            "total": _total(row),
        },
        RowBounds,
    )


def _total(row: ImportedOrder) -> int:
    return sum(line.paid.minor for line in row.lines)


def _default_scenario(touchpoint: Touchpoint) -> Scenario:
    return Scenario.IN_STORE if touchpoint is Touchpoint.STORE else Scenario.AT_HOME
