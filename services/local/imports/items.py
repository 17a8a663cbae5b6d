"""Import items: the rows of the files as messages of the import rpcs. A row that cannot be read becomes a `Reject`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from msgspec import Struct

from quanyu.access.v1 import access_pb2
from quanyu.commerce.v1 import catalog_pb2, orders_pb2, stock_pb2
from quanyu.common.v1.money_pb2 import Money
from quanyu.common.v1.point_pb2 import Point
from quanyu.common.v1.touch_pb2 import Touchpoint
from quanyu.member.v1 import consent_pb2, identity_pb2, outreach_pb2
from quanyu.organization.v1 import chart_pb2
from services.local.imports import reading
from services.local.imports.cells import BadValue, minor
from services.local.imports.layout import BY_NAME

Values = dict[str, Any]
GROUPED = ("consumers", "bindings")
"""Each request of these files belongs to one brand."""
UNREADABLE, ORDER_NOT_FOUND = "UNREADABLE", "ORDER_NOT_FOUND"
"""The importer gives these reasons; all others come from the services."""


class Item(Struct, frozen=True):
    """One row, or one product or order with all its rows: the row number, the id and the message. A request holds one `group`."""

    row: int
    id: str
    message: Message
    group: str = ""


class Reject(Struct, frozen=True):
    """A row that is not imported: its place, its id, the reason code, and a message that says what is wrong."""

    file: str
    row: int
    id: str
    reason: str
    message: str


def read_items(folder: Path, name: str) -> tuple[int, Iterator[Item | Reject]]:
    """Returns the largest possible number of items of a file, and the items in order; (0, none) if the file is missing."""
    path = reading.find_file(folder, name)
    if path is None:
        return 0, iter(())
    read = reading.read_table(path, BY_NAME[name])
    if name == "orders":
        return read.num_rows, _orders(folder, read)
    if name == "products":
        return read.num_rows, _products(read)
    if name in GROUPED:
        read = read.sort_by([("brand_id", "ascending"), ("row", "ascending")])
    return read.num_rows, _each(name, read, BUILD[name])


def _each(name: str, read: Any, build: Callable[[Values], tuple[str, Message, str]]) -> Iterator[Item | Reject]:
    for cells in reading.iterate_rows(read):
        try:
            id, message, group = build(BY_NAME[name].row(cells))
        except ValueError as error:
            yield Reject(name, cells["row"], _id(cells), UNREADABLE, str(error))
        else:
            yield Item(cells["row"], id, message, group)


def _products(read: Any) -> Iterator[Item | Reject]:
    for product_id, group in groupby(reading.iterate_rows(read), key=lambda cells: cells["product_id"]):
        message, place, first = catalog_pb2.NewProduct(), 0, 0
        try:
            for cells in group:
                place = cells["row"]
                row = BY_NAME["products"].row(cells)
                if not first:
                    first, name = place, catalog_pb2.Text(zh=row["name"], en=row["name_en"])
                    message = catalog_pb2.NewProduct(
                        product_id=row["product_id"], brand_id=row["brand_id"], name=name, category=row["category"]
                    )
                price = _money(row["price"], row["currency"])
                message.variants.add(variant_id=row["variant_id"], attributes=row["attributes"], price=price)
        except ValueError as error:
            yield Reject("products", place, str(product_id), UNREADABLE, str(error))
        else:
            yield Item(first, message.product_id, message)


def _orders(folder: Path, orders: Any) -> Iterator[Item | Reject]:
    """Yields orders with their lines, sorted by consumer and time, so that a batch touches few consumers."""
    orders = orders.sort_by([("consumer_id", "ascending"), ("paid_at", "ascending"), ("order_id", "ascending")])
    lines = _Lines(folder, orders["order_id"])
    for place, cells in enumerate(reading.iterate_rows(orders)):
        order_id = str(cells["order_id"])
        try:
            row = BY_NAME["orders"].row(cells)
            message = orders_pb2.ImportedOrder(
                order_id=row["order_id"],
                consumer_id=row["consumer_id"],
                store_id=row["store_id"],
                touchpoint=Touchpoint.Value(f"TOUCHPOINT_{row['touchpoint'].upper()}"),
                lines=lines.take(place),
            )
            message.paid_at.FromDatetime(row["paid_at"])
        except ValueError as error:
            yield Reject("orders", cells["row"], order_id, UNREADABLE, str(error))
        else:
            yield Item(cells["row"], order_id, message)
    yield from lines.take_rest()


class _Lines:
    """Merge join of order lines with the sorted orders. Lines without an order are left over."""

    def __init__(self, folder: Path, order_ids: Any) -> None:
        path = reading.find_file(folder, "order_lines")
        read = (
            reading.iterate_rows(reading.sort_by_ids(reading.read_table(path, BY_NAME["order_lines"]), "order_id", order_ids))
            if path
            else ()
        )
        self.groups = groupby(read, key=lambda cells: (cells["place"], str(cells["order_id"])))
        self.place: int | None = None
        self._next()

    def _next(self) -> None:
        (self.place, self.order_id), cells = next(self.groups, ((None, ""), ()))
        self.cells = list(cells)

    def take(self, place: int) -> list[orders_pb2.ImportedLine]:
        """Returns the lines of the order at a place; places must rise. Raises `BadValue` with the row of a line that cannot be read."""
        while self.place is not None and self.place < place:
            self._next()
        if self.place != place:
            return []
        built, cells_of_all = [], self.cells
        self._next()
        for cells in cells_of_all:
            try:
                row = BY_NAME["order_lines"].row(cells)
                paid = _money(row["paid"], row["currency"])
                built.append(orders_pb2.ImportedLine(variant_id=row["variant_id"], quantity=row["quantity"], paid=paid))
            except ValueError as error:
                raise BadValue(f"order_lines row {cells['row']}: {error}") from None
        return built

    def take_rest(self) -> Iterator[Reject]:
        """Yields a reject for the lines of each order that is missing in orders."""
        while self.cells:
            if self.place is None:
                yield Reject(
                    "order_lines",
                    self.cells[0]["row"],
                    self.order_id,
                    ORDER_NOT_FOUND,
                    "order_id: orders has no row with this order. Add the order, or remove its lines.",
                )
            self._next()


def _money(value: Any, currency: str) -> Money:
    return Money(minor=minor(value, currency), currency=currency)


def _id(cells: Mapping[str, Any]) -> str:
    return next((str(value) for name, value in cells.items() if name.endswith("_id")), "")


def _name(row: Values) -> chart_pb2.Name:
    return chart_pb2.Name(zh=row["name"], en=row["name_en"])


def headquarters(place_id: str) -> str:
    """Returns the org unit of a place: the place itself, or the headquarters of a brand or retailer."""
    return place_id if not place_id.startswith(("brd_", "rtl_")) else f"unt_{place_id}"


def _brand(row: Values) -> tuple[str, Message, str]:
    kind = chart_pb2.BRAND_KIND_RETAILER if row["brand_id"].startswith("rtl_") else chart_pb2.BRAND_KIND_BRAND
    message = chart_pb2.BrandRow(
        brand_id=row["brand_id"], kind=kind, name=_name(row), zone=row["zone"], currency=row["currency"], franchised=row["franchised"]
    )
    return row["brand_id"], message, ""


def _org_unit(row: Values) -> tuple[str, Message, str]:
    message = chart_pb2.CreateOrgUnitRequest(
        org_unit_id=row["org_unit_id"],
        kind=chart_pb2.OrgUnitKind.Value(f"ORG_UNIT_KIND_{row['kind'].upper()}"),
        parent_id=headquarters(row["parent_id"]),
        name=_name(row),
    )
    return row["org_unit_id"], message, ""


def _store(row: Values) -> tuple[str, Message, str]:
    message = chart_pb2.StoreRow(
        store_id=row["store_id"],
        kind=chart_pb2.StoreKind.Value(f"STORE_KIND_{row['kind'].upper()}"),
        parent_id=headquarters(row["parent_id"]),
        name=_name(row),
        position=Point(longitude=row["longitude"], latitude=row["latitude"]),
        zone=row["zone"],
        opens_minute=row["hours"][0],
        closes_minute=row["hours"][1],
        delivers=row["delivers"],
    )
    return row["store_id"], message, ""


def _staff(row: Values) -> tuple[str, Message, str]:
    message = chart_pb2.StaffRow(staff_id=row["staff_id"], name=row["name"], title=row["title"], subject=row["subject"])
    if row["place_id"].startswith("str_"):
        message.store_id = row["place_id"]
    else:
        message.org_unit_id = headquarters(row["place_id"])
    if row["role"]:
        message.role = access_pb2.Role.Value(f"ROLE_{row['role'].upper()}")
    return row["staff_id"], message, ""


def _stock(row: Values) -> tuple[str, Message, str]:
    message = stock_pb2.StockRow(store_id=row["store_id"], variant_id=row["variant_id"], on_hand=row["on_hand"], safety=row["safety"])
    return f"{row['store_id']}:{row['variant_id']}", message, ""


def _consumer(row: Values) -> tuple[str, Message, str]:
    identities = list(_identities(row))
    consents = [
        identity_pb2.ImportedConsent(
            brand_id=brand_id,
            purpose=consent_pb2.Purpose.Value(f"PURPOSE_{purpose.upper()}"),
            granted=True,
            touchpoint=Touchpoint.TOUCHPOINT_STORE,
        )
        for brand_id in dict.fromkeys([row["brand_id"], *row["consent_brands"]])
        for purpose in row["consents"]
    ]
    message = identity_pb2.ImportedConsumer(
        consumer_id=row["consumer_id"], identities=identities, display_name=row["name"], sizes=row["sizes"], consents=consents
    )
    if row["since"]:
        message.created_at.FromDatetime(row["since"])
    return row["consumer_id"], message, row["brand_id"]


def _identities(row: Values) -> Iterable[identity_pb2.NewIdentity]:
    if row["phone"]:
        yield identity_pb2.NewIdentity(kind=identity_pb2.IDENTITY_KIND_PHONE, value=row["phone"], verified=True)
    if row["card"]:
        yield identity_pb2.NewIdentity(kind=identity_pb2.IDENTITY_KIND_CARD, value=row["card"], verified=True)
    if row["open_id"]:
        app, colon, value = row["open_id"].partition(":")
        if not colon:
            raise BadValue("open_id: expected the app and the open id, like my-app:o6_bmjrPTlm6")
        yield identity_pb2.NewIdentity(kind=identity_pb2.IDENTITY_KIND_OPEN_ID, namespace=app, value=value, verified=True)


def _binding(row: Values) -> tuple[str, Message, str]:
    message = outreach_pb2.ImportedBinding(consumer_id=row["consumer_id"], staff_id=row["staff_id"])
    if row["bound_at"]:
        message.bound_at.FromDatetime(row["bound_at"])
    return row["consumer_id"], message, row["brand_id"]


BUILD: Mapping[str, Callable[[Values], tuple[str, Message, str]]] = {
    "brands": _brand, "org_units": _org_unit, "stores": _store, "staff": _staff, "stock": _stock, "consumers": _consumer,
    "bindings": _binding,
}  # fmt: skip
