"""Stock by gRPC: the last piece is held once, a hold is freed exactly once, and `reserved` is always right."""

import asyncio
import random
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanyu.commerce.v1 import stock_pb2
from services.commerce.stock import rules
from services.commerce.stock.repository import StockRepository
from services.kit import clock
from services.kit.errors import Conflict, Denied, Exhausted, Invalid, NotFound, Refusal
from services.kit.mongo.codec import validate
from services.kit.projections.persons import PersonProjection
from services.kit.security.caller import SYSTEM, caller_context
from tests.services.commerce.conftest import Shop, brand_grant, consumer_grant, new_key, plan_stages, store_grant
from tests.services.conftest import OPERATOR
from tests.services.lists import assert_batch_equals_lists, count_documents_read, fetch_first_pages


def repository_of(shop: Shop) -> StockRepository:
    return StockRepository(shop.database, shop.commerce.runtime.group_commit, PersonProjection(shop.database))


def set_stock(on_hand: int, safety: int = 0, store_id: str = "str_near", variant_id: str = "var_shirt_40") -> stock_pb2.SetStockRequest:
    return stock_pb2.SetStockRequest(request_id=new_key(), store_id=store_id, variant_id=variant_id, on_hand=on_hand, safety=safety)


def hold_stock(consumer_id: str, quantity: int = 1) -> stock_pb2.HoldStockRequest:
    return stock_pb2.HoldStockRequest(
        request_id=new_key(), store_id="str_near", variant_id="var_shirt_40", quantity=quantity, consumer_id=consumer_id
    )


def adjust(change: int) -> stock_pb2.AdjustStockRequest:
    return stock_pb2.AdjustStockRequest(request_id=new_key(), store_id="str_near", variant_id="var_shirt_40", change=change)


async def test_concurrent_holds_of_last_piece_succeed_once(shop: Shop) -> None:
    stub = shop.stock()
    calls = [stub.HoldStock(hold_stock(f"con_{number}")) for number in range(40)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    held = [answer.hold for answer in answers if isinstance(answer, stock_pb2.HoldStockResponse)]
    refused = [answer for answer in answers if isinstance(answer, Exhausted)]
    assert (len(held), len(refused)) == (1, 39)
    assert held[0].expires_at.ToDatetime() - held[0].held_at.ToDatetime() == rules.HOLD_LIFE
    with pytest.raises(Exhausted, match="OUT_OF_STOCK") as refusal:
        await shop.stock(consumer_grant("con_z")).HoldStock(hold_stock("con_z"))
    assert datetime.fromisoformat(refusal.value.metadata["held_until"]).replace(tzinfo=None) == held[0].expires_at.ToDatetime()
    await shop.check_reserved()


async def test_sold_out_refusal_has_no_held_until(shop: Shop) -> None:
    await shop.set_stock(on_hand=1, safety=1)
    with pytest.raises(Exhausted, match="OUT_OF_STOCK") as refusal:
        await shop.hold()
    assert "held_until" not in refusal.value.metadata


async def test_refusal_hides_the_number_of_pieces(shop: Shop) -> None:
    await shop.set_stock(on_hand=5)
    for quantity in (6, 100):
        with pytest.raises(Exhausted, match="OUT_OF_STOCK") as refusal:
            await shop.hold(quantity=quantity)
        assert refusal.value.metadata == {"fewer": "True"}
    await shop.hold("con_b", quantity=5)
    with pytest.raises(Exhausted, match="OUT_OF_STOCK") as refusal:
        await shop.hold(quantity=1)
    assert (refusal.value.metadata.keys(), refusal.value.metadata["fewer"]) == ({"fewer", "held_until"}, "False")


async def test_repeated_hold_returns_the_same_hold(shop: Shop) -> None:
    request = hold_stock("con_a")
    stub = shop.stock(consumer_grant())
    answers = await asyncio.gather(*(stub.HoldStock(request) for _ in range(20)))
    assert len({answer.hold.id for answer in answers}) == 1
    request.quantity = 2
    with pytest.raises(Conflict, match="REQUEST_ID_REUSED"):
        await stub.HoldStock(request)
    assert await shop.levels() == {"on_hand": 1, "reserved": 1}


async def test_repeated_release_frees_pieces_once(shop: Shop) -> None:
    hold = await shop.hold()
    stub = shop.stock(consumer_grant())
    releases = [stub.ReleaseHold(stock_pb2.ReleaseHoldRequest(request_id=new_key(), hold_id=hold.id)) for _ in range(10)]
    answers = await asyncio.gather(*releases)
    assert {answer.hold.state for answer in answers} == {stock_pb2.HOLD_STATE_RELEASED}
    assert await shop.levels() == {"on_hand": 1, "reserved": 0}
    assert (await shop.hold("con_b")).state == stock_pb2.HOLD_STATE_HELD


async def test_sweepers_expire_each_overdue_hold_once(shop: Shop) -> None:
    await shop.set_stock(on_hand=30)
    holds = [await shop.hold(f"con_{number}") for number in range(30)]
    # All but two are overdue by the machine's clock.
    overdue = [hold.id for hold in holds[2:]]
    await shop.database["holds"].update_many({"_id": {"$in": overdue}}, {"$set": {"sweep_at": clock.system_now() - timedelta(seconds=1)}})
    caller_context.set(SYSTEM)
    # Three sweepers run beside that of the service. Each hold counts once.
    await asyncio.gather(*(repository_of(shop).sweep() for _ in range(3)))
    assert await shop.levels() == {"on_hand": 30, "reserved": 2}
    states = await shop.database["holds"].distinct("state", {"_id": {"$in": overdue}})
    assert states == ["HOLD_STATE_EXPIRED"]
    await shop.check_reserved()


async def test_caller_clock_does_not_affect_sweeper(shop: Shop) -> None:
    channel = shop.channel(consumer_grant(), offset=-20 * 3600)
    answer = await type(shop.stock())(channel).HoldStock(hold_stock("con_a"))
    assert answer.hold.expires_at.ToDatetime() < clock.system_now().replace(tzinfo=None) - timedelta(hours=19)
    caller_context.set(SYSTEM)
    assert await repository_of(shop).sweep() == 0
    assert await shop.levels() == {"on_hand": 1, "reserved": 1}


async def test_reserved_equals_live_holds_despite_cancelled_callers(shop: Shop) -> None:
    await shop.set_stock(on_hand=12)
    stub = shop.stock()

    async def hold_and_release(seed: int) -> None:
        generator = random.Random(seed)
        for _ in range(6):
            try:
                answer = await stub.HoldStock(hold_stock(f"con_{seed}", generator.randint(1, 3)))
                if generator.random() < 0.7:
                    await stub.ReleaseHold(stock_pb2.ReleaseHoldRequest(request_id=new_key(), hold_id=answer.hold.id))
                else:
                    await stub.AdjustStock(
                        stock_pb2.AdjustStockRequest(
                            request_id=new_key(), store_id="str_near", variant_id="var_shirt_40", change=generator.choice((-1, 1))
                        )
                    )
            except (Exhausted, Conflict):
                continue

    tasks = [asyncio.create_task(hold_and_release(seed)) for seed in range(12)]
    # Some callers are cancelled during a call.
    cancelled = set(random.Random(1).sample(tasks, 4))
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in cancelled:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    # The group commit works in order: after this call, the commands of cancelled callers are committed or dropped.
    await stub.AdjustStock(adjust(5))
    await shop.check_reserved()
    assert await repository_of(shop).find_miscounted() == []


async def test_find_miscounted_returns_wrong_stock(shop: Shop) -> None:
    await shop.database["stock"].update_one({"_id": "str_near:var_shirt_40"}, {"$set": {"reserved": 1}})
    assert await repository_of(shop).find_miscounted() == ["str_near:var_shirt_40"]


async def test_level_below_reserved_is_refused(shop: Shop) -> None:
    await shop.set_stock(on_hand=3)
    stub = shop.stock(store_grant())
    with pytest.raises(Conflict, match="STOCK_RESERVED: The store has fewer pieces"):
        await stub.AdjustStock(adjust(-4))
    await shop.hold(quantity=2)
    with pytest.raises(Conflict, match="STOCK_RESERVED: Holds") as refusal:
        await stub.SetStock(set_stock(1))
    assert refusal.value.metadata["reserved"] == "2"
    answer = await stub.SetStock(set_stock(5, safety=1))
    assert (answer.stock.on_hand, answer.stock.reserved, answer.stock.available) == (5, 2, 2)
    with pytest.raises(Conflict, match="STOCK_RESERVED"):
        await stub.AdjustStock(adjust(-4))
    with pytest.raises(Invalid, match="INVALID_FIELD"):
        await stub.SetStock(set_stock(-1))


@given(st.integers(0, rules.COUNT_MAX), st.integers(-rules.COUNT_MAX, rules.COUNT_MAX), st.data())
def test_accepted_level_is_within_bounds(on_hand: int, change: int, data: st.DataObject) -> None:
    reserved = data.draw(st.integers(0, on_hand))
    row = rules.Stock("str_a:var_a", "str_a", "var_a", "brd_a", "brd_a", on_hand + change, reserved)
    try:
        rules.check_level(row.on_hand, reserved)
    except Conflict as refusal:
        assert (row.on_hand > rules.COUNT_MAX) == (refusal.reason == "TOO_MANY_ON_HAND")
        assert (row.on_hand < reserved) == (refusal.reason == "STOCK_RESERVED")
    else:
        assert validate(row) == row


async def test_level_above_maximum_is_refused(shop: Shop) -> None:
    await shop.set_stock(on_hand=rules.COUNT_MAX - 1)
    stub = shop.stock(store_grant())
    assert (await stub.AdjustStock(adjust(1))).stock.on_hand == rules.COUNT_MAX
    answers = await asyncio.gather(*(stub.AdjustStock(adjust(1)) for _ in range(5)), return_exceptions=True)
    assert {(type(answer), answer.reason, answer.metadata["limit"]) for answer in answers if isinstance(answer, Refusal)} == {
        (Conflict, "TOO_MANY_ON_HAND", "1000000000")
    }
    assert await shop.levels() == {"on_hand": rules.COUNT_MAX, "reserved": 0}
    assert (await shop.hold()).quantity == 1


async def test_store_writes_only_its_own_stock(shop: Shop) -> None:
    await shop.publish_store("str_far", "brd_b")
    for grant in (store_grant("str_far"), brand_grant("brd_b")):
        with pytest.raises(NotFound):
            await shop.stock(grant).SetStock(set_stock(9))
        with pytest.raises(NotFound):
            await shop.stock(grant).AdjustStock(adjust(1))
        assert list((await shop.stock(grant).BatchGetStocks(stock_pb2.BatchGetStocksRequest(ids=["str_near:var_shirt_40"]))).stocks) == []
    with pytest.raises(Denied):
        await shop.stock(consumer_grant()).SetStock(set_stock(9))
    # The store of brd_b has goods of brd_a. The owner of the store counts them.
    answer = await shop.stock(brand_grant("brd_b")).SetStock(set_stock(2, store_id="str_far"))
    assert (answer.stock.brand_id, answer.stock.seller_id) == ("brd_a", "brd_b")
    own = await shop.stock(store_grant("str_far", "ROLE_GUIDE")).ListStocks(stock_pb2.ListStocksRequest(store_id="str_far"))
    everywhere = await shop.stock().ListStocks(stock_pb2.ListStocksRequest(variant_id="var_shirt_40"))
    assert [row.id for row in own.stocks] == ["str_far:var_shirt_40"]
    assert [row.available for row in everywhere.stocks] == [2, 1]


async def test_hold_is_visible_to_consumer_and_store(shop: Shop) -> None:
    hold = await shop.hold()
    get, listed = stock_pb2.GetHoldRequest(id=hold.id), stock_pb2.ListHoldsRequest(store_id="str_near")
    assert (await shop.stock(consumer_grant()).GetHold(get)).hold == hold
    for grant in (store_grant(role="ROLE_GUIDE"), brand_grant("brd_a")):
        assert list((await shop.stock(grant).ListHolds(listed)).holds) == [hold]
    own = await shop.stock(consumer_grant()).ListHolds(stock_pb2.ListHoldsRequest(consumer_id="con_a"))
    assert list(own.holds) == [hold]
    for stranger in (consumer_grant("con_b"), store_grant("str_far")):
        with pytest.raises(NotFound, match="HOLD_NOT_FOUND"):
            await shop.stock(stranger).GetHold(get)
        with pytest.raises(NotFound, match="HOLD_NOT_FOUND"):
            await shop.stock(stranger).ReleaseHold(stock_pb2.ReleaseHoldRequest(request_id=new_key(), hold_id=hold.id))
    assert list((await shop.stock(consumer_grant("con_b")).BatchGetHolds(stock_pb2.BatchGetHoldsRequest(ids=[hold.id]))).holds) == []
    with pytest.raises(Denied):
        await shop.stock(consumer_grant("con_b")).HoldStock(hold_stock("con_a"))


async def test_import_rejects_bad_rows(shop: Shop) -> None:
    await shop.create_product("hat", sizes=(1, 2))
    await shop.hold()
    await shop.publish_store("str_far", "brd_b")

    def row(store: str = "str_near", variant: str = "var_hat_1", on_hand: int = 5) -> stock_pb2.StockRow:
        return stock_pb2.StockRow(store_id=store, variant_id=variant, on_hand=on_hand)

    rows = [row(), row(), row("str_far"), row("str_no"), row(variant="var_no"), row(variant="var_shirt_40", on_hand=0), row(on_hand=-1)]
    request = stock_pb2.ImportStockRequest(request_id=new_key(), rows=[*rows, row(variant="var_hat_2", on_hand=7)])
    answer = await shop.stock(brand_grant("brd_a")).ImportStock(request)
    assert answer.imported == 2
    assert [(item.index, item.reason) for item in answer.rejects] == [
        (1, "STOCK_REPEATED"),
        (2, "STORE_NOT_FOUND"),
        (3, "STORE_NOT_FOUND"),
        (4, "VARIANT_NOT_FOUND"),
        (5, "STOCK_RESERVED"),
        (6, "INVALID_FIELD"),
    ]
    assert answer.rejects[3].row_id == "str_near:var_no"
    again = stock_pb2.ImportStockRequest(request_id=new_key(), rows=[row(on_hand=6), row(variant="var_shirt_40", on_hand=4)])
    assert (await shop.stock().ImportStock(again)).imported == 2
    assert await shop.levels() == {"on_hand": 4, "reserved": 1}
    assert await shop.levels(variant_id="var_hat_1") == {"on_hand": 6, "reserved": 0}


async def test_stock_follows_store_to_new_owner(shop: Shop) -> None:
    assert list((await shop.stock(brand_grant("brd_b")).ListStocks(stock_pb2.ListStocksRequest(store_id="str_near"))).stocks) == []
    await shop.publish_store("str_near", "brd_b")
    (row,) = (await shop.stock(brand_grant("brd_b")).ListStocks(stock_pb2.ListStocksRequest(store_id="str_near"))).stocks
    assert (row.seller_id, row.brand_id) == ("brd_b", "brd_a")


async def test_stock_queries_use_indexes(shop: Shop) -> None:
    await shop.set_stock(on_hand=50)
    for number in range(20):
        await shop.hold(f"con_{number}")
    holds, stock = shop.database["holds"], shop.database["stock"]
    for stages in (
        await plan_stages(holds, {"state": "HOLD_STATE_HELD", "sweep_at": {"$lte": clock.system_now()}}, [("sweep_at", 1)]),
        await plan_stages(holds, {"stock_id": {"$in": ["str_near:var_shirt_40"]}, "state": {"$in": list(rules.LIVE)}}),
        await plan_stages(holds, {"consumer_id": "con_1"}, [("held_at", -1), ("_id", 1)]),
        await plan_stages(holds, {"store_id": "str_near"}, [("held_at", -1), ("_id", 1)]),
        await plan_stages(stock, {"store_id": "str_near"}, [("_id", 1)]),
        await plan_stages(stock, {"variant_id": "var_shirt_40"}, [("_id", 1)]),
    ):
        assert "IXSCAN" in stages
        assert not stages & {"COLLSCAN", "SORT"}


async def test_batch_lists_equal_single_lists_within_scope(shop: Shop) -> None:
    await shop.publish_store("str_far", "brd_b")
    await shop.create_product("hat", sizes=(1, 2, 3))
    for size in (1, 2, 3):
        await shop.set_stock("str_near", f"var_hat_{size}", on_hand=9)
    await shop.set_stock("str_far", "var_hat_1", on_hand=9)
    for id, store in (("con_a", "str_near"), ("con_a", "str_near"), ("con_b", "str_near"), ("con_b", "str_far")):
        await shop.hold(id, store, "var_hat_1")
    stocks, holds = "StockService.BatchListStocks", "StockService.BatchListHolds"
    stores, variants, people = ["str_near", "str_far", "str_none"], ["var_hat_1", "var_hat_2"], ["con_a", "con_b", "con_none"]
    for grant, of_stores, of_variants in (
        (OPERATOR, {"str_near": 4, "str_far": 1}, {"var_hat_1": 2, "var_hat_2": 1}),
        (brand_grant("brd_b"), {"str_far": 1}, {"var_hat_1": 1}),
        (store_grant("str_near", "ROLE_GUIDE"), {"str_near": 4}, {"var_hat_1": 1, "var_hat_2": 1}),
    ):
        assert await assert_batch_equals_lists(shop.stock(grant), stocks, "store_id", stores) == of_stores
        assert await assert_batch_equals_lists(shop.stock(grant), stocks, "variant_id", variants) == of_variants
    assert await assert_batch_equals_lists(shop.stock(), holds, "store_id", stores) == {"str_near": 3, "str_far": 1}
    assert await assert_batch_equals_lists(shop.stock(), holds, "consumer_id", people) == {"con_a": 2, "con_b": 2}
    for grant, by, keys, counts in (
        (brand_grant("brd_b"), "store_id", stores, {"str_far": 1}),
        (store_grant("str_near", "ROLE_GUIDE"), "store_id", stores, {"str_near": 3}),
        (store_grant("str_near", "ROLE_GUIDE"), "consumer_id", people, {"con_a": 2, "con_b": 1}),
        (consumer_grant("con_a"), "consumer_id", people, {"con_a": 2}),
    ):
        assert await assert_batch_equals_lists(shop.stock(grant), holds, by, keys) == counts
    with pytest.raises(Denied):
        await fetch_first_pages(shop.stock(consumer_grant()), stocks, "store_id", stores, 1)
    for rpc, collection, by, keys in (
        (stocks, "stock", "store_id", stores),
        (holds, "holds", "store_id", stores),
        (holds, "holds", "consumer_id", people),
    ):
        assert await count_documents_read(shop.database, collection, fetch_first_pages(shop.stock(), rpc, by, keys, 1)) <= 2 * 2
