"""Orders with coupons, with the real district service: a kill between two steps leaves goods, coupons and payment consistent."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from quanyu.commerce.v1 import orders_pb2
from services.commerce.catalog.repository import CatalogRepository
from services.commerce.orders.checkout import Checkout
from services.commerce.orders.coupons import CouponClient
from services.commerce.orders.repository import OrderRepository
from services.commerce.orders.rpc import OrderServicer
from services.commerce.stock.repository import StockRepository
from services.district.wallet.rules import Coupon
from services.kit import clock
from services.kit.errors import Conflict, NotFound, Unavailable
from services.kit.mongo.change_streams import ChangeStreamHub
from services.kit.mongo.codec import to_document
from services.kit.projections.persons import PersonProjection
from services.kit.runtime.runtime import Runtime
from services.kit.security.caller import SYSTEM, caller_context
from services.kit.values.money import Money
from tests.services.commerce.conftest import Shop, consumer_grant, new_key
from tests.services.conftest import ServiceHarness, Start

CANCELLED, PAID = "ORDER_STATE_CANCELLED", "ORDER_STATE_PAID"


class Mall(Shop):
    """The shop with a district service, whose coupons the tests read and write."""

    def __init__(self, commerce: ServiceHarness, district: ServiceHarness) -> None:
        super().__init__(commerce)
        self.district = district

    async def coupon(self, id: str = "cpn_a", brand_id: str = "brd_a", minor: int = 10_000, consumer_id: str = "con_a") -> None:
        """Inserts a coupon that the district issued to this consumer."""
        now = clock.now()
        coupon = Coupon(
            id, consumer_id, brand_id, "cmp_a", "dst_a", "pck_a", "满减", Money("CNY", minor), Money("CNY"), now, now + timedelta(days=7)
        )
        await self.district.database["coupons"].insert_one(to_document(coupon))

    async def coupon_state(self, id: str = "cpn_a") -> str:
        document = await self.district.database["coupons"].find_one({"_id": id})
        return str(document["state"]).removeprefix("COUPON_STATE_")

    def place_request(self, *coupon_ids: str, **more: Any) -> orders_pb2.PlaceOrderRequest:
        line = orders_pb2.NewLine(variant_id="var_shirt_40", quantity=1)
        fields: dict[str, Any] = {"request_id": new_key(), "consumer_id": "con_a", "store_id": "str_near", "lines": [line]} | more
        return orders_pb2.PlaceOrderRequest(coupon_ids=coupon_ids, **fields)

    def pay_request(self, order_id: str) -> orders_pb2.PayOrderRequest:
        method = orders_pb2.PAYMENT_METHOD_SANDBOX
        return orders_pb2.PayOrderRequest(request_id=new_key(), order_id=order_id, method=method, sandbox_token="approve")

    async def order(self) -> dict[str, Any]:
        """Returns the only order."""
        (document,) = await self.database["orders"].find().to_list(None)
        return dict(document)


@pytest.fixture
async def mall(start: Start) -> AsyncIterator[Mall]:
    services = await start("commerce", "district")
    mall = Mall(services["commerce"], services["district"])
    await mall.publish_store("str_near")
    await mall.create_product()
    await mall.set_stock()
    await mall.coupon()
    # The store is a venue of the district that issued the coupons.
    await mall.district.database["venues"].insert_one({"_id": "ven_near", "district_id": "dst_a", "store_id": "str_near"})
    yield mall


async def test_coupon_discounts_its_brand_and_is_spent(mall: Mall) -> None:
    await mall.create_product("hat", "brd_b", sizes=(1,), minor=10_000)
    await mall.set_stock(variant_id="var_hat_1")
    lines = [orders_pb2.NewLine(variant_id="var_shirt_40", quantity=1), orders_pb2.NewLine(variant_id="var_hat_1", quantity=1)]
    request = mall.place_request("cpn_a", lines=lines)
    stub = mall.orders(consumer_grant())
    answers = await asyncio.gather(*(stub.PlaceOrder(request) for _ in range(10)))
    assert all(answer == answers[0] for answer in answers)
    order = answers[0].order
    assert [(line.brand_id, line.discount.minor, line.paid.minor) for line in order.lines] == [
        ("brd_a", 10_000, 29_900),
        ("brd_b", 0, 10_000),
    ]
    assert (order.amount.minor, order.discount.minor, order.total.minor) == (49_900, 10_000, 39_900)
    assert await mall.coupon_state() == "LOCKED"
    pay = mall.pay_request(order.id)
    paid = await asyncio.gather(*(stub.PayOrder(pay) for _ in range(10)))
    assert {answer.order.payment.amount.minor for answer in paid} == {39_900}
    assert await mall.coupon_state() == "REDEEMED"
    assert (await stub.PlaceOrder(request)).order.state == orders_pb2.ORDER_STATE_PLACED
    paid_orders = [event.order_paid.order for event in await mall.commerce.published_events() if event.WhichOneof("body") == "order_paid"]
    assert [list(summary.coupon_ids) for summary in paid_orders] == [["cpn_a"]]
    assert [line.paid.minor for line in paid_orders[0].lines] == [29_900, 10_000]


async def test_refused_coupon_keeps_the_hold(mall: Mall) -> None:
    hold = await mall.hold()
    await mall.coupon("cpn_other", consumer_id="con_other")
    request = mall.place_request("cpn_other", lines=[], hold_ids=[hold.id])
    for _ in range(2):
        with pytest.raises(NotFound, match="COUPON_NOT_FOUND"):
            await mall.orders(consumer_grant()).PlaceOrder(request)
    kept = await mall.database["holds"].find_one({"_id": hold.id})
    assert (kept["state"], kept["order_id"]) == ("HOLD_STATE_HELD", "")
    assert (await mall.order())["state"] == CANCELLED
    again = await mall.orders(consumer_grant()).PlaceOrder(mall.place_request("cpn_a", lines=[], hold_ids=[hold.id]))
    assert again.order.total.minor == 29_900


async def test_cancelled_order_frees_the_coupon(mall: Mall) -> None:
    order = (await mall.orders(consumer_grant()).PlaceOrder(mall.place_request("cpn_a"))).order
    await mall.orders(consumer_grant()).CancelOrder(orders_pb2.CancelOrderRequest(request_id=new_key(), order_id=order.id))
    assert (await mall.coupon_state(), await mall.levels()) == ("ISSUED", {"on_hand": 1, "reserved": 0})
    assert (await mall.orders(consumer_grant()).PlaceOrder(mall.place_request("cpn_a"))).order.discount.minor == 10_000


async def test_concurrent_orders_spend_coupon_once(mall: Mall) -> None:
    await mall.set_stock(on_hand=10)
    answers = await asyncio.gather(
        *(mall.orders(consumer_grant()).PlaceOrder(mall.place_request("cpn_a")) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(answer, orders_pb2.PlaceOrderResponse) for answer in answers) == 1
    assert all(isinstance(answer, orders_pb2.PlaceOrderResponse | Conflict) for answer in answers)
    assert await mall.levels() == {"on_hand": 10, "reserved": 1}
    await mall.check_reserved()


# kills ---------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is killed here."""


class Replica:
    """Another process of commerce on the same database. It is killed at the step `dies_at`."""

    STEPS = ("begun", "locked", "approved", "confirmed", "settled")

    def __init__(self, runtime: Runtime, dies_at: str = "") -> None:
        persons, catalog = PersonProjection(runtime.database), CatalogRepository(runtime.database)
        stocks = StockRepository(runtime.database, runtime.group_commit, persons)
        repository = OrderRepository(runtime.database, ChangeStreamHub(runtime.database), persons)
        self.wallet = CouponClient(lambda: runtime.channels.district)
        self.checkout = Checkout(catalog, stocks, repository, self.wallet)
        self.orders = OrderServicer(runtime, catalog, stocks, repository, self.checkout)
        if dies_at == "begun":
            self.wallet.lock = self._before(self.wallet.lock)  # type: ignore[method-assign]
        elif dies_at == "locked":
            self.wallet.lock = self._after(self.wallet.lock)  # type: ignore[method-assign]
        elif dies_at == "approved":
            self.wallet.confirm = self._before(self.wallet.confirm)  # type: ignore[method-assign]
        elif dies_at == "confirmed":
            self.wallet.confirm = self._after(self.wallet.confirm)  # type: ignore[method-assign]
        elif dies_at == "settled":
            stocks.apply_hold_changes = self._after(stocks.apply_hold_changes)  # type: ignore[method-assign]

    @staticmethod
    def _before(step: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def die(*args: Any, **kwargs: Any) -> Any:
            raise Killed

        return die

    @staticmethod
    def _after(step: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def die(*args: Any, **kwargs: Any) -> Any:
            await step(*args, **kwargs)
            raise Killed

        return die


async def _place_and_pay(replica: Replica, place: orders_pb2.PlaceOrderRequest, pay: orders_pb2.PayOrderRequest) -> str:
    """Places an order, pays it and returns its id."""
    order = (await replica.orders.PlaceOrder(place, None)).order
    pay.order_id = order.id
    await replica.orders.PayOrder(pay, None)
    return order.id


@pytest.mark.parametrize("dies_at", Replica.STEPS)
async def test_repeated_calls_complete_order_after_kill(mall: Mall, dies_at: str) -> None:
    caller_context.set(SYSTEM)
    runtime, place, pay = mall.commerce.runtime, mall.place_request("cpn_a"), mall.pay_request("")
    with pytest.raises(Killed):
        await _place_and_pay(Replica(runtime, dies_at), place, pay)
    order_id = await _place_and_pay(Replica(runtime), place, pay)
    order = await mall.order()
    assert (order["_id"], order["state"], order["total"]["minor"]) == (order_id, PAID, 29_900)
    assert (await mall.coupon_state(), await mall.levels()) == ("REDEEMED", {"on_hand": 0, "reserved": 0})
    assert sum(event.WhichOneof("body") == "order_paid" for event in await mall.commerce.published_events()) == 1


@pytest.mark.parametrize("dies_at", Replica.STEPS)
async def test_sweeper_completes_order_after_kill(mall: Mall, dies_at: str) -> None:
    caller_context.set(SYSTEM)
    runtime = mall.commerce.runtime
    with pytest.raises(Killed):
        await _place_and_pay(Replica(runtime, dies_at), mall.place_request("cpn_a"), mall.pay_request(""))
    # The order is overdue by the machine's clock. Three sweepers run beside that of the service.
    await mall.database["orders"].update_many({"sweep_at": {"$exists": True}}, {"$set": {"sweep_at": clock.system_now()}})
    await asyncio.gather(*(Replica(runtime).checkout.sweep() for _ in range(3)))
    order, coupon, levels = await mall.order(), await mall.coupon_state(), await mall.levels()
    if dies_at in ("begun", "locked"):
        assert (order["state"], coupon, levels) == (CANCELLED, "ISSUED", {"on_hand": 1, "reserved": 0})
    else:
        assert (order["state"], coupon, levels) == (PAID, "REDEEMED", {"on_hand": 0, "reserved": 0})
    published = sum(event.WhichOneof("body") == "order_paid" for event in await mall.commerce.published_events())
    assert published == (order["state"] == PAID)
    await mall.check_reserved()


async def test_sweeper_cancels_unpaid_order(mall: Mall) -> None:
    caller_context.set(SYSTEM)
    order = (await mall.orders(consumer_grant()).PlaceOrder(mall.place_request("cpn_a"))).order
    checkout = Replica(mall.commerce.runtime).checkout
    assert await checkout.sweep() == 0
    await mall.database["orders"].update_one({"_id": order.id}, {"$set": {"sweep_at": clock.system_now() - timedelta(seconds=1)}})
    await asyncio.gather(*(checkout.sweep() for _ in range(3)))
    cancelled = await mall.order()
    assert (cancelled["state"], cancelled["cancel_reason"], cancelled["rollback"]) == (CANCELLED, "CANCEL_REASON_NOT_PAID", False)
    assert (await mall.coupon_state(), await mall.levels()) == ("ISSUED", {"on_hand": 1, "reserved": 0})
    with pytest.raises(Conflict, match="ORDER_CANCELLED"):
        await mall.orders(consumer_grant()).PayOrder(mall.pay_request(order.id))


async def test_concurrent_payment_and_sweep_exclude_each_other(mall: Mall) -> None:
    caller_context.set(SYSTEM)
    await mall.set_stock(on_hand=8)
    orders = [(await mall.orders(consumer_grant()).PlaceOrder(mall.place_request())).order for _ in range(8)]
    await mall.database["orders"].update_many({}, {"$set": {"sweep_at": clock.system_now()}})
    checkout = Replica(mall.commerce.runtime).checkout
    paying = [mall.orders(consumer_grant()).PayOrder(mall.pay_request(order.id)) for order in orders]
    answers = await asyncio.gather(checkout.sweep(), *paying, return_exceptions=True)
    documents = await mall.database["orders"].find().to_list(None)
    paid = sum(document["state"] == PAID for document in documents)
    assert paid == sum(isinstance(answer, orders_pb2.PayOrderResponse) for answer in answers)
    assert {document["state"] for document in documents} <= {PAID, CANCELLED}
    assert await mall.levels() == {"on_hand": 8 - paid, "reserved": 0}


async def test_lost_coupons_cancel_the_order(mall: Mall) -> None:
    order = (await mall.orders(consumer_grant()).PlaceOrder(mall.place_request("cpn_a"))).order
    caller_context.set(SYSTEM)
    await Replica(mall.commerce.runtime).wallet.roll_back(order.id)
    with pytest.raises(Conflict, match="COUPONS_LOST"):
        await mall.orders(consumer_grant()).PayOrder(mall.pay_request(order.id))
    cancelled = await mall.order()
    assert (cancelled["state"], cancelled.get("payment")) == (CANCELLED, None)
    assert await mall.levels() == {"on_hand": 1, "reserved": 0}


async def test_unavailable_wallet_leaves_a_consistent_order(shop: Shop) -> None:
    """The district is down: the order waits, and the same call may be repeated."""
    line = [orders_pb2.NewLine(variant_id="var_shirt_40", quantity=1)]
    request = orders_pb2.PlaceOrderRequest(request_id=new_key(), consumer_id="con_a", store_id="str_near", lines=line, coupon_ids=["cpn_a"])
    with pytest.raises(Unavailable):
        await shop.orders(consumer_grant()).PlaceOrder(request)
    order = await shop.database["orders"].find_one()
    assert order["state"] == "ORDER_STATE_PLACING"
    pay = orders_pb2.PayOrderRequest(
        request_id=new_key(), order_id=order["_id"], method=orders_pb2.PAYMENT_METHOD_SANDBOX, sandbox_token="approve"
    )
    with pytest.raises(Conflict, match="ORDER_NOT_PLACED"):
        await shop.orders(consumer_grant()).PayOrder(pay)
    cancel = orders_pb2.CancelOrderRequest(request_id=new_key(), order_id=order["_id"])
    assert (await shop.orders(consumer_grant()).CancelOrder(cancel)).order.state == orders_pb2.ORDER_STATE_CANCELLED
    # The goods are free at once. Only the coupon's rollback waits for the wallet.
    assert await shop.levels() == {"on_hand": 1, "reserved": 0}
    assert (await shop.database["orders"].find_one())["rollback"] is True
