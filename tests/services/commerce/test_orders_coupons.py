"""Orders with coupons, beside the real district: no kill between two steps leaves goods, coupons or money in between."""

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
from services.kit.mongo.codec import as_document
from services.kit.projections.persons import PersonProjection
from services.kit.runtime.runtime import Runtime
from services.kit.security import authorization
from services.kit.values.money import Money
from tests.services.commerce.conftest import Shop, consumer, fresh
from tests.services.conftest import Running, Start

CANCELLED, PAID = "ORDER_STATE_CANCELLED", "ORDER_STATE_PAID"


class Mall(Shop):
    """The shop beside a district whose coupons can be looked at."""

    def __init__(self, commerce: Running, district: Running) -> None:
        super().__init__(commerce)
        self.district = district

    async def coupon(self, id: str = "cpn_a", brand_id: str = "brd_a", minor: int = 10_000, consumer_id: str = "con_a") -> None:
        """A coupon that the district gave this consumer."""
        now = clock.now()
        coupon = Coupon(
            id, consumer_id, brand_id, "cmp_a", "dst_a", "pck_a", "满减", Money("CNY", minor), Money("CNY"), now, now + timedelta(days=7)
        )
        await self.district.database["coupons"].insert_one(as_document(coupon))

    async def coupon_state(self, id: str = "cpn_a") -> str:
        row = await self.district.database["coupons"].find_one({"_id": id})
        return str(row["state"]).removeprefix("COUPON_STATE_")

    def place(self, *coupon_ids: str, **more: Any) -> orders_pb2.PlaceOrderRequest:
        line = orders_pb2.NewLine(variant_id="var_shirt_40", quantity=1)
        given: dict[str, Any] = {"request_id": fresh(), "consumer_id": "con_a", "store_id": "str_near", "lines": [line]} | more
        return orders_pb2.PlaceOrderRequest(coupon_ids=coupon_ids, **given)

    def pay(self, order_id: str) -> orders_pb2.PayOrderRequest:
        method = orders_pb2.PAYMENT_METHOD_SANDBOX
        return orders_pb2.PayOrderRequest(request_id=fresh(), order_id=order_id, method=method, sandbox_token="approve")

    async def order(self) -> dict[str, Any]:
        """The only order."""
        (row,) = await self.database["orders"].find().to_list(None)
        return dict(row)


@pytest.fixture
async def mall(start: Start) -> AsyncIterator[Mall]:
    services = await start("commerce", "district")
    mall = Mall(services["commerce"], services["district"])
    await mall.store("str_near")
    await mall.product()
    await mall.stocked()
    await mall.coupon()
    # The store is a venue of the district whose coupons these are.
    await mall.district.database["venues"].insert_one({"_id": "ven_near", "district_id": "dst_a", "store_id": "str_near"})
    yield mall


async def test_a_coupon_makes_its_brands_lines_cheaper_and_is_spent_when_paid(mall: Mall) -> None:
    await mall.product("hat", "brd_b", sizes=(1,), minor=10_000)
    await mall.stocked(variant_id="var_hat_1")
    lines = [orders_pb2.NewLine(variant_id="var_shirt_40", quantity=1), orders_pb2.NewLine(variant_id="var_hat_1", quantity=1)]
    request = mall.place("cpn_a", lines=lines)
    stub = mall.orders(consumer())
    answers = await asyncio.gather(*(stub.PlaceOrder(request) for _ in range(10)))
    assert all(answer == answers[0] for answer in answers)
    order = answers[0].order
    assert [(line.brand_id, line.discount.minor, line.paid.minor) for line in order.lines] == [
        ("brd_a", 10_000, 29_900),
        ("brd_b", 0, 10_000),
    ]
    assert (order.amount.minor, order.discount.minor, order.total.minor) == (49_900, 10_000, 39_900)
    assert await mall.coupon_state() == "LOCKED"
    pay = mall.pay(order.id)
    paid = await asyncio.gather(*(stub.PayOrder(pay) for _ in range(10)))
    assert {answer.order.payment.amount.minor for answer in paid} == {39_900}
    assert await mall.coupon_state() == "REDEEMED"
    assert (await stub.PlaceOrder(request)).order.state == orders_pb2.ORDER_STATE_PLACED
    told = [event.order_paid.order for event in await mall.commerce.events_told() if event.WhichOneof("body") == "order_paid"]
    assert [list(summary.coupon_ids) for summary in told] == [["cpn_a"]]
    assert [line.paid.minor for line in told[0].lines] == [29_900, 10_000]


async def test_a_refused_coupon_leaves_held_goods_held(mall: Mall) -> None:
    hold = await mall.held()
    await mall.coupon("cpn_other", consumer_id="con_other")
    request = mall.place("cpn_other", lines=[], hold_ids=[hold.id])
    for _ in range(2):
        with pytest.raises(NotFound, match="COUPON_NOT_FOUND"):
            await mall.orders(consumer()).PlaceOrder(request)
    kept = await mall.database["holds"].find_one({"_id": hold.id})
    assert (kept["state"], kept["order_id"]) == ("HOLD_STATE_HELD", "")
    assert (await mall.order())["state"] == CANCELLED
    again = await mall.orders(consumer()).PlaceOrder(mall.place("cpn_a", lines=[], hold_ids=[hold.id]))
    assert again.order.total.minor == 29_900


async def test_cancelling_frees_the_coupon(mall: Mall) -> None:
    order = (await mall.orders(consumer()).PlaceOrder(mall.place("cpn_a"))).order
    await mall.orders(consumer()).CancelOrder(orders_pb2.CancelOrderRequest(request_id=fresh(), order_id=order.id))
    assert (await mall.coupon_state(), await mall.row()) == ("ISSUED", {"on_hand": 1, "reserved": 0})
    assert (await mall.orders(consumer()).PlaceOrder(mall.place("cpn_a"))).order.discount.minor == 10_000


async def test_one_coupon_is_spent_on_one_of_many_orders(mall: Mall) -> None:
    await mall.stocked(on_hand=10)
    answers = await asyncio.gather(*(mall.orders(consumer()).PlaceOrder(mall.place("cpn_a")) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(answer, orders_pb2.PlaceOrderResponse) for answer in answers) == 1
    assert all(isinstance(answer, orders_pb2.PlaceOrderResponse | Conflict) for answer in answers)
    assert await mall.row() == {"on_hand": 10, "reserved": 1}
    await mall.check()


# kills ---------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


class Replica:
    """Another process of commerce on the same database that dies when it comes to the step `dies_at`."""

    STEPS = ("begun", "locked", "approved", "confirmed", "settled")

    def __init__(self, runtime: Runtime, dies_at: str = "") -> None:
        persons, catalog = PersonProjection(runtime.database), CatalogRepository(runtime.database)
        stocks = StockRepository(runtime.database, runtime.group_commit, persons)
        store = OrderRepository(runtime.database, ChangeStreamHub(runtime.database), persons)
        self.wallet = CouponClient(lambda: runtime.channels.district)
        self.checkout = Checkout(catalog, stocks, store, self.wallet)
        self.orders = OrderServicer(runtime, catalog, stocks, store, self.checkout)
        if dies_at == "begun":
            self.wallet.lock = self._before(self.wallet.lock)  # type: ignore[method-assign]
        elif dies_at == "locked":
            self.wallet.lock = self._after(self.wallet.lock)  # type: ignore[method-assign]
        elif dies_at == "approved":
            self.wallet.confirm = self._before(self.wallet.confirm)  # type: ignore[method-assign]
        elif dies_at == "confirmed":
            self.wallet.confirm = self._after(self.wallet.confirm)  # type: ignore[method-assign]
        elif dies_at == "settled":
            stocks.move = self._after(stocks.move)  # type: ignore[method-assign]

    @staticmethod
    def _before(step: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def die(*given: Any, **named: Any) -> Any:
            raise Killed

        return die

    @staticmethod
    def _after(step: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def die(*given: Any, **named: Any) -> Any:
            await step(*given, **named)
            raise Killed

        return die


async def _walk(replica: Replica, place: orders_pb2.PlaceOrderRequest, pay: orders_pb2.PayOrderRequest) -> str:
    """Places and pays; the order's id."""
    order = (await replica.orders.PlaceOrder(place, None)).order
    pay.order_id = order.id
    await replica.orders.PayOrder(pay, None)
    return order.id


@pytest.mark.parametrize("dies_at", Replica.STEPS)
async def test_a_client_that_repeats_its_calls_gets_its_order_whenever_the_process_was_killed(mall: Mall, dies_at: str) -> None:
    authorization.current.set(authorization.SYSTEM)
    runtime, place, pay = mall.commerce.runtime, mall.place("cpn_a"), mall.pay("")
    with pytest.raises(Killed):
        await _walk(Replica(runtime, dies_at), place, pay)
    order_id = await _walk(Replica(runtime), place, pay)
    order = await mall.order()
    assert (order["_id"], order["state"], order["total"]["minor"]) == (order_id, PAID, 29_900)
    assert (await mall.coupon_state(), await mall.row()) == ("REDEEMED", {"on_hand": 0, "reserved": 0})
    assert sum(event.WhichOneof("body") == "order_paid" for event in await mall.commerce.events_told()) == 1


@pytest.mark.parametrize("dies_at", Replica.STEPS)
async def test_the_sweeper_brings_to_an_end_what_nobody_repeats(mall: Mall, dies_at: str) -> None:
    authorization.current.set(authorization.SYSTEM)
    runtime = mall.commerce.runtime
    with pytest.raises(Killed):
        await _walk(Replica(runtime, dies_at), mall.place("cpn_a"), mall.pay(""))
    # Its time is over on the machine's clock; several sweep, beside the service itself.
    await mall.database["orders"].update_many({"sweep_at": {"$exists": True}}, {"$set": {"sweep_at": clock.real()}})
    await asyncio.gather(*(Replica(runtime).checkout.sweep() for _ in range(3)))
    order, coupon, row = await mall.order(), await mall.coupon_state(), await mall.row()
    if dies_at in ("begun", "locked"):
        assert (order["state"], coupon, row) == (CANCELLED, "ISSUED", {"on_hand": 1, "reserved": 0})
    else:
        assert (order["state"], coupon, row) == (PAID, "REDEEMED", {"on_hand": 0, "reserved": 0})
    told = sum(event.WhichOneof("body") == "order_paid" for event in await mall.commerce.events_told())
    assert told == (order["state"] == PAID)
    await mall.check()


async def test_an_unpaid_order_is_cancelled_and_everything_is_free_again(mall: Mall) -> None:
    authorization.current.set(authorization.SYSTEM)
    order = (await mall.orders(consumer()).PlaceOrder(mall.place("cpn_a"))).order
    checkout = Replica(mall.commerce.runtime).checkout
    assert await checkout.sweep() == 0
    await mall.database["orders"].update_one({"_id": order.id}, {"$set": {"sweep_at": clock.real() - timedelta(seconds=1)}})
    await asyncio.gather(*(checkout.sweep() for _ in range(3)))
    row = await mall.order()
    assert (row["state"], row["cancel_reason"], row["rollback"]) == (CANCELLED, "CANCEL_REASON_NOT_PAID", False)
    assert (await mall.coupon_state(), await mall.row()) == ("ISSUED", {"on_hand": 1, "reserved": 0})
    with pytest.raises(Conflict, match="ORDER_CANCELLED"):
        await mall.orders(consumer()).PayOrder(mall.pay(order.id))


async def test_paying_and_sweeping_at_once_never_do_both(mall: Mall) -> None:
    authorization.current.set(authorization.SYSTEM)
    await mall.stocked(on_hand=8)
    orders = [(await mall.orders(consumer()).PlaceOrder(mall.place())).order for _ in range(8)]
    await mall.database["orders"].update_many({}, {"$set": {"sweep_at": clock.real()}})
    checkout = Replica(mall.commerce.runtime).checkout
    paying = [mall.orders(consumer()).PayOrder(mall.pay(order.id)) for order in orders]
    answers = await asyncio.gather(checkout.sweep(), *paying, return_exceptions=True)
    rows = await mall.database["orders"].find().to_list(None)
    paid = sum(row["state"] == PAID for row in rows)
    assert paid == sum(isinstance(answer, orders_pb2.PayOrderResponse) for answer in answers)
    assert {row["state"] for row in rows} <= {PAID, CANCELLED}
    assert await mall.row() == {"on_hand": 8 - paid, "reserved": 0}


async def test_coupons_that_are_lost_cancel_the_order_and_charge_nothing(mall: Mall) -> None:
    order = (await mall.orders(consumer()).PlaceOrder(mall.place("cpn_a"))).order
    authorization.current.set(authorization.SYSTEM)
    await Replica(mall.commerce.runtime).wallet.roll_back(order.id)
    with pytest.raises(Conflict, match="COUPONS_LOST"):
        await mall.orders(consumer()).PayOrder(mall.pay(order.id))
    row = await mall.order()
    assert (row["state"], row.get("payment")) == (CANCELLED, None)
    assert await mall.row() == {"on_hand": 1, "reserved": 0}


async def test_a_wallet_that_does_not_answer_stops_coupons_but_not_the_rest(shop: Shop) -> None:
    """The district is down: nothing is half done, and the same call may be made again."""
    line = [orders_pb2.NewLine(variant_id="var_shirt_40", quantity=1)]
    request = orders_pb2.PlaceOrderRequest(request_id=fresh(), consumer_id="con_a", store_id="str_near", lines=line, coupon_ids=["cpn_a"])
    with pytest.raises(Unavailable):
        await shop.orders(consumer()).PlaceOrder(request)
    order = await shop.database["orders"].find_one()
    assert order["state"] == "ORDER_STATE_PLACING"
    pay = orders_pb2.PayOrderRequest(
        request_id=fresh(), order_id=order["_id"], method=orders_pb2.PAYMENT_METHOD_SANDBOX, sandbox_token="approve"
    )
    with pytest.raises(Conflict, match="ORDER_NOT_PLACED"):
        await shop.orders(consumer()).PayOrder(pay)
    cancel = orders_pb2.CancelOrderRequest(request_id=fresh(), order_id=order["_id"])
    assert (await shop.orders(consumer()).CancelOrder(cancel)).order.state == orders_pb2.ORDER_STATE_CANCELLED
    # Freed goods are not waiting for the wallet; the coupon's rollback is.
    assert await shop.row() == {"on_hand": 1, "reserved": 0}
    assert (await shop.database["orders"].find_one())["rollback"] is True
