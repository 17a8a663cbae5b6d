"""The shirt, tonight: what can be in my hands here, by when, from which store; and held in the same call."""

import asyncio
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from quanyu.commerce.v1 import discovery_pb2, stock_pb2
from quanyu.common.v1.point_pb2 import Point
from services.commerce.discovery import geo_queries, rules
from services.commerce.discovery.repository import ROWS_MAX
from services.commerce.stock.repository import STOCK, STORES
from services.commerce.stock.rules import Point as At
from services.kit import clock
from services.kit.errors import Conflict, Denied, Exhausted, Invalid, NotFound
from tests.services.commerce.conftest import HERE, Shop, consumer, explained, fresh, of_store, stages


def evening() -> float:
    """The offset in seconds that makes it 21:40 in Shanghai, today."""
    now = clock.real()
    return (now.replace(hour=13, minute=40, second=0, microsecond=0) - now).total_seconds()


async def search(shop: Shop, offset: float = 0.0, **asked: Any) -> discovery_pb2.SearchPromisesResponse:
    given = {"near": HERE, "text": "白衬衫", "attributes": {"size": "40"}} | asked
    return await shop.discovery(consumer(), offset=offset).SearchPromises(discovery_pb2.SearchPromisesRequest(**given))


def hold(consumer_id: str = "con_a", **more: Any) -> discovery_pb2.HoldPromiseRequest:
    given: dict[str, Any] = {
        "request_id": fresh(), "consumer_id": consumer_id, "variant_id": "var_shirt_40", "store_id": "str_near",
        "method": stock_pb2.METHOD_PICKUP, "destination": HERE,
    } | more  # fmt: skip
    return discovery_pb2.HoldPromiseRequest(**given)


async def test_a_white_shirt_size_40_tonight(shop: Shop) -> None:
    await shop.store("str_near", opens_minute=600, closes_minute=1320)
    await shop.store("str_far", position=Point(longitude=116.4700, latitude=39.9370), opens_minute=600, closes_minute=1320)
    await shop.stocked("str_far", on_hand=5)
    await shop.store("str_other_town", position=Point(longitude=121.47, latitude=31.23))
    await shop.stocked("str_other_town", on_hand=5)
    found = await search(shop, evening())
    assert [(item.store_id, item.method) for item in found.promises] == [
        ("str_near", stock_pb2.METHOD_PICKUP),
        ("str_near", stock_pb2.METHOD_INSTANT_DELIVERY),
        ("str_far", stock_pb2.METHOD_INSTANT_DELIVERY),
        ("str_far", stock_pb2.METHOD_PICKUP),
    ]
    near = found.promises[0]
    assert near.distance_metres == rules.distance_metres(At(HERE.longitude, HERE.latitude), At(116.4560, 39.9380))
    assert near.availability == stock_pb2.AVAILABILITY_LAST_ONE
    assert found.promises[2].availability == stock_pb2.AVAILABILITY_AVAILABLE
    assert (near.name.zh, near.attributes["size"], near.price.minor) == ("男士白衬衫", "40", 39_900)
    assert near.open_until.ToDatetime().strftime("%H:%M") == "14:00"
    assert (await search(shop, evening(), text="red dress")).promises == []
    assert (await search(shop, evening(), attributes={"size": "41"})).promises == []
    anonymous = discovery_pb2.SearchPromisesRequest(near=HERE, text="shirt")
    assert await type(shop.discovery())(shop.commerce.anonymous()).SearchPromises(anonymous)


async def test_the_last_one_is_held_and_a_second_consumer_is_told_so(shop: Shop) -> None:
    answer = await shop.discovery(consumer()).HoldPromise(hold())
    promise = answer.hold.promise
    assert (promise.method, promise.store_id, promise.price.minor) == (stock_pb2.METHOD_PICKUP, "str_near", 39_900)
    seen = await search(shop)
    assert list(seen.promises) == []
    assert [(item.store_id, item.obstacle, item.until) for item in seen.unavailable] == [
        ("str_near", discovery_pb2.OBSTACLE_HELD, answer.hold.expires_at)
    ]
    with pytest.raises(Exhausted, match="OUT_OF_STOCK") as refused:
        await shop.discovery(consumer("con_b")).HoldPromise(hold("con_b"))
    assert datetime.fromisoformat(refused.value.metadata["held_until"]) == answer.hold.expires_at.ToDatetime(UTC)


async def test_a_repeated_hold_of_a_promise_is_the_same_even_after_closing(shop: Shop) -> None:
    await shop.store("str_near", opens_minute=600, closes_minute=1320)
    request = hold()
    first = await shop.discovery(consumer(), offset=evening()).HoldPromise(request)
    again = await shop.discovery(consumer(), offset=evening() + 7200).HoldPromise(request)
    assert again == first
    with pytest.raises(Conflict, match="STORE_CLOSED") as refused:
        await shop.discovery(consumer(), offset=evening() + 7200).HoldPromise(hold())
    assert datetime.fromisoformat(refused.value.metadata["opens_at"]).strftime("%H:%M") == "02:00"
    assert await shop.row() == {"on_hand": 1, "reserved": 1}


async def test_a_store_that_never_closes_promises_beyond_midnight(shop: Shop) -> None:
    late = evening() + timedelta(hours=2, minutes=15).total_seconds()  # 23:55
    found = await search(shop, late)
    promise = (await shop.discovery(consumer(), offset=late).HoldPromise(hold())).hold.promise
    assert promise.store_id == "str_near"
    assert not any(made.HasField("open_until") for made in (promise, *found.promises))


async def test_only_one_of_many_who_see_the_promise_holds_it(shop: Shop) -> None:
    asked = [shop.discovery(consumer(f"con_{place}")).HoldPromise(hold(f"con_{place}")) for place in range(20)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(answer, discovery_pb2.HoldPromiseResponse) for answer in answers) == 1
    assert sum(isinstance(answer, Exhausted) for answer in answers) == 19
    await shop.check()


async def test_what_is_in_the_way_is_told(shop: Shop) -> None:
    await shop.store("str_near", delivers=False)
    nothing = await search(shop, methods=[stock_pb2.METHOD_INSTANT_DELIVERY])
    assert [item.obstacle for item in nothing.unavailable] == [discovery_pb2.OBSTACLE_NOT_DELIVERED_HERE]
    late = await search(shop, needed_by=clock.now() + timedelta(minutes=3))
    assert [item.obstacle for item in late.unavailable] == [discovery_pb2.OBSTACLE_TOO_LATE]
    with pytest.raises(Conflict, match="NOT_DELIVERED_HERE"):
        await shop.discovery(consumer()).HoldPromise(hold(method=stock_pb2.METHOD_INSTANT_DELIVERY))
    await shop.store("str_near", opens_minute=600, closes_minute=1320)
    closed = await search(shop, offset=evening() + 7200)
    assert [(item.obstacle, item.HasField("until")) for item in closed.unavailable] == [(discovery_pb2.OBSTACLE_STORE_CLOSED, True)]
    with pytest.raises(Conflict, match="STORE_CLOSED"):
        await shop.discovery(consumer(), offset=evening() + 7200).HoldPromise(hold())


@pytest.mark.parametrize("never", [{"active": False}, {"opens_minute": 0, "closes_minute": 0}])
async def test_a_store_that_never_opens_is_not_spoken_of(shop: Shop, never: dict[str, Any]) -> None:
    await shop.store("str_near", **never)
    found = await search(shop)
    assert (list(found.promises), list(found.unavailable)) == ([], [])
    with pytest.raises(Conflict, match="STORE_CLOSED"):
        await shop.discovery(consumer()).HoldPromise(hold())


@pytest.mark.parametrize(
    "cannot",
    [{"active": False}, {"opens_minute": 600, "closes_minute": 1200}, {"opens_minute": 0, "closes_minute": 0}, {"delivers": False}],
)
async def test_what_cannot_be_had_hides_nothing_that_can(shop: Shop, cannot: dict[str, Any]) -> None:
    """However much of it lies nearer."""
    sizes = tuple(range(100, 100 + ROWS_MAX + 10))
    await shop.product("other", sizes=sizes)
    rows = [stock_pb2.StockRow(store_id="str_near", variant_id=f"var_other_{size}", on_hand=1) for size in sizes]
    await shop.stock().ImportStock(stock_pb2.ImportStockRequest(request_id=fresh(), rows=rows))
    await shop.store("str_near", **cannot)
    await shop.store("str_far", position=Point(longitude=116.4700, latitude=39.9370))
    await shop.stocked("str_far")
    found = await search(shop, evening(), attributes={}, methods=[stock_pb2.METHOD_INSTANT_DELIVERY])
    assert [(item.store_id, item.variant_id) for item in found.promises] == [("str_far", "var_shirt_40")]
    assert {item.store_id for item in found.unavailable} <= {"str_near"}
    assert len(found.unavailable) in (0, rules.UNAVAILABLE_MAX)


async def test_questions_and_holds_have_bounds_and_scopes(shop: Shop) -> None:
    with pytest.raises(Invalid, match="NEAR_MISSING"):
        await search(shop, near=None)
    with pytest.raises(Invalid, match="KIND_MISSING"):
        await search(shop, text="", attributes={})
    for destination, field in ((None, "destination"), (Point(longitude=math.nan), "destination.longitude")):
        with pytest.raises(Invalid) as nowhere:
            await shop.discovery(consumer()).HoldPromise(hold(destination=destination))
        assert nowhere.value.metadata["field"] == field
    with pytest.raises(NotFound, match="STOCK_NOT_FOUND"):
        await shop.discovery(consumer()).HoldPromise(hold(store_id="str_no"))
    in_years = datetime(9999, 12, 31, tzinfo=UTC)
    for asked in (search(shop, needed_by=in_years), shop.discovery(consumer()).HoldPromise(hold(needed_by=in_years))):
        with pytest.raises(Invalid, match="INVALID_FIELD") as far:
            await asked
        assert far.value.metadata["field"] == "needed_by"
    with pytest.raises(Denied):
        await shop.discovery(consumer("con_b")).HoldPromise(hold("con_a"))
    with pytest.raises(Invalid, match="INVALID_FIELD"):
        await shop.discovery(of_store()).HoldPromise(hold(quantity=101))
    with pytest.raises(Invalid, match="The quantity must be 1 or more"):
        await shop.discovery(of_store()).HoldPromise(hold(quantity=0))
    answer = await shop.discovery(of_store(role="ROLE_GUIDE")).HoldPromise(hold())
    assert answer.hold.consumer_id == "con_a"


async def test_goods_are_found_where_their_store_is_now(shop: Shop) -> None:
    await shop.store("str_near", position=Point(longitude=121.47, latitude=31.23))
    assert (await search(shop)).promises == []
    found = await search(shop, near=Point(longitude=121.47, latitude=31.23))
    assert {(item.store_id, item.distance_metres) for item in found.promises} == {("str_near", 0)}


async def test_the_nearest_are_found_by_index(shop: Shop) -> None:
    here = At(HERE.longitude, HERE.latitude)
    free, held = (geo_queries.rows(here, 5_000, ["str_near"], ["var_shirt_40"], free=free, limit=50) for free in (True, False))
    for pipeline in (geo_queries.stores(here, 5_000, limit=1_000), free, held):
        asked = {"aggregate": STORES, "pipeline": pipeline, "cursor": {}}
        found = stages(await shop.database.raw.command("explain", asked, verbosity="queryPlanner"))
        assert "GEO_NEAR_2DSPHERE" in found
        assert "COLLSCAN" not in found
    for pipeline in (free, held):
        # What a look-up does is in no plan: the same question of one store.
        (shelf,) = (stage["$lookup"]["pipeline"][0]["$match"] for stage in pipeline if "$lookup" in stage)
        assert await explained(shop.database[STOCK], {"store_id": "str_near"} | shelf) == {"FETCH", "IXSCAN"}
