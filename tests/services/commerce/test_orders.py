"""Orders by gRPC: placed, paid exactly once, cancelled, visible within scope, with their derived scenario."""

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
from services.kit.transactions.outbox import route_of
from tests.services.commerce.conftest import HERE, Shop, brand_grant, consumer_grant, new_key, plan_stages, store_grant
from tests.services.conftest import OPERATOR, ServiceHarness
from tests.services.lists import assert_batch_equals_lists, count_documents_read, fetch_first_pages


async def test_handlers_equal_the_event_routes(commerce: ServiceHarness) -> None:
    runtime, persons = commerce.runtime, PersonProjection(commerce.database)
    stocks, orders = (
        StockRepository(runtime.database, runtime.group_commit, persons),
        OrderRepository(runtime.database, ChangeStreamHub(runtime.database), persons),
    )
    kinds = events_pb2.Event.DESCRIPTOR.oneofs_by_name["body"].fields
    subscribed = {field.name for field in kinds if "commerce" in route_of(field.name).subscribers}
    assert set(handlers(runtime, stocks, orders, persons)) == subscribed


def payment_request(order_id: str, token: str = "approve") -> orders_pb2.PayOrderRequest:
    return orders_pb2.PayOrderRequest(
        request_id=new_key(), order_id=order_id, method=orders_pb2.PAYMENT_METHOD_SANDBOX, sandbox_token=token
    )


async def test_order_keeps_its_hold_until_paid(shop: Shop) -> None:
    hold = await shop.hold()
    order = await shop.place_order(lines=[], hold_ids=[hold.id], store_id="", touchpoint=touch_pb2.TOUCHPOINT_MINI_PROGRAM)
    assert (order.state, order.store_id, order.seller_id) == (orders_pb2.ORDER_STATE_PLACED, "str_near", "brd_a")
    assert [(line.hold_id, line.paid.minor) for line in order.lines] == [(hold.id, 39_900)]
    assert order.pay_by.ToDatetime() - order.placed_at.ToDatetime() == rules.PAY_WITHIN
    assert await shop.levels() == {"on_hand": 1, "reserved": 1}
    with pytest.raises(Conflict, match="HOLD_ORDERED"):
        await shop.stock(consumer_grant()).ReleaseHold(stock_pb2.ReleaseHoldRequest(request_id=new_key(), hold_id=hold.id))
    with pytest.raises(Conflict, match="HOLD_ORDERED"):
        await shop.place_order(lines=[], hold_ids=[hold.id])
    paid = (await shop.orders(consumer_grant()).PayOrder(payment_request(order.id))).order
    assert (paid.state, paid.payment.amount.minor) == (orders_pb2.ORDER_STATE_PAID, 39_900)
    assert await shop.levels() == {"on_hand": 0, "reserved": 0}
    sold = (await shop.stock(consumer_grant()).GetHold(stock_pb2.GetHoldRequest(id=hold.id))).hold
    assert (sold.state, sold.order_id) == (stock_pb2.HOLD_STATE_SOLD, order.id)


async def test_concurrent_payments_pay_once(shop: Shop) -> None:
    order = await shop.place_order()
    repeated = payment_request(order.id)
    requests = [repeated] * 25 + [payment_request(order.id) for _ in range(15)]
    stub = shop.orders(consumer_grant())
    answers = await asyncio.gather(*(stub.PayOrder(request) for request in requests))
    assert len({answer.order.payment.id for answer in answers}) == 1
    assert {answer.order.state for answer in answers} == {orders_pb2.ORDER_STATE_PAID}
    assert await shop.levels() == {"on_hand": 0, "reserved": 0}
    events = [event for event in await shop.commerce.published_events() if event.WhichOneof("body") == "order_paid"]
    assert [event.order_paid.order_id for event in events] == [order.id]
    summary = events[0].order_paid.order
    assert (summary.store_id, summary.seller_id, summary.lines[0].paid.minor) == ("str_near", "brd_a", 39_900)
    assert summary.paid_at == answers[0].order.paid_at
    repeated.sandbox_token = "decline"
    with pytest.raises(Conflict, match="REQUEST_ID_REUSED"):
        await stub.PayOrder(repeated)


async def test_declined_payment_leaves_order_open(shop: Shop) -> None:
    order = await shop.place_order()
    declined = payment_request(order.id, "decline")
    for _ in range(2):
        with pytest.raises(Conflict, match="PAYMENT_DECLINED"):
            await shop.orders(consumer_grant()).PayOrder(declined)
    assert await shop.levels() == {"on_hand": 1, "reserved": 1}
    assert (await shop.orders(consumer_grant()).PayOrder(payment_request(order.id))).order.state == orders_pb2.ORDER_STATE_PAID


async def test_concurrent_orders_of_last_piece_succeed_once(shop: Shop) -> None:
    answers = await asyncio.gather(*(shop.place_order(f"con_{number}") for number in range(20)), return_exceptions=True)
    assert sum(isinstance(answer, orders_pb2.Order) for answer in answers) == 1
    assert sum(isinstance(answer, Exhausted) for answer in answers) == 19
    await shop.check_reserved()


async def test_lines_are_held_all_or_none(shop: Shop) -> None:
    await shop.create_product("hat", sizes=(1,), minor=10_000)
    await shop.set_stock(variant_id="var_hat_1", on_hand=3)
    both = [orders_pb2.NewLine(variant_id="var_hat_1", quantity=2), orders_pb2.NewLine(variant_id="var_shirt_40", quantity=2)]
    with pytest.raises(Exhausted, match="OUT_OF_STOCK"):
        await shop.place_order(lines=both)
    with pytest.raises(NotFound, match="STOCK_NOT_FOUND"):
        await shop.place_order(lines=[orders_pb2.NewLine(variant_id="var_no", quantity=1)])
    assert await shop.levels(variant_id="var_hat_1") == {"on_hand": 3, "reserved": 0}
    both[1].quantity = 1
    request = orders_pb2.PlaceOrderRequest(request_id=new_key(), consumer_id="con_a", store_id="str_near", lines=both)
    answers = await asyncio.gather(*(shop.orders(consumer_grant()).PlaceOrder(request) for _ in range(10)))
    assert len({answer.order.id for answer in answers}) == 1
    assert answers[0].order.total.minor == 59_900
    assert await shop.levels(variant_id="var_hat_1") == {"on_hand": 3, "reserved": 2}


async def test_unpaid_orders_count_against_the_quota(shop: Shop) -> None:
    await shop.set_stock(on_hand=100)
    held = [await shop.hold() for _ in range(3)]
    answers = await asyncio.gather(*(shop.place_order() for _ in range(25)), return_exceptions=True)
    orders = [answer for answer in answers if isinstance(answer, orders_pb2.Order)]
    refusals = [answer for answer in answers if isinstance(answer, Exhausted)]
    assert (len(orders), len(refusals)) == (stock_rules.HOLDS_MAX - 3, 25 - (stock_rules.HOLDS_MAX - 3))
    first = min(hold.expires_at.ToDatetime(UTC) for hold in held)
    assert {(refusal.reason, datetime.fromisoformat(refusal.metadata["free_at"])) for refusal in refusals} == {("TOO_MANY_HOLDS", first)}
    assert await shop.levels() == {"on_hand": 100, "reserved": stock_rules.HOLDS_MAX}
    with pytest.raises(Exhausted, match="TOO_MANY_HOLDS"):
        await shop.hold()
    # An order of held goods needs no more quota.
    of_holds = await shop.place_order(lines=[], hold_ids=[hold.id for hold in held])
    with pytest.raises(Exhausted, match="TOO_MANY_HOLDS"):
        await shop.place_order()
    await shop.place_order("con_b")
    stub = shop.orders(consumer_grant())
    overdue = {"$set": {"expires_at": clock.system_now() - timedelta(seconds=1)}}
    for end_order in (
        lambda: stub.PayOrder(payment_request(orders[0].id)),
        lambda: stub.CancelOrder(orders_pb2.CancelOrderRequest(request_id=new_key(), order_id=orders[1].id)),
        # The hold is overdue, and no sweeper has expired it yet.
        lambda: shop.database["holds"].update_one({"order_id": orders[2].id}, overdue),
    ):
        await end_order()
        await shop.place_order()
        with pytest.raises(Exhausted, match="TOO_MANY_HOLDS"):
            await shop.place_order()
    await stub.CancelOrder(orders_pb2.CancelOrderRequest(request_id=new_key(), order_id=of_holds.id))
    for _ in held:
        await shop.place_order()
    with pytest.raises(Exhausted, match="TOO_MANY_HOLDS"):
        await shop.place_order()
    await shop.check_reserved()


async def test_order_with_many_lines_counts_once(shop: Shop) -> None:
    sizes = tuple(range(model.LINES_MAX))
    await shop.create_product("shoe", sizes=sizes)
    for size in sizes:
        await shop.set_stock(variant_id=f"var_shoe_{size}", on_hand=stock_rules.HOLDS_MAX)
    lines = [orders_pb2.NewLine(variant_id=f"var_shoe_{size}", quantity=1) for size in sizes]
    for _ in range(stock_rules.HOLDS_MAX):
        order = await shop.place_order(lines=lines)
        assert len(order.lines) == model.LINES_MAX
    with pytest.raises(Exhausted, match="TOO_MANY_HOLDS"):
        await shop.place_order(lines=lines)
    await shop.orders(consumer_grant()).PayOrder(payment_request(order.id))
    await shop.hold()
    with pytest.raises(Exhausted, match="TOO_MANY_HOLDS"):
        await shop.hold()
    await shop.check_reserved()


async def test_cancelled_order_frees_goods_and_refuses_payment(shop: Shop) -> None:
    order = await shop.place_order()
    cancel = orders_pb2.CancelOrderRequest(request_id=new_key(), order_id=order.id)
    stub = shop.orders(consumer_grant())
    answers = await asyncio.gather(*(stub.CancelOrder(cancel) for _ in range(10)))
    assert {answer.order.state for answer in answers} == {orders_pb2.ORDER_STATE_CANCELLED}
    assert await shop.levels() == {"on_hand": 1, "reserved": 0}
    await stub.CancelOrder(orders_pb2.CancelOrderRequest(request_id=new_key(), order_id=order.id))
    with pytest.raises(Conflict, match="ORDER_CANCELLED"):
        await stub.PayOrder(payment_request(order.id))
    other = await shop.place_order()
    await stub.PayOrder(payment_request(other.id))
    with pytest.raises(Conflict, match="ORDER_PAID"):
        await stub.CancelOrder(orders_pb2.CancelOrderRequest(request_id=new_key(), order_id=other.id))


async def test_place_order_with_invalid_fields_is_refused(shop: Shop) -> None:
    hold = await shop.hold()
    with pytest.raises(Invalid, match="LINES_MISSING"):
        await shop.place_order(lines=[])
    with pytest.raises(Invalid, match="LINES_MISSING"):
        await shop.place_order(hold_ids=[hold.id])
    with pytest.raises(NotFound, match="HOLD_NOT_FOUND"):
        await shop.place_order("con_b", lines=[], hold_ids=[hold.id])
    with pytest.raises(Denied):
        request = orders_pb2.PlaceOrderRequest(request_id=new_key(), consumer_id="con_a", hold_ids=[hold.id])
        await shop.orders(consumer_grant("con_b")).PlaceOrder(request)
    with pytest.raises(Invalid, match="STORES_MIXED"):
        await shop.place_order(lines=[], hold_ids=[hold.id], store_id="str_other")
    with pytest.raises(Invalid, match="DESTINATION_MISSING"):
        await shop.place_order(lines=[], hold_ids=[hold.id], method=stock_pb2.METHOD_INSTANT_DELIVERY)
    for address in ("", " \u3000"):
        nowhere = orders_pb2.Destination(address=address, recipient="她")
        with pytest.raises(Invalid, match="DESTINATION_MISSING") as refusal:
            await shop.place_order(lines=[], hold_ids=[hold.id], method=stock_pb2.METHOD_INSTANT_DELIVERY, destination=nowhere)
        assert refusal.value.metadata["field"] == "destination.address"
    await shop.publish_store("str_far")
    await shop.set_stock("str_far")
    far = await shop.hold(store_id="str_far")
    with pytest.raises(Invalid, match="STORES_MIXED"):
        await shop.place_order(lines=[], hold_ids=[hold.id, far.id], store_id="")


async def test_destination_with_invalid_phone_is_refused(shop: Shop) -> None:
    for written in ("ring twice", "12"):
        with pytest.raises(Invalid, match="INVALID_PHONE") as refusal:
            await shop.place_order(destination=orders_pb2.Destination(address="三里屯路 1 号 808", phone=written))
        assert refusal.value.metadata["field"] == "destination.phone"
    assert await shop.levels() == {"on_hand": 1, "reserved": 0}
    await shop.place_order(destination=orders_pb2.Destination(address="三里屯路 1 号 808", phone="+33 6 12 34 56 78"))


async def test_delivery_beyond_the_store_range_is_refused(shop: Shop) -> None:
    """The rule is that of promises, for held goods and for others."""
    await shop.set_stock(on_hand=9)
    here, far = (orders_pb2.Destination(address="三里屯路 1 号 808", position=place) for place in (HERE, Point(longitude=0, latitude=0)))
    nowhere = orders_pb2.Destination(address="三里屯路 1 号 808")
    hold = await shop.hold()

    async def deliver_to(destination: orders_pb2.Destination, **more: Any) -> orders_pb2.Order:
        return await shop.place_order(method=stock_pb2.METHOD_INSTANT_DELIVERY, destination=destination, **more)

    of_hold: dict[str, Any] = {"lines": [], "hold_ids": [hold.id]}
    for more in ({}, of_hold):
        with pytest.raises(Conflict, match="NOT_DELIVERED_HERE"):
            await deliver_to(far, **more)
    assert await shop.levels() == {"on_hand": 9, "reserved": 1}
    for destination in (here, nowhere):
        await deliver_to(destination)
    await shop.place_order(destination=far)
    await deliver_to(here, **of_hold)
    request = orders_pb2.PlaceOrderRequest(
        request_id=new_key(), consumer_id="con_a", store_id="str_near", method=stock_pb2.METHOD_INSTANT_DELIVERY, destination=here,
        lines=[orders_pb2.NewLine(variant_id="var_shirt_40", quantity=1)],
    )  # fmt: skip
    first = await shop.orders(consumer_grant()).PlaceOrder(request)
    promise_request = discovery_pb2.HoldPromiseRequest(
        request_id=new_key(), consumer_id="con_a", store_id="str_near", variant_id="var_shirt_40", destination=HERE,
        method=stock_pb2.METHOD_INSTANT_DELIVERY,
    )  # fmt: skip
    kept = (await shop.discovery(consumer_grant()).HoldPromise(promise_request)).hold
    await shop.publish_store("str_near", delivers=False)
    for destination in (here, nowhere):
        with pytest.raises(Conflict, match="NOT_DELIVERED_HERE"):
            await deliver_to(destination)
    # A repeat returns the first answer, and a promised delivery is kept, to no other place.
    assert await shop.orders(consumer_grant()).PlaceOrder(request) == first
    with pytest.raises(Conflict, match="NOT_DELIVERED_HERE"):
        await deliver_to(far, lines=[], hold_ids=[kept.id])
    await deliver_to(here, lines=[], hold_ids=[kept.id])


async def test_destination_is_visible_to_consumer_and_store(shop: Shop) -> None:
    await shop.set_stock(on_hand=3)
    destination = orders_pb2.Destination(address="三里屯路 1 号 808", recipient="王女士", phone="13800000000", position=HERE)
    order = await shop.place_order(method=stock_pb2.METHOD_INSTANT_DELIVERY, destination=destination)
    request = orders_pb2.GetDestinationRequest(order_id=order.id)
    assert (await shop.orders(consumer_grant()).GetDestination(request)).destination == destination
    assert (await shop.orders(store_grant(role="ROLE_GUIDE")).GetDestination(request)).destination == destination
    for stranger in (consumer_grant("con_b"), store_grant("str_far")):
        with pytest.raises(NotFound, match="ORDER_NOT_FOUND"):
            await shop.orders(stranger).GetDestination(request)
    with pytest.raises(Denied):
        await shop.orders(brand_grant()).GetDestination(request)
    batch = orders_pb2.BatchGetDestinationsRequest(order_ids=[order.id, (await shop.place_order()).id, "ord_none"])
    for grant, visible in (
        (consumer_grant(), [destination]),
        (store_grant(role="ROLE_GUIDE"), [destination]),
        (consumer_grant("con_b"), []),
        (store_grant("str_far"), []),
    ):
        found = (await shop.orders(grant).BatchGetDestinations(batch)).destinations
        assert [(one.order_id, one.destination) for one in found] == [(order.id, one) for one in visible], (
            "an order for pickup has no destination"
        )
    with pytest.raises(Denied):
        await shop.orders(brand_grant()).BatchGetDestinations(batch)
    with pytest.raises(Invalid, match="BATCH_TOO_LARGE"):
        await shop.orders(consumer_grant()).BatchGetDestinations(orders_pb2.BatchGetDestinationsRequest(order_ids=[order.id] * 501))
    undecryptable = await shop.place_order(method=stock_pb2.METHOD_INSTANT_DELIVERY, destination=destination)
    await shop.database["orders"].update_one({"_id": undecryptable.id}, {"$set": {"destination": b"encrypted with a lost key"}})
    both = orders_pb2.BatchGetDestinationsRequest(order_ids=[order.id, undecryptable.id])
    found = (await shop.orders(consumer_grant()).BatchGetDestinations(both)).destinations
    assert [one.order_id for one in found] == [order.id], "a destination that cannot be decrypted does not fail the others"
    database_text = str([await shop.database[name].find().to_list(None) for name in await shop.database.raw.list_collection_names()])
    assert not any(word in database_text for word in ("三里屯路", "王女士", "13800000000"))


async def test_scenario_is_derived_from_events(shop: Shop) -> None:
    await shop.set_stock(on_hand=9)
    now = clock.now()

    async def scenario(**more: Any) -> tuple[str, str, str]:
        order = await shop.place_order(touchpoint=touch_pb2.TOUCHPOINT_MINI_PROGRAM, **more)
        return touch_pb2.Scenario.Name(order.scenario), order.scenario_basis.rule, order.scenario_basis.evidence_id

    assert await scenario() == ("SCENARIO_AT_HOME", "otherwise", "")
    visit = {"visit_id": "vis_a", "consumer_id": "con_a", "district_id": "dst_a"}
    await shop.publish_visit("visit_started", now - timedelta(hours=2), **visit)
    assert await scenario() == ("SCENARIO_DISTRICT_VISIT", "visit_open", "vis_a")
    await shop.publish_visit("visit_left", now - timedelta(hours=1), **visit)
    assert await scenario() == ("SCENARIO_AT_HOME", "otherwise", "")
    await shop.publish_visit("outreach_sent", now - timedelta(minutes=30), outreach_id="out_a", consumer_id="con_a", brand_id="brd_a")
    assert await scenario() == ("SCENARIO_OFF_STORE", "reached_after_visit", "out_a")
    assert await scenario(needed_by=now + timedelta(hours=2)) == ("SCENARIO_URGENT_NEED", "needed_soon", "")


async def test_needed_by_out_of_bounds_is_refused(shop: Shop) -> None:
    await shop.set_stock(on_hand=9)
    hold = await shop.hold()
    line = orders_pb2.NewLine(variant_id="var_shirt_40", quantity=1)
    holding = {"store_id": "str_near", "variant_id": "var_shirt_40", "quantity": 1}
    stock, orders = shop.stock(consumer_grant()), shop.orders(consumer_grant())
    for call, request in (
        (stock.HoldStock, stock_pb2.HoldStockRequest(consumer_id="con_a", **holding)),
        (orders.PlaceOrder, orders_pb2.PlaceOrderRequest(consumer_id="con_a", store_id="str_near", lines=[line])),
        (orders.PlaceOrder, orders_pb2.PlaceOrderRequest(consumer_id="con_a", hold_ids=[hold.id])),
    ):
        for needed_by in (
            clock.now() - stock_rules.NEEDED_BY_TOLERANCE - timedelta(seconds=1),
            datetime(1, 1, 1, tzinfo=UTC),
            clock.now() + stock_rules.NEEDED_WITHIN + timedelta(minutes=1),
            datetime(9999, 12, 31, tzinfo=UTC),
        ):
            request.needed_by.FromDatetime(needed_by)
            request.request_id = new_key()
            with pytest.raises(Invalid, match="INVALID_FIELD") as refusal:
                await call(request)
            assert refusal.value.metadata["field"] == "needed_by"
    assert await shop.levels() == {"on_hand": 9, "reserved": 1}
    # A repeat returns the first answer even when `needed_by` has passed, and a hold may be ordered then.
    soon = stock_pb2.HoldStockRequest(request_id=new_key(), consumer_id="con_a", needed_by=clock.now(), **holding)
    first = await stock.HoldStock(soon)
    later = (stock_rules.NEEDED_BY_TOLERANCE + timedelta(minutes=1)).total_seconds()
    assert (await shop.stock(consumer_grant(), offset=later).HoldStock(soon)).hold == first.hold
    order_request = orders_pb2.PlaceOrderRequest(request_id=new_key(), consumer_id="con_a", hold_ids=[first.hold.id])
    placed = await shop.orders(consumer_grant(), offset=later).PlaceOrder(order_request)
    assert placed.order.needed_by == soon.needed_by


async def test_order_is_redacted_by_scope(shop: Shop) -> None:
    """A retailer's store sells shirts of brd_a and hats of brd_b in one order."""
    await shop.publish_store("str_mall", "rtl_m")
    await shop.create_product("hat", "brd_b", sizes=(1,), minor=10_000)
    await shop.set_stock("str_mall")
    await shop.set_stock("str_mall", "var_hat_1")
    lines = [orders_pb2.NewLine(variant_id="var_shirt_40", quantity=1), orders_pb2.NewLine(variant_id="var_hat_1", quantity=1)]
    order = await shop.place_order(store_id="str_mall", lines=lines)
    await shop.orders(consumer_grant()).PayOrder(payment_request(order.id))
    get = orders_pb2.GetOrderRequest(id=order.id)
    for grant in (consumer_grant(), store_grant("str_mall"), brand_grant("rtl_m")):
        whole = (await shop.orders(grant).GetOrder(get)).order
        assert (len(whole.lines), whole.total.minor, whole.partial) == (2, 49_900, False)
    part = (await shop.orders(brand_grant("brd_b")).GetOrder(get)).order
    assert [line.variant_id for line in part.lines] == ["var_hat_1"]
    assert (part.total.minor, part.amount.minor, part.partial, part.HasField("payment")) == (10_000, 10_000, True, False)
    listed = await shop.orders(brand_grant("brd_b")).ListOrders(orders_pb2.ListOrdersRequest(brand_id="brd_b"))
    batch = await shop.orders(brand_grant("brd_b")).BatchGetOrders(orders_pb2.BatchGetOrdersRequest(ids=[order.id, "ord_no"]))
    assert list(listed.orders) == list(batch.orders) == [part]
    for stranger in (consumer_grant("con_b"), store_grant("str_near"), brand_grant("brd_c")):
        with pytest.raises(NotFound, match="ORDER_NOT_FOUND"):
            await shop.orders(stranger).GetOrder(get)
        assert list((await shop.orders(stranger).BatchGetOrders(orders_pb2.BatchGetOrdersRequest(ids=[order.id]))).orders) == []
        for criteria in ({"consumer_id": "con_a"}, {"store_id": "str_mall"}, {"brand_id": "brd_b"}):
            assert list((await shop.orders(stranger).ListOrders(orders_pb2.ListOrdersRequest(**criteria))).orders) == []
    # A brand with goods in the order may not change an order of another brand's store, not even as a service.
    for stranger in (consumer_grant("con_b"), store_grant("str_near"), Grant("ROLE_SERVICE", "SCOPE_KIND_BRAND", "brd_b")):
        with pytest.raises(NotFound, match="ORDER_NOT_FOUND"):
            await shop.orders(stranger).PayOrder(payment_request(order.id))
        with pytest.raises(NotFound, match="ORDER_NOT_FOUND"):
            await shop.orders(stranger).CancelOrder(orders_pb2.CancelOrderRequest(request_id=new_key(), order_id=order.id))


async def test_orders_are_listed_latest_first_in_pages(shop: Shop) -> None:
    await shop.set_stock(on_hand=9)
    placed = [await shop.place_order() for _ in range(5)]
    stub, listed, after = shop.orders(consumer_grant()), [], ""
    for _ in range(3):
        answer = await stub.ListOrders(orders_pb2.ListOrdersRequest(consumer_id="con_a", page=PageRequest(first=2, after=after)))
        listed += [order.id for order in answer.orders]
        after = answer.page.end_cursor
    assert listed == [order.id for order in sorted(placed, key=lambda order: (-order.placed_at.ToMicroseconds(), order.id))]
    with pytest.raises(Invalid, match="INVALID_FIELD"):
        await stub.ListOrders(orders_pb2.ListOrdersRequest())


async def test_order_queries_use_indexes(shop: Shop) -> None:
    await shop.set_stock(on_hand=30)
    for number in range(12):
        await shop.place_order(f"con_{number}")
    orders, latest = shop.database["orders"], [("placed_at", -1), ("_id", 1)]
    for query in ({"consumer_id": "con_a"}, {"store_id": "str_near"}, {"$or": [{"brand_ids": "brd_a"}, {"seller_id": "brd_a"}]}):
        stages = await plan_stages(orders, query, latest)
        assert "IXSCAN" in stages
        assert not stages & {"COLLSCAN", "SORT"}
    for query in ({"sweep_at": {"$lte": clock.system_now()}}, {"rollback": True}):
        stages = await plan_stages(orders, query)
        assert "IXSCAN" in stages
        assert "COLLSCAN" not in stages


async def test_batch_lists_equal_single_lists_within_scope(shop: Shop) -> None:
    await shop.publish_store("str_mall", "rtl_m")
    await shop.create_product("hat", "brd_b", sizes=(1,), minor=10_000)
    await shop.set_stock(on_hand=9)
    await shop.set_stock("str_mall", "var_hat_1", on_hand=9)
    for id in ("con_a", "con_a", "con_a", "con_b"):
        await shop.place_order(id)
    await shop.place_order("con_b", store_id="str_mall", lines=[orders_pb2.NewLine(variant_id="var_hat_1", quantity=1)])
    rpc, criteria = (
        "OrderService.BatchListOrders",
        {
            "consumer_id": ["con_a", "con_b", "con_none"],
            "store_id": ["str_near", "str_mall", "str_none"],
            "brand_id": ["brd_a", "brd_b", "rtl_m", "brd_none"],
        },
    )
    for grant, counts in (
        (OPERATOR, [{"con_a": 3, "con_b": 2}, {"str_near": 4, "str_mall": 1}, {"brd_a": 4, "brd_b": 1, "rtl_m": 1}]),
        (brand_grant("brd_b"), [{"con_b": 1}, {"str_mall": 1}, {"brd_b": 1, "rtl_m": 1}]),
        (store_grant("str_near", "ROLE_GUIDE"), [{"con_a": 3, "con_b": 1}, {"str_near": 4}, {"brd_a": 4}]),
        (consumer_grant("con_c"), [{}, {}, {}]),
    ):
        found = [await assert_batch_equals_lists(shop.orders(grant), rpc, by, keys) for by, keys in criteria.items()]
        assert found == counts
    for fields in ({}, {"consumer_ids": ["con_a"], "brand_ids": ["brd_a"]}):
        with pytest.raises(Invalid, match="INVALID_FIELD"):
            await shop.orders().BatchListOrders(orders_pb2.BatchListOrdersRequest(**fields))
    for by, keys, documents in (
        ("consumer_id", ["con_a", "con_b"], 4),
        ("store_id", ["str_near", "str_mall"], 3),
        ("brand_id", ["brd_a"], 2),
    ):
        assert await count_documents_read(shop.database, "orders", fetch_first_pages(shop.orders(), rpc, by, keys, 1)) == documents
