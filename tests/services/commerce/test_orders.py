"""Orders over the wire: placed, paid exactly once, cancelled, seen by whom they concern, in the scenario they came from."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from quanyu.commerce.v1 import discovery_pb2, orders_pb2, stock_pb2
from quanyu.common.v1 import touch_pb2
from quanyu.common.v1.page_pb2 import PageRequest
from quanyu.common.v1.point_pb2 import Point
from quanyu.events.v1 import events_pb2
from services.commerce.events import handlers
from services.commerce.orders import model, rules
from services.commerce.orders.repository import OrderRepository
from services.commerce.stock import rules as stock_rules
from services.commerce.stock.repository import StockRepository
from services.kit import clock
from services.kit.errors import Conflict, Denied, Exhausted, Invalid, NotFound
from services.kit.mongo.change_streams import ChangeStreamHub
from services.kit.projections.persons import PersonProjection
from services.kit.security.principals import Grant
from services.kit.transactions.outbox import route
from tests.services.commerce.conftest import HERE, Shop, consumer, explained, fresh, of_brand, of_store
from tests.services.conftest import OPERATOR, Running
from tests.services.lists import first_pages, rows_read, says_the_same_of_each


async def test_commerce_hears_exactly_what_the_routes_say(commerce: Running) -> None:
    runtime, persons = commerce.runtime, PersonProjection(commerce.database)
    stocks, orders = (
        StockRepository(runtime.database, runtime.group_commit, persons),
        OrderRepository(runtime.database, ChangeStreamHub(runtime.database), persons),
    )
    kinds = events_pb2.Event.DESCRIPTOR.oneofs_by_name["body"].fields
    heard = {field.name for field in kinds if "commerce" in route(field.name).subscribers}
    assert set(handlers(runtime, stocks, orders, persons)) == heard


def paying(order_id: str, token: str = "approve") -> orders_pb2.PayOrderRequest:
    return orders_pb2.PayOrderRequest(request_id=fresh(), order_id=order_id, method=orders_pb2.PAYMENT_METHOD_SANDBOX, sandbox_token=token)


async def test_an_order_of_a_hold_keeps_the_hold_until_it_is_paid(shop: Shop) -> None:
    hold = await shop.held()
    order = await shop.placed(lines=[], hold_ids=[hold.id], store_id="", touchpoint=touch_pb2.TOUCHPOINT_MINI_PROGRAM)
    assert (order.state, order.store_id, order.seller_id) == (orders_pb2.ORDER_STATE_PLACED, "str_near", "brd_a")
    assert [(line.hold_id, line.paid.minor) for line in order.lines] == [(hold.id, 39_900)]
    assert order.pay_by.ToDatetime() - order.placed_at.ToDatetime() == rules.PAY_WITHIN
    assert await shop.row() == {"on_hand": 1, "reserved": 1}
    with pytest.raises(Conflict, match="HOLD_ORDERED"):
        await shop.stock(consumer()).ReleaseHold(stock_pb2.ReleaseHoldRequest(request_id=fresh(), hold_id=hold.id))
    with pytest.raises(Conflict, match="HOLD_ORDERED"):
        await shop.placed(lines=[], hold_ids=[hold.id])
    paid = (await shop.orders(consumer()).PayOrder(paying(order.id))).order
    assert (paid.state, paid.payment.amount.minor) == (orders_pb2.ORDER_STATE_PAID, 39_900)
    assert await shop.row() == {"on_hand": 0, "reserved": 0}
    kept = (await shop.stock(consumer()).GetHold(stock_pb2.GetHoldRequest(id=hold.id))).hold
    assert (kept.state, kept.order_id) == (stock_pb2.HOLD_STATE_SOLD, order.id)


async def test_paying_is_done_once_however_often_and_by_how_many(shop: Shop) -> None:
    order = await shop.placed()
    one = paying(order.id)
    requests = [one] * 25 + [paying(order.id) for _ in range(15)]
    stub = shop.orders(consumer())
    answers = await asyncio.gather(*(stub.PayOrder(request) for request in requests))
    assert len({answer.order.payment.id for answer in answers}) == 1
    assert {answer.order.state for answer in answers} == {orders_pb2.ORDER_STATE_PAID}
    assert await shop.row() == {"on_hand": 0, "reserved": 0}
    told = [event for event in await shop.commerce.events_told() if event.WhichOneof("body") == "order_paid"]
    assert [event.order_paid.order_id for event in told] == [order.id]
    summary = told[0].order_paid.order
    assert (summary.store_id, summary.seller_id, summary.lines[0].paid.minor) == ("str_near", "brd_a", 39_900)
    assert summary.paid_at == answers[0].order.paid_at
    one.sandbox_token = "decline"
    with pytest.raises(Conflict, match="REQUEST_ID_REUSED"):
        await stub.PayOrder(one)


async def test_a_declined_payment_leaves_the_order_open(shop: Shop) -> None:
    order = await shop.placed()
    declined = paying(order.id, "decline")
    for _ in range(2):
        with pytest.raises(Conflict, match="PAYMENT_DECLINED"):
            await shop.orders(consumer()).PayOrder(declined)
    assert await shop.row() == {"on_hand": 1, "reserved": 1}
    assert (await shop.orders(consumer()).PayOrder(paying(order.id))).order.state == orders_pb2.ORDER_STATE_PAID


async def test_the_last_one_is_ordered_once(shop: Shop) -> None:
    answers = await asyncio.gather(*(shop.placed(f"con_{place}") for place in range(20)), return_exceptions=True)
    assert sum(isinstance(answer, orders_pb2.Order) for answer in answers) == 1
    assert sum(isinstance(answer, Exhausted) for answer in answers) == 19
    await shop.check()


async def test_lines_are_taken_all_or_none_and_once(shop: Shop) -> None:
    await shop.product("hat", sizes=(1,), minor=10_000)
    await shop.stocked(variant_id="var_hat_1", on_hand=3)
    both = [orders_pb2.NewLine(variant_id="var_hat_1", quantity=2), orders_pb2.NewLine(variant_id="var_shirt_40", quantity=2)]
    with pytest.raises(Exhausted, match="OUT_OF_STOCK"):
        await shop.placed(lines=both)
    with pytest.raises(NotFound, match="STOCK_NOT_FOUND"):
        await shop.placed(lines=[orders_pb2.NewLine(variant_id="var_no", quantity=1)])
    assert await shop.row(variant_id="var_hat_1") == {"on_hand": 3, "reserved": 0}
    both[1].quantity = 1
    request = orders_pb2.PlaceOrderRequest(request_id=fresh(), consumer_id="con_a", store_id="str_near", lines=both)
    answers = await asyncio.gather(*(shop.orders(consumer()).PlaceOrder(request) for _ in range(10)))
    assert len({answer.order.id for answer in answers}) == 1
    assert answers[0].order.total.minor == 59_900
    assert await shop.row(variant_id="var_hat_1") == {"on_hand": 3, "reserved": 2}


async def test_unpaid_orders_count_among_the_holds_that_stand_for_a_consumer(shop: Shop) -> None:
    await shop.stocked(on_hand=100)
    held = [await shop.held() for _ in range(3)]
    answers = await asyncio.gather(*(shop.placed() for _ in range(25)), return_exceptions=True)
    orders = [answer for answer in answers if isinstance(answer, orders_pb2.Order)]
    refused = [answer for answer in answers if isinstance(answer, Exhausted)]
    assert (len(orders), len(refused)) == (stock_rules.HOLDS_MAX - 3, 25 - (stock_rules.HOLDS_MAX - 3))
    first = min(hold.expires_at.ToDatetime(UTC) for hold in held)
    assert {(refusal.reason, datetime.fromisoformat(refusal.metadata["free_at"])) for refusal in refused} == {("TOO_MANY_HOLDS", first)}
    assert await shop.row() == {"on_hand": 100, "reserved": stock_rules.HOLDS_MAX}
    with pytest.raises(Exhausted, match="TOO_MANY_HOLDS"):
        await shop.held()
    # What is held may be ordered all the same: it holds nothing more.
    of_holds = await shop.placed(lines=[], hold_ids=[hold.id for hold in held])
    with pytest.raises(Exhausted, match="TOO_MANY_HOLDS"):
        await shop.placed()
    await shop.placed("con_b")
    stub = shop.orders(consumer())
    over = {"$set": {"expires_at": clock.real() - timedelta(seconds=1)}}
    for end in (
        lambda: stub.PayOrder(paying(orders[0].id)),
        lambda: stub.CancelOrder(orders_pb2.CancelOrderRequest(request_id=fresh(), order_id=orders[1].id)),
        # Over by the clock, though no sweeper came yet.
        lambda: shop.database["holds"].update_one({"order_id": orders[2].id}, over),
    ):
        await end()
        await shop.placed()
        with pytest.raises(Exhausted, match="TOO_MANY_HOLDS"):
            await shop.placed()
    await stub.CancelOrder(orders_pb2.CancelOrderRequest(request_id=fresh(), order_id=of_holds.id))
    for _ in held:
        await shop.placed()
    with pytest.raises(Exhausted, match="TOO_MANY_HOLDS"):
        await shop.placed()
    await shop.check()


async def test_an_order_counts_once_however_many_lines_it_has(shop: Shop) -> None:
    sizes = tuple(range(model.LINES_MAX))
    await shop.product("shoe", sizes=sizes)
    for size in sizes:
        await shop.stocked(variant_id=f"var_shoe_{size}", on_hand=stock_rules.HOLDS_MAX)
    lines = [orders_pb2.NewLine(variant_id=f"var_shoe_{size}", quantity=1) for size in sizes]
    for _ in range(stock_rules.HOLDS_MAX):
        order = await shop.placed(lines=lines)
        assert len(order.lines) == model.LINES_MAX
    with pytest.raises(Exhausted, match="TOO_MANY_HOLDS"):
        await shop.placed(lines=lines)
    await shop.orders(consumer()).PayOrder(paying(order.id))
    await shop.held()
    with pytest.raises(Exhausted, match="TOO_MANY_HOLDS"):
        await shop.held()
    await shop.check()


async def test_a_cancelled_order_frees_its_goods_and_cannot_be_paid(shop: Shop) -> None:
    order = await shop.placed()
    cancel = orders_pb2.CancelOrderRequest(request_id=fresh(), order_id=order.id)
    stub = shop.orders(consumer())
    answers = await asyncio.gather(*(stub.CancelOrder(cancel) for _ in range(10)))
    assert {answer.order.state for answer in answers} == {orders_pb2.ORDER_STATE_CANCELLED}
    assert await shop.row() == {"on_hand": 1, "reserved": 0}
    await stub.CancelOrder(orders_pb2.CancelOrderRequest(request_id=fresh(), order_id=order.id))
    with pytest.raises(Conflict, match="ORDER_CANCELLED"):
        await stub.PayOrder(paying(order.id))
    other = await shop.placed()
    await stub.PayOrder(paying(other.id))
    with pytest.raises(Conflict, match="ORDER_PAID"):
        await stub.CancelOrder(orders_pb2.CancelOrderRequest(request_id=fresh(), order_id=other.id))


async def test_what_makes_no_order(shop: Shop) -> None:
    hold = await shop.held()
    with pytest.raises(Invalid, match="LINES_MISSING"):
        await shop.placed(lines=[])
    with pytest.raises(Invalid, match="LINES_MISSING"):
        await shop.placed(hold_ids=[hold.id])
    with pytest.raises(NotFound, match="HOLD_NOT_FOUND"):
        await shop.placed("con_b", lines=[], hold_ids=[hold.id])
    with pytest.raises(Denied):
        request = orders_pb2.PlaceOrderRequest(request_id=fresh(), consumer_id="con_a", hold_ids=[hold.id])
        await shop.orders(consumer("con_b")).PlaceOrder(request)
    with pytest.raises(Invalid, match="STORES_MIXED"):
        await shop.placed(lines=[], hold_ids=[hold.id], store_id="str_other")
    with pytest.raises(Invalid, match="DESTINATION_MISSING"):
        await shop.placed(lines=[], hold_ids=[hold.id], method=stock_pb2.METHOD_INSTANT_DELIVERY)
    for address in ("", " \u3000"):
        nowhere = orders_pb2.Destination(address=address, recipient="她")
        with pytest.raises(Invalid, match="DESTINATION_MISSING") as refused:
            await shop.placed(lines=[], hold_ids=[hold.id], method=stock_pb2.METHOD_INSTANT_DELIVERY, destination=nowhere)
        assert refused.value.metadata["field"] == "destination.address"
    await shop.store("str_far")
    await shop.stocked("str_far")
    far = await shop.held(store_id="str_far")
    with pytest.raises(Invalid, match="STORES_MIXED"):
        await shop.placed(lines=[], hold_ids=[hold.id, far.id], store_id="")


async def test_a_courier_is_given_a_number_that_can_be_rung(shop: Shop) -> None:
    for written in ("ring twice", "12"):
        with pytest.raises(Invalid, match="INVALID_PHONE") as refused:
            await shop.placed(destination=orders_pb2.Destination(address="三里屯路 1 号 808", phone=written))
        assert refused.value.metadata["field"] == "destination.phone"
    assert await shop.row() == {"on_hand": 1, "reserved": 0}
    await shop.placed(destination=orders_pb2.Destination(address="三里屯路 1 号 808", phone="+33 6 12 34 56 78"))


async def test_what_is_brought_goes_no_farther_than_its_store_delivers(shop: Shop) -> None:
    """By the rule that promises are made by, for goods that were held and for those that were not."""
    await shop.stocked(on_hand=9)
    here, far = (orders_pb2.Destination(address="三里屯路 1 号 808", position=place) for place in (HERE, Point(longitude=0, latitude=0)))
    nowhere = orders_pb2.Destination(address="三里屯路 1 号 808")
    hold = await shop.held()

    async def brought(destination: orders_pb2.Destination, **more: Any) -> orders_pb2.Order:
        return await shop.placed(method=stock_pb2.METHOD_INSTANT_DELIVERY, destination=destination, **more)

    of_hold: dict[str, Any] = {"lines": [], "hold_ids": [hold.id]}
    for more in ({}, of_hold):
        with pytest.raises(Conflict, match="NOT_DELIVERED_HERE"):
            await brought(far, **more)
    assert await shop.row() == {"on_hand": 9, "reserved": 1}
    for destination in (here, nowhere):
        await brought(destination)
    await shop.placed(destination=far)
    await brought(here, **of_hold)
    once = orders_pb2.PlaceOrderRequest(
        request_id=fresh(), consumer_id="con_a", store_id="str_near", method=stock_pb2.METHOD_INSTANT_DELIVERY, destination=here,
        lines=[orders_pb2.NewLine(variant_id="var_shirt_40", quantity=1)],
    )  # fmt: skip
    first = await shop.orders(consumer()).PlaceOrder(once)
    promised = discovery_pb2.HoldPromiseRequest(
        request_id=fresh(), consumer_id="con_a", store_id="str_near", variant_id="var_shirt_40", destination=HERE,
        method=stock_pb2.METHOD_INSTANT_DELIVERY,
    )  # fmt: skip
    kept = (await shop.discovery(consumer()).HoldPromise(promised)).hold
    await shop.store("str_near", delivers=False)
    for destination in (here, nowhere):
        with pytest.raises(Conflict, match="NOT_DELIVERED_HERE"):
            await brought(destination)
    # What was placed is answered as it was, and what was promised is kept: there, and nowhere else.
    assert await shop.orders(consumer()).PlaceOrder(once) == first
    with pytest.raises(Conflict, match="NOT_DELIVERED_HERE"):
        await brought(far, lines=[], hold_ids=[kept.id])
    await brought(here, lines=[], hold_ids=[kept.id])


async def test_a_destination_is_for_the_consumer_and_the_store_only(shop: Shop) -> None:
    await shop.stocked(on_hand=3)
    destination = orders_pb2.Destination(address="三里屯路 1 号 808", recipient="王女士", phone="13800000000", position=HERE)
    order = await shop.placed(method=stock_pb2.METHOD_INSTANT_DELIVERY, destination=destination)
    asked = orders_pb2.GetDestinationRequest(order_id=order.id)
    assert (await shop.orders(consumer()).GetDestination(asked)).destination == destination
    assert (await shop.orders(of_store(role="ROLE_GUIDE")).GetDestination(asked)).destination == destination
    for stranger in (consumer("con_b"), of_store("str_far")):
        with pytest.raises(NotFound, match="ORDER_NOT_FOUND"):
            await shop.orders(stranger).GetDestination(asked)
    with pytest.raises(Denied):
        await shop.orders(of_brand()).GetDestination(asked)
    several = orders_pb2.BatchGetDestinationsRequest(order_ids=[order.id, (await shop.placed()).id, "ord_none"])
    for who, shown in (
        (consumer(), [destination]),
        (of_store(role="ROLE_GUIDE"), [destination]),
        (consumer("con_b"), []),
        (of_store("str_far"), []),
    ):
        found = (await shop.orders(who).BatchGetDestinations(several)).destinations
        assert [(one.order_id, one.destination) for one in found] == [(order.id, one) for one in shown], "what is collected is left out"
    with pytest.raises(Denied):
        await shop.orders(of_brand()).BatchGetDestinations(several)
    with pytest.raises(Invalid, match="BATCH_TOO_LARGE"):
        await shop.orders(consumer()).BatchGetDestinations(orders_pb2.BatchGetDestinationsRequest(order_ids=[order.id] * 501))
    unopened = await shop.placed(method=stock_pb2.METHOD_INSTANT_DELIVERY, destination=destination)
    await shop.database["orders"].update_one({"_id": unopened.id}, {"$set": {"destination": b"sealed with a key that is gone"}})
    both = orders_pb2.BatchGetDestinationsRequest(order_ids=[order.id, unopened.id])
    found = (await shop.orders(consumer()).BatchGetDestinations(both)).destinations
    assert [one.order_id for one in found] == [order.id], "one that cannot be opened takes no other with it"
    everything = str([await shop.database[name].find().to_list(None) for name in await shop.database.raw.list_collection_names()])
    assert not any(word in everything for word in ("三里屯路", "王女士", "13800000000"))


async def test_the_scenario_is_derived_from_what_is_known(shop: Shop) -> None:
    await shop.stocked(on_hand=9)
    now = clock.now()

    async def scenario(**more: Any) -> tuple[str, str, str]:
        order = await shop.placed(touchpoint=touch_pb2.TOUCHPOINT_MINI_PROGRAM, **more)
        return touch_pb2.Scenario.Name(order.scenario), order.scenario_basis.rule, order.scenario_basis.evidence_id

    assert await scenario() == ("SCENARIO_AT_HOME", "otherwise", "")
    visit = {"visit_id": "vis_a", "consumer_id": "con_a", "district_id": "dst_a"}
    await shop.visit("visit_started", now - timedelta(hours=2), **visit)
    assert await scenario() == ("SCENARIO_DISTRICT_VISIT", "visit_open", "vis_a")
    await shop.visit("visit_left", now - timedelta(hours=1), **visit)
    assert await scenario() == ("SCENARIO_AT_HOME", "otherwise", "")
    await shop.visit("outreach_sent", now - timedelta(minutes=30), outreach_id="out_a", consumer_id="con_a", brand_id="brd_a")
    assert await scenario() == ("SCENARIO_OFF_STORE", "reached_after_visit", "out_a")
    assert await scenario(needed_by=now + timedelta(hours=2)) == ("SCENARIO_URGENT_NEED", "needed_soon", "")


async def test_goods_are_not_needed_before_they_are_asked_for_nor_in_years(shop: Shop) -> None:
    await shop.stocked(on_hand=9)
    hold = await shop.held()
    line = orders_pb2.NewLine(variant_id="var_shirt_40", quantity=1)
    holding = {"store_id": "str_near", "variant_id": "var_shirt_40", "quantity": 1}
    stock, orders = shop.stock(consumer()), shop.orders(consumer())
    for call, asked in (
        (stock.HoldStock, stock_pb2.HoldStockRequest(consumer_id="con_a", **holding)),
        (orders.PlaceOrder, orders_pb2.PlaceOrderRequest(consumer_id="con_a", store_id="str_near", lines=[line])),
        (orders.PlaceOrder, orders_pb2.PlaceOrderRequest(consumer_id="con_a", hold_ids=[hold.id])),
    ):
        for out in (
            clock.now() - stock_rules.NOW - timedelta(seconds=1),
            datetime(1, 1, 1, tzinfo=UTC),
            clock.now() + stock_rules.NEEDED_WITHIN + timedelta(minutes=1),
            datetime(9999, 12, 31, tzinfo=UTC),
        ):
            asked.needed_by.FromDatetime(out)
            asked.request_id = fresh()
            with pytest.raises(Invalid, match="INVALID_FIELD") as refused:
                await call(asked)
            assert refused.value.metadata["field"] == "needed_by"
    assert await shop.row() == {"on_hand": 9, "reserved": 1}
    # What was in time when it was asked for is answered again later, and what a hold says may be over when it is ordered.
    soon = stock_pb2.HoldStockRequest(request_id=fresh(), consumer_id="con_a", needed_by=clock.now(), **holding)
    first = await stock.HoldStock(soon)
    later = (stock_rules.NOW + timedelta(minutes=1)).total_seconds()
    assert (await shop.stock(consumer(), offset=later).HoldStock(soon)).hold == first.hold
    ordered = orders_pb2.PlaceOrderRequest(request_id=fresh(), consumer_id="con_a", hold_ids=[first.hold.id])
    placed = await shop.orders(consumer(), offset=later).PlaceOrder(ordered)
    assert placed.order.needed_by == soon.needed_by


async def test_who_sees_what_of_an_order(shop: Shop) -> None:
    """A retailer's store sells shirts of brd_a and hats of brd_b in one order."""
    await shop.store("str_mall", "rtl_m")
    await shop.product("hat", "brd_b", sizes=(1,), minor=10_000)
    await shop.stocked("str_mall")
    await shop.stocked("str_mall", "var_hat_1")
    lines = [orders_pb2.NewLine(variant_id="var_shirt_40", quantity=1), orders_pb2.NewLine(variant_id="var_hat_1", quantity=1)]
    order = await shop.placed(store_id="str_mall", lines=lines)
    await shop.orders(consumer()).PayOrder(paying(order.id))
    get = orders_pb2.GetOrderRequest(id=order.id)
    for whole in (consumer(), of_store("str_mall"), of_brand("rtl_m")):
        seen = (await shop.orders(whole).GetOrder(get)).order
        assert (len(seen.lines), seen.total.minor, seen.partial) == (2, 49_900, False)
    part = (await shop.orders(of_brand("brd_b")).GetOrder(get)).order
    assert [line.variant_id for line in part.lines] == ["var_hat_1"]
    assert (part.total.minor, part.amount.minor, part.partial, part.HasField("payment")) == (10_000, 10_000, True, False)
    listed = await shop.orders(of_brand("brd_b")).ListOrders(orders_pb2.ListOrdersRequest(brand_id="brd_b"))
    batch = await shop.orders(of_brand("brd_b")).BatchGetOrders(orders_pb2.BatchGetOrdersRequest(ids=[order.id, "ord_no"]))
    assert list(listed.orders) == list(batch.orders) == [part]
    for stranger in (consumer("con_b"), of_store("str_near"), of_brand("brd_c")):
        with pytest.raises(NotFound, match="ORDER_NOT_FOUND"):
            await shop.orders(stranger).GetOrder(get)
        assert list((await shop.orders(stranger).BatchGetOrders(orders_pb2.BatchGetOrdersRequest(ids=[order.id]))).orders) == []
        for asked in ({"consumer_id": "con_a"}, {"store_id": "str_mall"}, {"brand_id": "brd_b"}):
            assert list((await shop.orders(stranger).ListOrders(orders_pb2.ListOrdersRequest(**asked))).orders) == []
    # Not even the machine of a brand whose goods are in it changes an order that another store took.
    for pays in (consumer("con_b"), of_store("str_near"), Grant("ROLE_SERVICE", "SCOPE_KIND_BRAND", "brd_b")):
        with pytest.raises(NotFound, match="ORDER_NOT_FOUND"):
            await shop.orders(pays).PayOrder(paying(order.id))
        with pytest.raises(NotFound, match="ORDER_NOT_FOUND"):
            await shop.orders(pays).CancelOrder(orders_pb2.CancelOrderRequest(request_id=fresh(), order_id=order.id))


async def test_lists_go_page_by_page_latest_first(shop: Shop) -> None:
    await shop.stocked(on_hand=9)
    placed = [await shop.placed() for _ in range(5)]
    stub, seen, after = shop.orders(consumer()), [], ""
    for _ in range(3):
        answer = await stub.ListOrders(orders_pb2.ListOrdersRequest(consumer_id="con_a", page=PageRequest(first=2, after=after)))
        seen += [order.id for order in answer.orders]
        after = answer.page.end_cursor
    assert seen == [order.id for order in sorted(placed, key=lambda order: (-order.placed_at.ToMicroseconds(), order.id))]
    with pytest.raises(Invalid, match="INVALID_FIELD"):
        await stub.ListOrders(orders_pb2.ListOrdersRequest())


async def test_no_hot_query_reads_a_whole_collection(shop: Shop) -> None:
    await shop.stocked(on_hand=30)
    for place in range(12):
        await shop.placed(f"con_{place}")
    orders, latest = shop.database["orders"], [("placed_at", -1), ("_id", 1)]
    for query in ({"consumer_id": "con_a"}, {"store_id": "str_near"}, {"$or": [{"brand_ids": "brd_a"}, {"seller_id": "brd_a"}]}):
        stages = await explained(orders, query, latest)
        assert "IXSCAN" in stages
        assert not stages & {"COLLSCAN", "SORT"}
    for query in ({"sweep_at": {"$lte": clock.real()}}, {"rollback": True}):
        stages = await explained(orders, query)
        assert "IXSCAN" in stages
        assert "COLLSCAN" not in stages


async def test_the_first_orders_of_several_are_those_of_each_within_scope(shop: Shop) -> None:
    await shop.store("str_mall", "rtl_m")
    await shop.product("hat", "brd_b", sizes=(1,), minor=10_000)
    await shop.stocked(on_hand=9)
    await shop.stocked("str_mall", "var_hat_1", on_hand=9)
    for id in ("con_a", "con_a", "con_a", "con_b"):
        await shop.placed(id)
    await shop.placed("con_b", store_id="str_mall", lines=[orders_pb2.NewLine(variant_id="var_hat_1", quantity=1)])
    rpc, asked = (
        "OrderService.BatchListOrders",
        {
            "consumer_id": ["con_a", "con_b", "con_none"],
            "store_id": ["str_near", "str_mall", "str_none"],
            "brand_id": ["brd_a", "brd_b", "rtl_m", "brd_none"],
        },
    )
    for grant, own in (
        (OPERATOR, [{"con_a": 3, "con_b": 2}, {"str_near": 4, "str_mall": 1}, {"brd_a": 4, "brd_b": 1, "rtl_m": 1}]),
        (of_brand("brd_b"), [{"con_b": 1}, {"str_mall": 1}, {"brd_b": 1, "rtl_m": 1}]),
        (of_store("str_near", "ROLE_GUIDE"), [{"con_a": 3, "con_b": 1}, {"str_near": 4}, {"brd_a": 4}]),
        (consumer("con_c"), [{}, {}, {}]),
    ):
        found = [await says_the_same_of_each(shop.orders(grant), rpc, by, keys) for by, keys in asked.items()]
        assert found == own
    for given in ({}, {"consumer_ids": ["con_a"], "brand_ids": ["brd_a"]}):
        with pytest.raises(Invalid, match="INVALID_FIELD"):
            await shop.orders().BatchListOrders(orders_pb2.BatchListOrdersRequest(**given))
    for by, keys, most in (("consumer_id", ["con_a", "con_b"], 4), ("store_id", ["str_near", "str_mall"], 3), ("brand_id", ["brd_a"], 2)):
        assert await rows_read(shop.database, "orders", first_pages(shop.orders(), rpc, by, keys, 1)) == most
