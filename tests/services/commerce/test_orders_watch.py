"""Watching an order by gRPC: its current state and each change, within the caller's scope."""

from quanyu.commerce.v1 import orders_pb2 as pb
from services.kit.errors import Denied, Invalid, NotFound
from services.kit.mongo import pagination
from services.kit.security.principals import Grant
from tests.services.commerce.conftest import Shop, consumer_grant, new_key
from tests.services.commerce.test_orders import payment_request
from tests.services.kit.event_services import wait_until
from tests.services.streams import read_stream

PLACED, PAID, CANCELLED = pb.ORDER_STATE_PLACED, pb.ORDER_STATE_PAID, pb.ORDER_STATE_CANCELLED


def watch_request(order_id: str, after: str = "") -> pb.WatchOrderRequest:
    return pb.WatchOrderRequest(order_id=order_id, after=after)


async def cancel(shop: Shop, order: pb.Order) -> None:
    await shop.orders(consumer_grant()).CancelOrder(pb.CancelOrderRequest(request_id=new_key(), order_id=order.id))


async def test_watch_streams_states_until_paid(shop: Shop) -> None:
    order = await shop.place_order()
    stub = shop.orders(consumer_grant())
    async with read_stream(stub.WatchOrder, watch_request(order.id)) as stream:
        (first,) = await stream.expect_responses(1)
        assert first.order == order
        paid = (await stub.PayOrder(payment_request(order.id))).order
        await wait_until(lambda: _last_is(stream, paid))
        states = [response.order.state for response in stream.responses]
        assert (states[0], states[-1]) == (PLACED, PAID) and states == sorted(states)
        assert len({response.cursor for response in stream.responses}) == len(states)


async def _last_is(stream: object, order: pb.Order) -> bool:
    return bool(stream.responses[-1].order == order)  # type: ignore[attr-defined]


async def test_watch_resumes_after_cursor(shop: Shop) -> None:
    order, other = await shop.place_order(), None
    stub = shop.orders(consumer_grant())
    async with read_stream(stub.WatchOrder, watch_request(order.id)) as stream:
        await stream.expect_responses(1)
    placed = stream.cursor
    async with read_stream(stub.WatchOrder, watch_request(order.id, placed)) as same:
        await cancel(shop, order)
        (changed,) = await same.expect_responses(1)
        assert changed.order.state == CANCELLED
    async with read_stream(stub.WatchOrder, watch_request(order.id, placed)) as missed:
        assert (await missed.expect_responses(1))[0].order == changed.order
    assert missed.cursor == same.cursor
    other = await shop.place_order()
    for wrong in (placed + "x", "x", placed, pagination.encode_cursor("orders:followed", [other.id, "1"])):
        async with read_stream(stub.WatchOrder, watch_request(other.id, wrong)) as stream:
            refused = await stream.wait_until_ended()
            assert isinstance(refused, Invalid) and refused.reason == "INVALID_CURSOR"


async def test_watch_outside_scope_is_refused(shop: Shop) -> None:
    order = await shop.place_order()
    strangers = [
        consumer_grant("con_b"),
        Grant("ROLE_STORE_MANAGER", "SCOPE_KIND_STORE", "str_far"),
        Grant("ROLE_BRAND_OPERATOR", "SCOPE_KIND_BRAND", "brd_b"),
    ]
    for grant in strangers:
        async with read_stream(shop.orders(grant).WatchOrder, watch_request(order.id)) as stream:
            refused = await stream.wait_until_ended()
            assert isinstance(refused, NotFound) and refused.reason == "ORDER_NOT_FOUND"
            assert not stream.responses
    async with read_stream(
        shop.orders(Grant("ROLE_DISTRICT_OPERATOR", "SCOPE_KIND_DISTRICT", "dst_a")).WatchOrder, watch_request(order.id)
    ) as stream:
        assert isinstance(await stream.wait_until_ended(), Denied)
    async with read_stream(shop.orders(consumer_grant()).WatchOrder, watch_request("ord_unknown")) as stream:
        assert isinstance(await stream.wait_until_ended(), NotFound)


async def test_watch_ends_when_order_leaves_scope(shop: Shop) -> None:
    order = await shop.place_order()
    async with read_stream(
        shop.orders(Grant("ROLE_STORE_MANAGER", "SCOPE_KIND_STORE", "str_near")).WatchOrder, watch_request(order.id)
    ) as stream:
        await stream.expect_responses(1)
        # No rule moves an order to another store today. The stream must not rely on that.
        moved = {"$set": {"store_id": "str_far", "batch_id": "secret"}, "$inc": {"version": 1}}
        await shop.database["orders"].update_one({"_id": order.id}, moved)
        refused = await stream.wait_until_ended()
        assert isinstance(refused, NotFound) and len(stream.responses) == 1


async def test_watch_by_brand_streams_its_part_only(shop: Shop) -> None:
    await shop.create_product("hat", brand_id="brd_b", sizes=(1,), minor=10_000)
    await shop.set_stock(variant_id="var_hat_1")
    lines = [pb.NewLine(variant_id=id, quantity=1) for id in ("var_shirt_40", "var_hat_1")]
    order = await shop.place_order(lines=lines)
    brand = Grant("ROLE_BRAND_OPERATOR", "SCOPE_KIND_BRAND", "brd_b")
    async with read_stream(shop.orders(brand).WatchOrder, watch_request(order.id)) as stream:
        (first,) = await stream.expect_responses(1)
        assert first.order.partial and [line.brand_id for line in first.order.lines] == ["brd_b"]
        postponement = {"$currentDate": {"sweep_at": True}, "$inc": {"version": 1}}
        await shop.database["orders"].update_one({"_id": order.id}, postponement)
        await cancel(shop, order)
        (_, second) = await stream.expect_responses(2)
        assert second.order.state == CANCELLED and second.order.partial
