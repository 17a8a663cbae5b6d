"""Import of orders of an earlier system: each row entirely or not at all, repeatable, published, without effect on stock."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from quanyu.commerce.v1 import orders_pb2
from quanyu.common.v1 import touch_pb2
from quanyu.common.v1.money_pb2 import Money
from services.kit import clock
from services.kit.errors import Conflict, Denied, Invalid
from services.kit.security.principals import Grant
from services.kit.values.money import MINOR_MAX
from tests.services.commerce.conftest import Shop, brand_grant, consumer_grant, new_key


def line(variant_id: str = "var_shirt_40", quantity: int = 1, minor: int = 500, currency: str = "CNY") -> orders_pb2.ImportedLine:
    return orders_pb2.ImportedLine(variant_id=variant_id, quantity=quantity, paid=Money(minor=minor, currency=currency))


def imported_order(id: str, *lines: orders_pb2.ImportedLine, **more: Any) -> orders_pb2.ImportedOrder:
    fields: dict[str, Any] = {
        "order_id": f"ord_{id}", "consumer_id": "con_a", "store_id": "str_near", "paid_at": clock.now() - timedelta(days=400),
        "touchpoint": touch_pb2.TOUCHPOINT_STORE, "lines": lines or [line()],
    } | more  # fmt: skip
    return orders_pb2.ImportedOrder(**fields)


def batch(orders: Sequence[orders_pb2.ImportedOrder], id: str = "") -> orders_pb2.ImportOrdersRequest:
    return orders_pb2.ImportOrdersRequest(request_id=id or new_key(), orders=orders)


async def published(shop: Shop) -> list[Any]:
    return [event.orders_imported for event in await shop.commerce.published_events() if event.WhichOneof("body") == "orders_imported"]


async def test_import_rejects_bad_rows_with_reasons(shop: Shop) -> None:
    await shop.create_product("hat", "brd_b", sizes=(1,))
    orders = [
        imported_order("0", line(minor=300, quantity=2), line("var_hat_1", minor=99)),
        imported_order("1", line(), line("var_no")),
        imported_order("2", store_id="str_no"),
        imported_order("3", line(quantity=-1)),
        imported_order("4", line(minor=-1)),
        imported_order("5", lines=[]),
        imported_order("6", line(), line(currency="USD")),
        imported_order("7", paid_at=clock.now() + timedelta(hours=1)),
        imported_order("0"),
        imported_order("8", consumer_id="who"),
        imported_order("9", line(minor=MINOR_MAX), line(minor=1)),
    ]
    answer = await shop.orders().ImportOrders(batch(orders, "batch-1"))
    assert (answer.imported, answer.known) == (1, 0)
    assert [(item.index, item.row_id, item.reason) for item in answer.rejects] == [
        (1, "ord_1", "VARIANT_NOT_FOUND"),
        (2, "ord_2", "STORE_NOT_FOUND"),
        (3, "ord_3", "INVALID_FIELD"),
        (4, "ord_4", "INVALID_FIELD"),
        (5, "ord_5", "LINES_MISSING"),
        (6, "ord_6", "CURRENCY_MIXED"),
        (7, "ord_7", "NOT_PAST"),
        (8, "ord_0", "ORDER_REPEATED"),
        (9, "ord_8", "INVALID_FIELD"),
        (10, "ord_9", "INVALID_FIELD"),
    ]
    stored = await shop.database["orders"].find().to_list(None)
    assert [(document["_id"], len(document["lines"]), document["total"]["minor"]) for document in stored] == [("ord_0", 2, 399)]
    assert await shop.levels() == {"on_hand": 1, "reserved": 0}
    (event,) = await published(shop)
    assert (event.batch_id, [order.order_id for order in event.orders]) == ("batch-1", ["ord_0"])
    assert [(item.brand_id, item.paid.minor) for item in event.orders[0].lines] == [("brd_a", 300), ("brd_b", 99)]
    assert (event.orders[0].scenario, event.orders[0].seller_id) == (touch_pb2.SCENARIO_IN_STORE, "brd_a")


async def test_import_may_be_repeated_or_extended(shop: Shop) -> None:
    orders = [imported_order(str(number)) for number in range(6)]
    first = batch(orders[:4])
    assert (await shop.orders().ImportOrders(first)).imported == 4
    assert (await shop.orders().ImportOrders(first)).imported == 4
    again = await shop.orders().ImportOrders(batch(orders))
    assert (again.imported, again.known) == (2, 4)
    assert [len(event.orders) for event in await published(shop)] == [4, 2] or [len(event.orders) for event in await published(shop)] == [
        2,
        4,
    ]
    first.orders[0].store_id = "str_far"
    with pytest.raises(Conflict, match="REQUEST_ID_REUSED"):
        await shop.orders().ImportOrders(first)
    assert await shop.database["orders"].count_documents({}) == 6


async def test_imported_order_is_visible_and_paid(shop: Shop) -> None:
    at = clock.now() - timedelta(days=3)
    await shop.orders().ImportOrders(batch([imported_order("1", paid_at=at)]))
    order = (await shop.orders(consumer_grant()).GetOrder(orders_pb2.GetOrderRequest(id="ord_1"))).order
    assert (order.state, order.placed_at.ToDatetime(), order.total.minor) == (orders_pb2.ORDER_STATE_PAID, _naive(at), 500)
    assert not order.lines[0].HasField("price")
    pay = orders_pb2.PayOrderRequest(request_id=new_key(), order_id="ord_1", method=orders_pb2.PAYMENT_METHOD_SANDBOX)
    assert (await shop.orders(consumer_grant()).PayOrder(pay)).order == order
    with pytest.raises(Conflict, match="ORDER_PAID"):
        await shop.orders(consumer_grant()).CancelOrder(orders_pb2.CancelOrderRequest(request_id=new_key(), order_id="ord_1"))


async def test_import_is_for_operators_and_limited(shop: Shop) -> None:
    for grant in (brand_grant(), Grant("ROLE_SERVICE", "SCOPE_KIND_BRAND", "brd_a")):
        with pytest.raises(Denied):
            await shop.orders(grant).ImportOrders(batch([imported_order("1")]))
    with pytest.raises(Invalid, match="INVALID_FIELD"):
        await shop.orders().ImportOrders(batch([]))
    with pytest.raises(Invalid, match="INVALID_FIELD"):
        await shop.orders().ImportOrders(batch([imported_order(str(number)) for number in range(501)]))


def _naive(at: datetime) -> datetime:
    return at.replace(tzinfo=None)
