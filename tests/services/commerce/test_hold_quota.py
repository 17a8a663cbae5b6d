"""How many holds stand for a consumer: theirs among all brands, those of a brand's staff for them among that brand's alone."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from quanyu.commerce.v1 import discovery_pb2, orders_pb2, stock_pb2
from services.commerce.stock import rules
from services.commerce.stock.hold_quota import Holder
from services.commerce.stock.repository import StockRepository
from services.kit import clock
from services.kit.errors import Exhausted, NotFound
from services.kit.projections.persons import Person, PersonProjection
from services.kit.security.principals import Grant
from tests.services.commerce.conftest import HERE, Shop, consumer, fresh, of_store
from tests.services.conftest import OPERATOR
from tests.services.lists import rows_read

GUIDE = of_store("str_birch", "ROLE_GUIDE")
"""Of another brand than the one that runs `str_near`."""


def hold_stock(consumer_id: str = "con_a", store_id: str = "str_near") -> stock_pb2.HoldStockRequest:
    return stock_pb2.HoldStockRequest(request_id=fresh(), store_id=store_id, variant_id="var_shirt_40", quantity=1, consumer_id=consumer_id)


async def birch(shop: Shop, *, in_each: int = 100) -> None:
    """Two stores of another brand beside `str_near`, with shirts in all three."""
    for store_id in ("str_birch", "str_birch_2"):
        await shop.store(store_id, "brd_birch")
    for store_id in ("str_near", "str_birch", "str_birch_2"):
        await shop.stocked(store_id, on_hand=in_each)


async def taken(shop: Shop, grant: Grant, store_id: str, holds: int, consumer_id: str = "con_a") -> list[stock_pb2.Hold]:
    stub = shop.stock(grant)
    return [(await stub.HoldStock(hold_stock(consumer_id, store_id))).hold for _ in range(holds)]


async def refused(call: Any) -> dict[str, str]:
    """What TOO_MANY_HOLDS says beside its limit."""
    with pytest.raises(Exhausted, match="TOO_MANY_HOLDS") as caught:
        await call
    said = dict(caught.value.metadata)
    assert said.pop("limit") == str(rules.HOLDS_MAX)
    return said


def ends(hold: stock_pb2.Hold) -> dict[str, str]:
    return {"free_at": hold.expires_at.ToDatetime(UTC).isoformat()}


async def test_what_a_brands_staff_hold_for_a_consumer_takes_nothing_from_them_and_learns_nothing_of_them(shop: Shop) -> None:
    await birch(shop)
    own = await taken(shop, consumer(), "str_near", rules.HOLDS_MAX - 2)
    # A guide of another brand finds as many as may be free, whatever the consumer holds elsewhere.
    (first, *_) = await taken(shop, GUIDE, "str_birch", rules.HOLDS_MAX)
    assert await refused(shop.stock(GUIDE).HoldStock(hold_stock(store_id="str_birch"))) == ends(first)
    # So do those of the brand whose store the consumer stands in, and an order of theirs is counted in the same way.
    manager = of_store("str_near")
    await taken(shop, manager, "str_near", rules.HOLDS_MAX - 1)
    line = orders_pb2.NewLine(variant_id="var_shirt_40", quantity=1)

    def placing(store_id: str) -> orders_pb2.PlaceOrderRequest:
        return orders_pb2.PlaceOrderRequest(request_id=fresh(), consumer_id="con_a", store_id=store_id, lines=[line])

    await shop.orders(manager).PlaceOrder(placing("str_near"))
    assert await refused(shop.orders(manager).PlaceOrder(placing("str_near")))
    assert await refused(shop.orders(GUIDE).PlaceOrder(placing("str_birch"))) == ends(first)
    # The consumer has what is left of their own, in whichever store.
    await taken(shop, consumer(), "str_birch", 1)
    await shop.orders(consumer()).PlaceOrder(placing("str_near"))
    assert await refused(shop.stock(consumer()).HoldStock(hold_stock())) == ends(own[0])
    assert await refused(shop.orders(consumer()).PlaceOrder(placing("str_birch"))) == ends(own[0])
    await shop.check()


async def test_a_promise_is_held_under_the_same_count(shop: Shop) -> None:
    await birch(shop)
    (first, *_) = await taken(shop, GUIDE, "str_birch", rules.HOLDS_MAX)

    def promised(store_id: str) -> discovery_pb2.HoldPromiseRequest:
        return discovery_pb2.HoldPromiseRequest(
            request_id=fresh(), store_id=store_id, variant_id="var_shirt_40", quantity=1, consumer_id="con_a", destination=HERE,
            method=stock_pb2.METHOD_PICKUP,
        )  # fmt: skip

    assert await refused(shop.discovery(GUIDE).HoldPromise(promised("str_birch"))) == ends(first)
    assert (await shop.discovery(consumer()).HoldPromise(promised("str_birch"))).hold.consumer_id == "con_a"


async def test_when_the_first_hold_ends_is_told_to_who_may_see_that_hold(shop: Shop) -> None:
    await birch(shop)
    (first,) = await taken(shop, of_store("str_birch_2"), "str_birch_2", 1)
    await taken(shop, GUIDE, "str_birch", rules.HOLDS_MAX - 1)
    assert await refused(shop.stock(GUIDE).HoldStock(hold_stock(store_id="str_birch"))) == {}
    for grant in (of_store("str_birch_2"), OPERATOR):
        assert await refused(shop.stock(grant).HoldStock(hold_stock(store_id="str_birch_2"))) == ends(first)
    # A hold that is given back makes room for the brand's other stores, and what comes after it is seen by whoever held it.
    await shop.stock(of_store("str_birch_2")).ReleaseHold(stock_pb2.ReleaseHoldRequest(request_id=fresh(), hold_id=first.id))
    (last,) = await taken(shop, GUIDE, "str_birch", 1)
    assert (await refused(shop.stock(GUIDE).HoldStock(hold_stock(store_id="str_birch")))).keys() == {"free_at"}
    await shop.stock(GUIDE).ReleaseHold(stock_pb2.ReleaseHoldRequest(request_id=fresh(), hold_id=last.id))
    await taken(shop, GUIDE, "str_birch", 1)


async def test_an_order_of_a_hold_goes_on_counting_where_the_hold_did(shop: Shop) -> None:
    await birch(shop)
    manager = of_store("str_near")
    (own, *_), (theirs, *_) = await taken(shop, consumer(), "str_near", 10), await taken(shop, manager, "str_near", 10)
    # Each orders what the other holds: nobody's count changes.
    for grant, hold in ((manager, own), (consumer(), theirs)):
        asked = orders_pb2.PlaceOrderRequest(request_id=fresh(), consumer_id="con_a", store_id="str_near", hold_ids=[hold.id])
        order = (await shop.orders(grant).PlaceOrder(asked)).order
        for who in (consumer(), manager):
            await refused(shop.stock(who).HoldStock(hold_stock()))
        await shop.orders(grant).CancelOrder(orders_pb2.CancelOrderRequest(request_id=fresh(), order_id=order.id))
        free, full = (consumer(), manager) if hold is own else (manager, consumer())
        await refused(shop.stock(full).HoldStock(hold_stock()))
        await shop.stock(free).HoldStock(hold_stock())
    await shop.check()


async def test_each_count_is_exact_however_many_are_asked_for_at_once(shop: Shop) -> None:
    await birch(shop)
    asked = [
        *(shop.stock(consumer()).HoldStock(hold_stock(store_id=store_id)) for store_id in ("str_near", "str_birch") for _ in range(8)),
        *(
            shop.stock(of_store(id)).HoldStock(hold_stock(store_id=id))
            for id in ("str_near", "str_birch", "str_birch_2")
            for _ in range(12)
        ),
        *(shop.stock(consumer("con_b")).HoldStock(hold_stock("con_b")) for _ in range(3)),
    ]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    held = [answer.hold.id for answer in answers if isinstance(answer, stock_pb2.HoldStockResponse)]
    rows = await shop.database["holds"].find({"_id": {"$in": held}}).to_list(None)
    counts = Counter((row["consumer_id"], row.get("staff_brand_id")) for row in rows)
    most = rules.HOLDS_MAX
    assert counts == {("con_a", None): most, ("con_a", "brd_a"): most, ("con_a", "brd_birch"): most, ("con_b", None): 3}
    reasons = {answer.reason for answer in answers if isinstance(answer, Exhausted)}
    assert reasons == {"TOO_MANY_HOLDS"}
    await shop.check()


async def test_holds_of_the_time_before_holders_were_told_apart_count_for_the_consumer_until_they_end(shop: Shop) -> None:
    await birch(shop)
    holds = await taken(shop, GUIDE, "str_birch", rules.HOLDS_MAX)
    await shop.database["holds"].update_many({}, {"$unset": {"staff_brand_id": ""}})
    await taken(shop, GUIDE, "str_birch", 1)
    assert await refused(shop.stock(consumer()).HoldStock(hold_stock())) == ends(holds[0])
    # An order on one, which writes it anew, leaves it where it was; what is released or over is not counted any more.
    asked = orders_pb2.PlaceOrderRequest(request_id=fresh(), consumer_id="con_a", hold_ids=[holds[0].id])
    await shop.orders(consumer()).PlaceOrder(asked)
    await refused(shop.stock(consumer()).HoldStock(hold_stock()))
    await shop.stock(GUIDE).ReleaseHold(stock_pb2.ReleaseHoldRequest(request_id=fresh(), hold_id=holds[1].id))
    await taken(shop, consumer(), "str_near", 1)
    await refused(shop.stock(consumer()).HoldStock(hold_stock()))
    await shop.check()


async def test_staff_of_a_store_that_keeps_nothing_find_no_stock(shop: Shop) -> None:
    await shop.store("str_birch", "brd_birch")
    for grant, store_id in ((GUIDE, "str_birch"), (OPERATOR, "str_none")):
        with pytest.raises(NotFound, match="STOCK_NOT_FOUND"):
            await shop.stock(grant).HoldStock(hold_stock(store_id=store_id))


async def test_no_more_holds_stand_for_a_consumer_than_may_however_many_are_asked_for_at_once(shop: Shop) -> None:
    await shop.stocked(on_hand=100)
    asked = [shop.stock(consumer()).HoldStock(hold_stock()) for _ in range(30)]
    others = [shop.stock(consumer("con_b")).HoldStock(hold_stock("con_b")) for _ in range(3)]
    answers = await asyncio.gather(*asked, *others, return_exceptions=True)
    held = [answer.hold for answer in answers if isinstance(answer, stock_pb2.HoldStockResponse)]
    assert [hold.consumer_id for hold in held].count("con_a") == rules.HOLDS_MAX
    assert [hold.consumer_id for hold in held].count("con_b") == 3
    refused = [answer for answer in answers if isinstance(answer, Exhausted)]
    assert {refusal.reason for refusal in refused} == {"TOO_MANY_HOLDS"}
    first = min(hold.expires_at.ToDatetime(UTC) for hold in held if hold.consumer_id == "con_a")
    assert {datetime.fromisoformat(refusal.metadata["free_at"]) for refusal in refused} == {first}
    await shop.check()


async def test_what_ends_a_hold_makes_room_for_another_and_an_unpaid_order_does_not(shop: Shop) -> None:
    await shop.stocked(on_hand=100)
    holds = [await shop.held() for _ in range(rules.HOLDS_MAX)]
    placing = orders_pb2.PlaceOrderRequest(request_id=fresh(), consumer_id="con_a", hold_ids=[holds[0].id])
    order = (await shop.orders(consumer()).PlaceOrder(placing)).order
    with pytest.raises(Exhausted, match="TOO_MANY_HOLDS"):
        await shop.held()
    await shop.orders(consumer()).CancelOrder(orders_pb2.CancelOrderRequest(request_id=fresh(), order_id=order.id))
    await shop.held()
    await shop.stock(consumer()).ReleaseHold(stock_pb2.ReleaseHoldRequest(request_id=fresh(), hold_id=holds[1].id))
    await shop.held()
    # Over by the clock, though no sweeper came yet.
    await shop.database["holds"].update_one({"_id": holds[2].id}, {"$set": {"expires_at": clock.real() - timedelta(seconds=1)}})
    await shop.held()
    with pytest.raises(Exhausted, match="TOO_MANY_HOLDS") as refused:
        await shop.held()
    assert refused.value.metadata["limit"] == str(rules.HOLDS_MAX)


async def test_what_stands_for_a_person_is_found_by_index(shop: Shop) -> None:
    """Under all ids that are linked, whatever stands for others, and no more of it than is counted."""
    await shop.stocked(on_hand=100)
    for id in ("con_a", "con_b", "con_z"):
        await taken(shop, OPERATOR, "str_near", 6, id)
        await taken(shop, consumer(id), "str_near", 6, id)
    holders = StockRepository(shop.database, shop.commerce.runtime.group_commit, PersonProjection(shop.database)).holders
    alone, linked = (Person("con_a", frozenset(ids)) for ids in ({"con_a"}, {"con_a", "con_b", "con_c"}))
    for person, stand in ((alone, 6), (linked, rules.HOLDS_MAX)):
        for holder in (Holder(person), Holder(person, "brd_a")):
            assert await rows_read(shop.database, "holds", holders.standing(holder, clock.now())) == stand
