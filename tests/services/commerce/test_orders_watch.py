"""Following an order: as it stands and each time it changed, for whoever may see it."""

from quanyu.commerce.v1 import orders_pb2 as pb
from services.kit.errors import Denied, Invalid, NotFound
from services.kit.mongo import pagination
from services.kit.security.principals import Grant
from tests.services.commerce.conftest import Shop, consumer, fresh
from tests.services.commerce.test_orders import paying
from tests.services.kit.hearing import until
from tests.services.streams import listening

PLACED, PAID, CANCELLED = pb.ORDER_STATE_PLACED, pb.ORDER_STATE_PAID, pb.ORDER_STATE_CANCELLED


def watching(order_id: str, after: str = "") -> pb.WatchOrderRequest:
    return pb.WatchOrderRequest(order_id=order_id, after=after)


async def cancel(shop: Shop, order: pb.Order) -> None:
    await shop.orders(consumer()).CancelOrder(pb.CancelOrderRequest(request_id=fresh(), order_id=order.id))


async def test_an_order_is_told_as_it_stands_and_until_it_is_paid(shop: Shop) -> None:
    order = await shop.placed()
    stub = shop.orders(consumer())
    async with listening(stub.WatchOrder, watching(order.id)) as stream:
        (first,) = await stream.came(1)
        assert first.order == order
        paid = (await stub.PayOrder(paying(order.id))).order
        await until(lambda: _last_is(stream, paid))
        states = [response.order.state for response in stream.responses]
        assert (states[0], states[-1]) == (PLACED, PAID) and states == sorted(states)
        assert len({response.cursor for response in stream.responses}) == len(states)


async def _last_is(stream: object, order: pb.Order) -> bool:
    return bool(stream.responses[-1].order == order)  # type: ignore[attr-defined]


async def test_a_cursor_tells_whether_the_order_changed_since(shop: Shop) -> None:
    order, other = await shop.placed(), None
    stub = shop.orders(consumer())
    async with listening(stub.WatchOrder, watching(order.id)) as stream:
        await stream.came(1)
    placed = stream.cursor
    async with listening(stub.WatchOrder, watching(order.id, placed)) as same:
        await cancel(shop, order)
        (changed,) = await same.came(1)
        assert changed.order.state == CANCELLED
    async with listening(stub.WatchOrder, watching(order.id, placed)) as missed:
        assert (await missed.came(1))[0].order == changed.order
    assert missed.cursor == same.cursor
    other = await shop.placed()
    for wrong in (placed + "x", "x", placed, pagination.cursor("orders:followed", [other.id, "1"])):
        async with listening(stub.WatchOrder, watching(other.id, wrong)) as stream:
            refused = await stream.ended()
            assert isinstance(refused, Invalid) and refused.reason == "INVALID_CURSOR"


async def test_nobody_else_hears_of_an_order(shop: Shop) -> None:
    order = await shop.placed()
    neighbours = [
        consumer("con_b"),
        Grant("ROLE_STORE_MANAGER", "SCOPE_KIND_STORE", "str_far"),
        Grant("ROLE_BRAND_OPERATOR", "SCOPE_KIND_BRAND", "brd_b"),
    ]
    for grant in neighbours:
        async with listening(shop.orders(grant).WatchOrder, watching(order.id)) as stream:
            refused = await stream.ended()
            assert isinstance(refused, NotFound) and refused.reason == "ORDER_NOT_FOUND"
            assert not stream.responses
    async with listening(
        shop.orders(Grant("ROLE_DISTRICT_OPERATOR", "SCOPE_KIND_DISTRICT", "dst_a")).WatchOrder, watching(order.id)
    ) as stream:
        assert isinstance(await stream.ended(), Denied)
    async with listening(shop.orders(consumer()).WatchOrder, watching("ord_unknown")) as stream:
        assert isinstance(await stream.ended(), NotFound)


async def test_an_order_that_leaves_the_callers_scope_is_told_no_more(shop: Shop) -> None:
    order = await shop.placed()
    async with listening(shop.orders(Grant("ROLE_STORE_MANAGER", "SCOPE_KIND_STORE", "str_near")).WatchOrder, watching(order.id)) as stream:
        await stream.came(1)
        # No rule of today moves an order; the stream must not rely on that.
        moved = {"$set": {"store_id": "str_far", "batch_id": "secret"}, "$inc": {"version": 1}}
        await shop.database["orders"].update_one({"_id": order.id}, moved)
        refused = await stream.ended()
        assert isinstance(refused, NotFound) and len(stream.responses) == 1


async def test_a_brand_with_lines_in_an_order_hears_its_part_and_of_nothing_else(shop: Shop) -> None:
    await shop.product("hat", brand_id="brd_b", sizes=(1,), minor=10_000)
    await shop.stocked(variant_id="var_hat_1")
    lines = [pb.NewLine(variant_id=id, quantity=1) for id in ("var_shirt_40", "var_hat_1")]
    order = await shop.placed(lines=lines)
    brand = Grant("ROLE_BRAND_OPERATOR", "SCOPE_KIND_BRAND", "brd_b")
    async with listening(shop.orders(brand).WatchOrder, watching(order.id)) as stream:
        (first,) = await stream.came(1)
        assert first.order.partial and [line.brand_id for line in first.order.lines] == ["brd_b"]
        put_off = {"$currentDate": {"sweep_at": True}, "$inc": {"version": 1}}
        await shop.database["orders"].update_one({"_id": order.id}, put_off)
        await cancel(shop, order)
        (_, second) = await stream.came(2)
        assert second.order.state == CANCELLED and second.order.partial
