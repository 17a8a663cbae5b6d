"""Stock over the wire: the last one is never given twice, what is held comes free exactly once, the books are always right."""

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
from services.kit.mongo.codec import checked
from services.kit.projections.persons import PersonProjection
from services.kit.security import authorization
from tests.services.commerce.conftest import Shop, consumer, explained, fresh, of_brand, of_store
from tests.services.conftest import OPERATOR
from tests.services.lists import first_pages, rows_read, says_the_same_of_each


def store_of(shop: Shop) -> StockRepository:
    return StockRepository(shop.database, shop.commerce.runtime.group_commit, PersonProjection(shop.database))


def set_stock(on_hand: int, safety: int = 0, store_id: str = "str_near", variant_id: str = "var_shirt_40") -> stock_pb2.SetStockRequest:
    return stock_pb2.SetStockRequest(request_id=fresh(), store_id=store_id, variant_id=variant_id, on_hand=on_hand, safety=safety)


def hold_stock(consumer_id: str, quantity: int = 1) -> stock_pb2.HoldStockRequest:
    return stock_pb2.HoldStockRequest(
        request_id=fresh(), store_id="str_near", variant_id="var_shirt_40", quantity=quantity, consumer_id=consumer_id
    )


def adjust(change: int) -> stock_pb2.AdjustStockRequest:
    return stock_pb2.AdjustStockRequest(request_id=fresh(), store_id="str_near", variant_id="var_shirt_40", change=change)


async def test_the_last_one_is_given_once_and_the_others_are_told_until_when(shop: Shop) -> None:
    stub = shop.stock()
    asked = [stub.HoldStock(hold_stock(f"con_{place}")) for place in range(40)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    held = [answer.hold for answer in answers if isinstance(answer, stock_pb2.HoldStockResponse)]
    refused = [answer for answer in answers if isinstance(answer, Exhausted)]
    assert (len(held), len(refused)) == (1, 39)
    assert held[0].expires_at.ToDatetime() - held[0].held_at.ToDatetime() == rules.HOLD_LIFE
    with pytest.raises(Exhausted, match="OUT_OF_STOCK") as later:
        await shop.stock(consumer("con_z")).HoldStock(hold_stock("con_z"))
    assert datetime.fromisoformat(later.value.metadata["held_until"]).replace(tzinfo=None) == held[0].expires_at.ToDatetime()
    await shop.check()


async def test_what_is_sold_out_is_not_said_to_be_held(shop: Shop) -> None:
    await shop.stocked(on_hand=1, safety=1)
    with pytest.raises(Exhausted, match="OUT_OF_STOCK") as refused:
        await shop.held()
    assert "held_until" not in refused.value.metadata


async def test_how_many_are_left_is_not_told(shop: Shop) -> None:
    await shop.stocked(on_hand=5)
    for asked in (6, 100):
        with pytest.raises(Exhausted, match="OUT_OF_STOCK") as refused:
            await shop.held(quantity=asked)
        assert refused.value.metadata == {"fewer": "True"}
    await shop.held("con_b", quantity=5)
    with pytest.raises(Exhausted, match="OUT_OF_STOCK") as refused:
        await shop.held(quantity=1)
    assert (refused.value.metadata.keys(), refused.value.metadata["fewer"]) == ({"fewer", "held_until"}, "False")


async def test_a_repeated_hold_is_the_same_hold(shop: Shop) -> None:
    request = hold_stock("con_a")
    stub = shop.stock(consumer())
    answers = await asyncio.gather(*(stub.HoldStock(request) for _ in range(20)))
    assert len({answer.hold.id for answer in answers}) == 1
    request.quantity = 2
    with pytest.raises(Conflict, match="REQUEST_ID_REUSED"):
        await stub.HoldStock(request)
    assert await shop.row() == {"on_hand": 1, "reserved": 1}


async def test_released_goods_are_there_again_at_once_and_only_once(shop: Shop) -> None:
    hold = await shop.held()
    stub = shop.stock(consumer())
    releases = [stub.ReleaseHold(stock_pb2.ReleaseHoldRequest(request_id=fresh(), hold_id=hold.id)) for _ in range(10)]
    answers = await asyncio.gather(*releases)
    assert {answer.hold.state for answer in answers} == {stock_pb2.HOLD_STATE_RELEASED}
    assert await shop.row() == {"on_hand": 1, "reserved": 0}
    assert (await shop.held("con_b")).state == stock_pb2.HOLD_STATE_HELD


async def test_the_sweeper_gives_back_by_the_machines_clock_exactly_once(shop: Shop) -> None:
    await shop.stocked(on_hand=30)
    holds = [await shop.held(f"con_{place}") for place in range(30)]
    # Their time is over on the machine's clock, except for two.
    over = [hold.id for hold in holds[2:]]
    await shop.database["holds"].update_many({"_id": {"$in": over}}, {"$set": {"sweep_at": clock.real() - timedelta(seconds=1)}})
    authorization.current.set(authorization.SYSTEM)
    # Three sweepers at once, beside the service's own: each hold counts once.
    await asyncio.gather(*(store_of(shop).sweep() for _ in range(3)))
    assert await shop.row() == {"on_hand": 30, "reserved": 2}
    states = await shop.database["holds"].distinct("state", {"_id": {"$in": over}})
    assert states == ["HOLD_STATE_EXPIRED"]
    await shop.check()


async def test_a_callers_own_clock_does_not_move_the_sweeper(shop: Shop) -> None:
    channel = shop.channel(consumer(), offset=-20 * 3600)
    answer = await type(shop.stock())(channel).HoldStock(hold_stock("con_a"))
    assert answer.hold.expires_at.ToDatetime() < clock.real().replace(tzinfo=None) - timedelta(hours=19)
    authorization.current.set(authorization.SYSTEM)
    assert await store_of(shop).sweep() == 0
    assert await shop.row() == {"on_hand": 1, "reserved": 1}


async def test_reserved_is_the_sum_of_live_holds_whatever_happens_at_once_and_whoever_is_killed(shop: Shop) -> None:
    await shop.stocked(on_hand=12)
    stub = shop.stock()

    async def come_and_go(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(6):
            try:
                answer = await stub.HoldStock(hold_stock(f"con_{seed}", dice.randint(1, 3)))
                if dice.random() < 0.7:
                    await stub.ReleaseHold(stock_pb2.ReleaseHoldRequest(request_id=fresh(), hold_id=answer.hold.id))
                else:
                    await stub.AdjustStock(
                        stock_pb2.AdjustStockRequest(
                            request_id=fresh(), store_id="str_near", variant_id="var_shirt_40", change=dice.choice((-1, 1))
                        )
                    )
            except (Exhausted, Conflict):
                continue

    tasks = [asyncio.create_task(come_and_go(seed)) for seed in range(12)]
    # Some callers die in the middle of a call.
    killed = set(random.Random(1).sample(tasks, 4))
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in killed:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    # What a killed caller had on its way has landed or not once the group_commit is empty; a call behind it tells.
    await stub.AdjustStock(adjust(5))
    await shop.check()
    assert await store_of(shop).uncounted() == []


async def test_uncounted_finds_a_row_that_is_wrong(shop: Shop) -> None:
    await shop.database["stock"].update_one({"_id": "str_near:var_shirt_40"}, {"$set": {"reserved": 1}})
    assert await store_of(shop).uncounted() == ["str_near:var_shirt_40"]


async def test_a_count_never_goes_below_what_holds_stand_on(shop: Shop) -> None:
    await shop.stocked(on_hand=3)
    stub = shop.stock(of_store())
    with pytest.raises(Conflict, match="STOCK_RESERVED: there are not so many"):
        await stub.AdjustStock(adjust(-4))
    await shop.held(quantity=2)
    with pytest.raises(Conflict, match="STOCK_RESERVED: holds") as refused:
        await stub.SetStock(set_stock(1))
    assert refused.value.metadata["reserved"] == "2"
    answer = await stub.SetStock(set_stock(5, safety=1))
    assert (answer.stock.on_hand, answer.stock.reserved, answer.stock.available) == (5, 2, 2)
    with pytest.raises(Conflict, match="STOCK_RESERVED"):
        await stub.AdjustStock(adjust(-4))
    with pytest.raises(Invalid, match="INVALID_FIELD"):
        await stub.SetStock(set_stock(-1))


@given(st.integers(0, rules.COUNT_MAX), st.integers(-rules.COUNT_MAX, rules.COUNT_MAX), st.data())
def test_whatever_is_added_or_taken_a_row_can_be_read(on_hand: int, change: int, data: st.DataObject) -> None:
    reserved = data.draw(st.integers(0, on_hand))
    row = rules.Stock("str_a:var_a", "str_a", "var_a", "brd_a", "brd_a", on_hand + change, reserved)
    try:
        rules.check_level(row.on_hand, reserved)
    except Conflict as refused:
        assert (row.on_hand > rules.COUNT_MAX) == (refused.reason == "TOO_MANY_ON_HAND")
        assert (row.on_hand < reserved) == (refused.reason == "STOCK_RESERVED")
    else:
        assert checked(row) == row


async def test_no_more_are_on_hand_than_can_be_counted(shop: Shop) -> None:
    await shop.stocked(on_hand=rules.COUNT_MAX - 1)
    stub = shop.stock(of_store())
    assert (await stub.AdjustStock(adjust(1))).stock.on_hand == rules.COUNT_MAX
    answers = await asyncio.gather(*(stub.AdjustStock(adjust(1)) for _ in range(5)), return_exceptions=True)
    assert {(type(answer), answer.reason, answer.metadata["limit"]) for answer in answers if isinstance(answer, Refusal)} == {
        (Conflict, "TOO_MANY_ON_HAND", "1000000000")
    }
    assert await shop.row() == {"on_hand": rules.COUNT_MAX, "reserved": 0}
    assert (await shop.held()).quantity == 1


async def test_a_store_keeps_its_own_stock_only(shop: Shop) -> None:
    await shop.store("str_far", "brd_b")
    for grant in (of_store("str_far"), of_brand("brd_b")):
        with pytest.raises(NotFound):
            await shop.stock(grant).SetStock(set_stock(9))
        with pytest.raises(NotFound):
            await shop.stock(grant).AdjustStock(adjust(1))
        assert list((await shop.stock(grant).BatchGetStocks(stock_pb2.BatchGetStocksRequest(ids=["str_near:var_shirt_40"]))).stocks) == []
    with pytest.raises(Denied):
        await shop.stock(consumer()).SetStock(set_stock(9))
    # A brand's goods lie in another's store: whoever runs the store counts them.
    answer = await shop.stock(of_brand("brd_b")).SetStock(set_stock(2, store_id="str_far"))
    assert (answer.stock.brand_id, answer.stock.seller_id) == ("brd_a", "brd_b")
    own = await shop.stock(of_store("str_far", "ROLE_GUIDE")).ListStocks(stock_pb2.ListStocksRequest(store_id="str_far"))
    everywhere = await shop.stock().ListStocks(stock_pb2.ListStocksRequest(variant_id="var_shirt_40"))
    assert [row.id for row in own.stocks] == ["str_far:var_shirt_40"]
    assert [row.available for row in everywhere.stocks] == [2, 1]


async def test_a_hold_is_seen_by_who_holds_and_by_the_store(shop: Shop) -> None:
    hold = await shop.held()
    get, listed = stock_pb2.GetHoldRequest(id=hold.id), stock_pb2.ListHoldsRequest(store_id="str_near")
    assert (await shop.stock(consumer()).GetHold(get)).hold == hold
    for who in (of_store(role="ROLE_GUIDE"), of_brand("brd_a")):
        assert list((await shop.stock(who).ListHolds(listed)).holds) == [hold]
    mine = await shop.stock(consumer()).ListHolds(stock_pb2.ListHoldsRequest(consumer_id="con_a"))
    assert list(mine.holds) == [hold]
    for stranger in (consumer("con_b"), of_store("str_far")):
        with pytest.raises(NotFound, match="HOLD_NOT_FOUND"):
            await shop.stock(stranger).GetHold(get)
        with pytest.raises(NotFound, match="HOLD_NOT_FOUND"):
            await shop.stock(stranger).ReleaseHold(stock_pb2.ReleaseHoldRequest(request_id=fresh(), hold_id=hold.id))
    assert list((await shop.stock(consumer("con_b")).BatchGetHolds(stock_pb2.BatchGetHoldsRequest(ids=[hold.id]))).holds) == []
    with pytest.raises(Denied):
        await shop.stock(consumer("con_b")).HoldStock(hold_stock("con_a"))


async def test_an_import_of_stock_says_which_rows_it_left_out(shop: Shop) -> None:
    await shop.product("hat", sizes=(1, 2))
    await shop.held()
    await shop.store("str_far", "brd_b")

    def row(store: str = "str_near", variant: str = "var_hat_1", on_hand: int = 5) -> stock_pb2.StockRow:
        return stock_pb2.StockRow(store_id=store, variant_id=variant, on_hand=on_hand)

    rows = [row(), row(), row("str_far"), row("str_no"), row(variant="var_no"), row(variant="var_shirt_40", on_hand=0), row(on_hand=-1)]
    request = stock_pb2.ImportStockRequest(request_id=fresh(), rows=[*rows, row(variant="var_hat_2", on_hand=7)])
    answer = await shop.stock(of_brand("brd_a")).ImportStock(request)
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
    again = stock_pb2.ImportStockRequest(request_id=fresh(), rows=[row(on_hand=6), row(variant="var_shirt_40", on_hand=4)])
    assert (await shop.stock().ImportStock(again)).imported == 2
    assert await shop.row() == {"on_hand": 4, "reserved": 1}
    assert await shop.row(variant_id="var_hat_1") == {"on_hand": 6, "reserved": 0}


async def test_stock_follows_its_store_to_another_owner(shop: Shop) -> None:
    assert list((await shop.stock(of_brand("brd_b")).ListStocks(stock_pb2.ListStocksRequest(store_id="str_near"))).stocks) == []
    await shop.store("str_near", "brd_b")
    (row,) = (await shop.stock(of_brand("brd_b")).ListStocks(stock_pb2.ListStocksRequest(store_id="str_near"))).stocks
    assert (row.seller_id, row.brand_id) == ("brd_b", "brd_a")


async def test_no_hot_query_reads_a_whole_collection(shop: Shop) -> None:
    await shop.stocked(on_hand=50)
    for place in range(20):
        await shop.held(f"con_{place}")
    holds, stock = shop.database["holds"], shop.database["stock"]
    for stages in (
        await explained(holds, {"state": "HOLD_STATE_HELD", "sweep_at": {"$lte": clock.real()}}, [("sweep_at", 1)]),
        await explained(holds, {"stock_id": {"$in": ["str_near:var_shirt_40"]}, "state": {"$in": list(rules.LIVE)}}),
        await explained(holds, {"consumer_id": "con_1"}, [("held_at", -1), ("_id", 1)]),
        await explained(holds, {"store_id": "str_near"}, [("held_at", -1), ("_id", 1)]),
        await explained(stock, {"store_id": "str_near"}, [("_id", 1)]),
        await explained(stock, {"variant_id": "var_shirt_40"}, [("_id", 1)]),
    ):
        assert "IXSCAN" in stages
        assert not stages & {"COLLSCAN", "SORT"}


async def test_the_first_rows_and_holds_of_several_are_those_of_each_within_scope(shop: Shop) -> None:
    await shop.store("str_far", "brd_b")
    await shop.product("hat", sizes=(1, 2, 3))
    for size in (1, 2, 3):
        await shop.stocked("str_near", f"var_hat_{size}", on_hand=9)
    await shop.stocked("str_far", "var_hat_1", on_hand=9)
    for id, store in (("con_a", "str_near"), ("con_a", "str_near"), ("con_b", "str_near"), ("con_b", "str_far")):
        await shop.held(id, store, "var_hat_1")
    stocks, holds = "StockService.BatchListStocks", "StockService.BatchListHolds"
    stores, variants, people = ["str_near", "str_far", "str_none"], ["var_hat_1", "var_hat_2"], ["con_a", "con_b", "con_none"]
    for grant, of_stores, of_variants in (
        (OPERATOR, {"str_near": 4, "str_far": 1}, {"var_hat_1": 2, "var_hat_2": 1}),
        (of_brand("brd_b"), {"str_far": 1}, {"var_hat_1": 1}),
        (of_store("str_near", "ROLE_GUIDE"), {"str_near": 4}, {"var_hat_1": 1, "var_hat_2": 1}),
    ):
        assert await says_the_same_of_each(shop.stock(grant), stocks, "store_id", stores) == of_stores
        assert await says_the_same_of_each(shop.stock(grant), stocks, "variant_id", variants) == of_variants
    assert await says_the_same_of_each(shop.stock(), holds, "store_id", stores) == {"str_near": 3, "str_far": 1}
    assert await says_the_same_of_each(shop.stock(), holds, "consumer_id", people) == {"con_a": 2, "con_b": 2}
    for grant, by, keys, own in (
        (of_brand("brd_b"), "store_id", stores, {"str_far": 1}),
        (of_store("str_near", "ROLE_GUIDE"), "store_id", stores, {"str_near": 3}),
        (of_store("str_near", "ROLE_GUIDE"), "consumer_id", people, {"con_a": 2, "con_b": 1}),
        (consumer("con_a"), "consumer_id", people, {"con_a": 2}),
    ):
        assert await says_the_same_of_each(shop.stock(grant), holds, by, keys) == own
    with pytest.raises(Denied):
        await first_pages(shop.stock(consumer()), stocks, "store_id", stores, 1)
    for rpc, table, by, keys in (
        (stocks, "stock", "store_id", stores),
        (holds, "holds", "store_id", stores),
        (holds, "holds", "consumer_id", people),
    ):
        assert await rows_read(shop.database, table, first_pages(shop.stock(), rpc, by, keys, 1)) <= 2 * 2
