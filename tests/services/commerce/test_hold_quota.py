"""The hold quota: one for a consumer across all brands, and one for each brand whose staff hold goods for them."""

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
from tests.services.commerce.conftest import HERE, Shop, consumer_grant, new_key, store_grant
from tests.services.conftest import OPERATOR
from tests.services.lists import count_documents_read

GUIDE = store_grant("str_birch", "ROLE_GUIDE")
"""A guide of another brand than the owner of `str_near`."""


def hold_stock(consumer_id: str = "con_a", store_id: str = "str_near") -> stock_pb2.HoldStockRequest:
    return stock_pb2.HoldStockRequest(
        request_id=new_key(), store_id=store_id, variant_id="var_shirt_40", quantity=1, consumer_id=consumer_id
    )


async def add_other_brand(shop: Shop, *, on_hand: int = 100) -> None:
    """Adds two stores of another brand, and shirts in all three stores."""
    for store_id in ("str_birch", "str_birch_2"):
        await shop.publish_store(store_id, "brd_birch")
    for store_id in ("str_near", "str_birch", "str_birch_2"):
        await shop.set_stock(store_id, on_hand=on_hand)


async def make_holds(shop: Shop, grant: Grant, store_id: str, holds: int, consumer_id: str = "con_a") -> list[stock_pb2.Hold]:
    stub = shop.stock(grant)
    return [(await stub.HoldStock(hold_stock(consumer_id, store_id))).hold for _ in range(holds)]


async def quota_refusal(call: Any) -> dict[str, str]:
    """Asserts that the call raises TOO_MANY_HOLDS and returns its metadata without the limit."""
    with pytest.raises(Exhausted, match="TOO_MANY_HOLDS") as refusal:
        await call
    metadata = dict(refusal.value.metadata)
    assert metadata.pop("limit") == str(rules.HOLDS_MAX)
    return metadata


def free_at(hold: stock_pb2.Hold) -> dict[str, str]:
    return {"free_at": hold.expires_at.ToDatetime(UTC).isoformat()}


async def test_holds_of_brand_staff_have_own_quota(shop: Shop) -> None:
    await add_other_brand(shop)
    own = await make_holds(shop, consumer_grant(), "str_near", rules.HOLDS_MAX - 2)
    # A guide of another brand has the full quota, whatever the consumer holds elsewhere.
    (first, *_) = await make_holds(shop, GUIDE, "str_birch", rules.HOLDS_MAX)
    assert await quota_refusal(shop.stock(GUIDE).HoldStock(hold_stock(store_id="str_birch"))) == free_at(first)
    # So does the staff of the brand that owns the store, and their orders count in the same way.
    manager = store_grant("str_near")
    await make_holds(shop, manager, "str_near", rules.HOLDS_MAX - 1)
    line = orders_pb2.NewLine(variant_id="var_shirt_40", quantity=1)

    def order_request(store_id: str) -> orders_pb2.PlaceOrderRequest:
        return orders_pb2.PlaceOrderRequest(request_id=new_key(), consumer_id="con_a", store_id=store_id, lines=[line])

    await shop.orders(manager).PlaceOrder(order_request("str_near"))
    assert await quota_refusal(shop.orders(manager).PlaceOrder(order_request("str_near")))
    assert await quota_refusal(shop.orders(GUIDE).PlaceOrder(order_request("str_birch"))) == free_at(first)
    # The consumer has the rest of their own quota, in every store.
    await make_holds(shop, consumer_grant(), "str_birch", 1)
    await shop.orders(consumer_grant()).PlaceOrder(order_request("str_near"))
    assert await quota_refusal(shop.stock(consumer_grant()).HoldStock(hold_stock())) == free_at(own[0])
    assert await quota_refusal(shop.orders(consumer_grant()).PlaceOrder(order_request("str_birch"))) == free_at(own[0])
    await shop.check_reserved()


async def test_held_promise_counts_against_the_quota(shop: Shop) -> None:
    await add_other_brand(shop)
    (first, *_) = await make_holds(shop, GUIDE, "str_birch", rules.HOLDS_MAX)

    def promise_request(store_id: str) -> discovery_pb2.HoldPromiseRequest:
        return discovery_pb2.HoldPromiseRequest(
            request_id=new_key(), store_id=store_id, variant_id="var_shirt_40", quantity=1, consumer_id="con_a", destination=HERE,
            method=stock_pb2.METHOD_PICKUP,
        )  # fmt: skip

    assert await quota_refusal(shop.discovery(GUIDE).HoldPromise(promise_request("str_birch"))) == free_at(first)
    assert (await shop.discovery(consumer_grant()).HoldPromise(promise_request("str_birch"))).hold.consumer_id == "con_a"


async def test_free_at_is_given_within_scope_only(shop: Shop) -> None:
    await add_other_brand(shop)
    (first,) = await make_holds(shop, store_grant("str_birch_2"), "str_birch_2", 1)
    await make_holds(shop, GUIDE, "str_birch", rules.HOLDS_MAX - 1)
    assert await quota_refusal(shop.stock(GUIDE).HoldStock(hold_stock(store_id="str_birch"))) == {}
    for grant in (store_grant("str_birch_2"), OPERATOR):
        assert await quota_refusal(shop.stock(grant).HoldStock(hold_stock(store_id="str_birch_2"))) == free_at(first)
    # A released hold frees quota in the brand's other stores. A store sees the end of its own holds.
    await shop.stock(store_grant("str_birch_2")).ReleaseHold(stock_pb2.ReleaseHoldRequest(request_id=new_key(), hold_id=first.id))
    (last,) = await make_holds(shop, GUIDE, "str_birch", 1)
    assert (await quota_refusal(shop.stock(GUIDE).HoldStock(hold_stock(store_id="str_birch")))).keys() == {"free_at"}
    await shop.stock(GUIDE).ReleaseHold(stock_pb2.ReleaseHoldRequest(request_id=new_key(), hold_id=last.id))
    await make_holds(shop, GUIDE, "str_birch", 1)


async def test_ordered_hold_counts_against_its_holder(shop: Shop) -> None:
    await add_other_brand(shop)
    manager = store_grant("str_near")
    (own, *_), (theirs, *_) = await make_holds(shop, consumer_grant(), "str_near", 10), await make_holds(shop, manager, "str_near", 10)
    # Each orders the goods that the other holds. No quota changes.
    for grant, hold in ((manager, own), (consumer_grant(), theirs)):
        request = orders_pb2.PlaceOrderRequest(request_id=new_key(), consumer_id="con_a", store_id="str_near", hold_ids=[hold.id])
        order = (await shop.orders(grant).PlaceOrder(request)).order
        for holder in (consumer_grant(), manager):
            await quota_refusal(shop.stock(holder).HoldStock(hold_stock()))
        await shop.orders(grant).CancelOrder(orders_pb2.CancelOrderRequest(request_id=new_key(), order_id=order.id))
        free, full = (consumer_grant(), manager) if hold is own else (manager, consumer_grant())
        await quota_refusal(shop.stock(full).HoldStock(hold_stock()))
        await shop.stock(free).HoldStock(hold_stock())
    await shop.check_reserved()


async def test_each_quota_is_exact_under_concurrency(shop: Shop) -> None:
    await add_other_brand(shop)
    calls = [
        *(
            shop.stock(consumer_grant()).HoldStock(hold_stock(store_id=store_id))
            for store_id in ("str_near", "str_birch")
            for _ in range(8)
        ),
        *(
            shop.stock(store_grant(id)).HoldStock(hold_stock(store_id=id))
            for id in ("str_near", "str_birch", "str_birch_2")
            for _ in range(12)
        ),
        *(shop.stock(consumer_grant("con_b")).HoldStock(hold_stock("con_b")) for _ in range(3)),
    ]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    held = [answer.hold.id for answer in answers if isinstance(answer, stock_pb2.HoldStockResponse)]
    documents = await shop.database["holds"].find({"_id": {"$in": held}}).to_list(None)
    counts = Counter((document["consumer_id"], document.get("staff_brand_id")) for document in documents)
    limit = rules.HOLDS_MAX
    assert counts == {("con_a", None): limit, ("con_a", "brd_a"): limit, ("con_a", "brd_birch"): limit, ("con_b", None): 3}
    reasons = {answer.reason for answer in answers if isinstance(answer, Exhausted)}
    assert reasons == {"TOO_MANY_HOLDS"}
    await shop.check_reserved()


async def test_holds_without_staff_brand_count_for_consumer(shop: Shop) -> None:
    await add_other_brand(shop)
    holds = await make_holds(shop, GUIDE, "str_birch", rules.HOLDS_MAX)
    await shop.database["holds"].update_many({}, {"$unset": {"staff_brand_id": ""}})
    await make_holds(shop, GUIDE, "str_birch", 1)
    assert await quota_refusal(shop.stock(consumer_grant()).HoldStock(hold_stock())) == free_at(holds[0])
    # An order rewrites its hold, which still counts for the consumer. A released hold does not count.
    request = orders_pb2.PlaceOrderRequest(request_id=new_key(), consumer_id="con_a", hold_ids=[holds[0].id])
    await shop.orders(consumer_grant()).PlaceOrder(request)
    await quota_refusal(shop.stock(consumer_grant()).HoldStock(hold_stock()))
    await shop.stock(GUIDE).ReleaseHold(stock_pb2.ReleaseHoldRequest(request_id=new_key(), hold_id=holds[1].id))
    await make_holds(shop, consumer_grant(), "str_near", 1)
    await quota_refusal(shop.stock(consumer_grant()).HoldStock(hold_stock()))
    await shop.check_reserved()


async def test_store_without_stock_is_not_found(shop: Shop) -> None:
    await shop.publish_store("str_birch", "brd_birch")
    for grant, store_id in ((GUIDE, "str_birch"), (OPERATOR, "str_none")):
        with pytest.raises(NotFound, match="STOCK_NOT_FOUND"):
            await shop.stock(grant).HoldStock(hold_stock(store_id=store_id))


async def test_concurrent_holds_stop_at_the_maximum(shop: Shop) -> None:
    await shop.set_stock(on_hand=100)
    calls = [shop.stock(consumer_grant()).HoldStock(hold_stock()) for _ in range(30)]
    others = [shop.stock(consumer_grant("con_b")).HoldStock(hold_stock("con_b")) for _ in range(3)]
    answers = await asyncio.gather(*calls, *others, return_exceptions=True)
    held = [answer.hold for answer in answers if isinstance(answer, stock_pb2.HoldStockResponse)]
    assert [hold.consumer_id for hold in held].count("con_a") == rules.HOLDS_MAX
    assert [hold.consumer_id for hold in held].count("con_b") == 3
    refusals = [answer for answer in answers if isinstance(answer, Exhausted)]
    assert {refusal.reason for refusal in refusals} == {"TOO_MANY_HOLDS"}
    first = min(hold.expires_at.ToDatetime(UTC) for hold in held if hold.consumer_id == "con_a")
    assert {datetime.fromisoformat(refusal.metadata["free_at"]) for refusal in refusals} == {first}
    await shop.check_reserved()


async def test_ended_hold_frees_quota_unpaid_order_does_not(shop: Shop) -> None:
    await shop.set_stock(on_hand=100)
    holds = [await shop.hold() for _ in range(rules.HOLDS_MAX)]
    request = orders_pb2.PlaceOrderRequest(request_id=new_key(), consumer_id="con_a", hold_ids=[holds[0].id])
    order = (await shop.orders(consumer_grant()).PlaceOrder(request)).order
    with pytest.raises(Exhausted, match="TOO_MANY_HOLDS"):
        await shop.hold()
    await shop.orders(consumer_grant()).CancelOrder(orders_pb2.CancelOrderRequest(request_id=new_key(), order_id=order.id))
    await shop.hold()
    await shop.stock(consumer_grant()).ReleaseHold(stock_pb2.ReleaseHoldRequest(request_id=new_key(), hold_id=holds[1].id))
    await shop.hold()
    # The hold is overdue, and no sweeper has expired it yet.
    await shop.database["holds"].update_one({"_id": holds[2].id}, {"$set": {"expires_at": clock.system_now() - timedelta(seconds=1)}})
    await shop.hold()
    with pytest.raises(Exhausted, match="TOO_MANY_HOLDS") as refusal:
        await shop.hold()
    assert refusal.value.metadata["limit"] == str(rules.HOLDS_MAX)


async def test_usage_of_person_reads_counted_holds_only(shop: Shop) -> None:
    await shop.set_stock(on_hand=100)
    for id in ("con_a", "con_b", "con_z"):
        await make_holds(shop, OPERATOR, "str_near", 6, id)
        await make_holds(shop, consumer_grant(id), "str_near", 6, id)
    quota = StockRepository(shop.database, shop.commerce.runtime.group_commit, PersonProjection(shop.database)).hold_quota
    alone, linked = (Person("con_a", frozenset(ids)) for ids in ({"con_a"}, {"con_a", "con_b", "con_c"}))
    for person, live in ((alone, 6), (linked, rules.HOLDS_MAX)):
        for holder in (Holder(person), Holder(person, "brd_a")):
            assert await count_documents_read(shop.database, "holds", quota.find_usage(holder, clock.now())) == live
