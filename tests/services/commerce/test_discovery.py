"""Promise search by gRPC: goods near a place, their arrival, and the hold in the same call."""

import asyncio
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from quanyu.commerce.v1 import discovery_pb2, stock_pb2
from quanyu.common.v1.point_pb2 import Point
from services.commerce.discovery import geo_queries, rules
from services.commerce.discovery.repository import STOCK_MAX
from services.commerce.stock.repository import STOCK, STORES
from services.commerce.stock.rules import Point as At
from services.kit import clock
from services.kit.errors import Conflict, Denied, Exhausted, Invalid, NotFound
from tests.services.commerce.conftest import HERE, Shop, consumer_grant, new_key, plan_stages, stages_of, store_grant


def evening() -> float:
    """Returns the clock offset, in seconds, at which it is 21:40 today in Shanghai."""
    now = clock.system_now()
    return (now.replace(hour=13, minute=40, second=0, microsecond=0) - now).total_seconds()


async def search(shop: Shop, offset: float = 0.0, **fields: Any) -> discovery_pb2.SearchPromisesResponse:
    request: dict[str, Any] = {"near": HERE, "text": "白衬衫", "attributes": {"size": "40"}} | fields
    return await shop.discovery(consumer_grant(), offset=offset).SearchPromises(discovery_pb2.SearchPromisesRequest(**request))


def hold(consumer_id: str = "con_a", **more: Any) -> discovery_pb2.HoldPromiseRequest:
    fields: dict[str, Any] = {
        "request_id": new_key(), "consumer_id": consumer_id, "variant_id": "var_shirt_40", "store_id": "str_near",
        "method": stock_pb2.METHOD_PICKUP, "destination": HERE,
    } | more  # fmt: skip
    return discovery_pb2.HoldPromiseRequest(**fields)


async def test_search_returns_promises_soonest_first(shop: Shop) -> None:
    await shop.publish_store("str_near", opens_minute=600, closes_minute=1320)
    await shop.publish_store("str_far", position=Point(longitude=116.4700, latitude=39.9370), opens_minute=600, closes_minute=1320)
    await shop.set_stock("str_far", on_hand=5)
    await shop.publish_store("str_other_town", position=Point(longitude=121.47, latitude=31.23))
    await shop.set_stock("str_other_town", on_hand=5)
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


async def test_held_last_piece_is_unavailable_to_others(shop: Shop) -> None:
    answer = await shop.discovery(consumer_grant()).HoldPromise(hold())
    promise = answer.hold.promise
    assert (promise.method, promise.store_id, promise.price.minor) == (stock_pb2.METHOD_PICKUP, "str_near", 39_900)
    found = await search(shop)
    assert list(found.promises) == []
    assert [(item.store_id, item.obstacle, item.until) for item in found.unavailable] == [
        ("str_near", discovery_pb2.OBSTACLE_HELD, answer.hold.expires_at)
    ]
    with pytest.raises(Exhausted, match="OUT_OF_STOCK") as refusal:
        await shop.discovery(consumer_grant("con_b")).HoldPromise(hold("con_b"))
    assert datetime.fromisoformat(refusal.value.metadata["held_until"]) == answer.hold.expires_at.ToDatetime(UTC)


async def test_repeated_hold_after_closing_returns_same_hold(shop: Shop) -> None:
    await shop.publish_store("str_near", opens_minute=600, closes_minute=1320)
    request = hold()
    first = await shop.discovery(consumer_grant(), offset=evening()).HoldPromise(request)
    again = await shop.discovery(consumer_grant(), offset=evening() + 7200).HoldPromise(request)
    assert again == first
    with pytest.raises(Conflict, match="STORE_CLOSED") as refusal:
        await shop.discovery(consumer_grant(), offset=evening() + 7200).HoldPromise(hold())
    assert datetime.fromisoformat(refusal.value.metadata["opens_at"]).strftime("%H:%M") == "02:00"
    assert await shop.levels() == {"on_hand": 1, "reserved": 1}


async def test_promise_of_always_open_store_has_no_closing(shop: Shop) -> None:
    late = evening() + timedelta(hours=2, minutes=15).total_seconds()  # 23:55
    found = await search(shop, late)
    promise = (await shop.discovery(consumer_grant(), offset=late).HoldPromise(hold())).hold.promise
    assert promise.store_id == "str_near"
    assert not any(shown.HasField("open_until") for shown in (promise, *found.promises))


async def test_concurrent_holds_of_last_piece_succeed_once(shop: Shop) -> None:
    calls = [shop.discovery(consumer_grant(f"con_{number}")).HoldPromise(hold(f"con_{number}")) for number in range(20)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(answer, discovery_pb2.HoldPromiseResponse) for answer in answers) == 1
    assert sum(isinstance(answer, Exhausted) for answer in answers) == 19
    await shop.check_reserved()


async def test_unavailable_item_names_its_obstacle(shop: Shop) -> None:
    await shop.publish_store("str_near", delivers=False)
    nothing = await search(shop, methods=[stock_pb2.METHOD_INSTANT_DELIVERY])
    assert [item.obstacle for item in nothing.unavailable] == [discovery_pb2.OBSTACLE_NOT_DELIVERED_HERE]
    late = await search(shop, needed_by=clock.now() + timedelta(minutes=3))
    assert [item.obstacle for item in late.unavailable] == [discovery_pb2.OBSTACLE_TOO_LATE]
    with pytest.raises(Conflict, match="NOT_DELIVERED_HERE"):
        await shop.discovery(consumer_grant()).HoldPromise(hold(method=stock_pb2.METHOD_INSTANT_DELIVERY))
    await shop.publish_store("str_near", opens_minute=600, closes_minute=1320)
    closed = await search(shop, offset=evening() + 7200)
    assert [(item.obstacle, item.HasField("until")) for item in closed.unavailable] == [(discovery_pb2.OBSTACLE_STORE_CLOSED, True)]
    with pytest.raises(Conflict, match="STORE_CLOSED"):
        await shop.discovery(consumer_grant(), offset=evening() + 7200).HoldPromise(hold())


@pytest.mark.parametrize("never", [{"active": False}, {"opens_minute": 0, "closes_minute": 0}])
async def test_store_that_never_opens_is_left_out(shop: Shop, never: dict[str, Any]) -> None:
    await shop.publish_store("str_near", **never)
    found = await search(shop)
    assert (list(found.promises), list(found.unavailable)) == ([], [])
    with pytest.raises(Conflict, match="STORE_CLOSED"):
        await shop.discovery(consumer_grant()).HoldPromise(hold())


@pytest.mark.parametrize(
    "cannot",
    [{"active": False}, {"opens_minute": 600, "closes_minute": 1200}, {"opens_minute": 0, "closes_minute": 0}, {"delivers": False}],
)
async def test_unavailable_stock_does_not_displace_promises(shop: Shop, cannot: dict[str, Any]) -> None:
    sizes = tuple(range(100, 100 + STOCK_MAX + 10))
    await shop.create_product("other", sizes=sizes)
    rows = [stock_pb2.StockRow(store_id="str_near", variant_id=f"var_other_{size}", on_hand=1) for size in sizes]
    await shop.stock().ImportStock(stock_pb2.ImportStockRequest(request_id=new_key(), rows=rows))
    await shop.publish_store("str_near", **cannot)
    await shop.publish_store("str_far", position=Point(longitude=116.4700, latitude=39.9370))
    await shop.set_stock("str_far")
    found = await search(shop, evening(), attributes={}, methods=[stock_pb2.METHOD_INSTANT_DELIVERY])
    assert [(item.store_id, item.variant_id) for item in found.promises] == [("str_far", "var_shirt_40")]
    assert {item.store_id for item in found.unavailable} <= {"str_near"}
    assert len(found.unavailable) in (0, rules.UNAVAILABLE_MAX)


async def test_search_and_hold_check_limits_and_scope(shop: Shop) -> None:
    with pytest.raises(Invalid, match="NEAR_MISSING"):
        await search(shop, near=None)
    with pytest.raises(Invalid, match="KIND_MISSING"):
        await search(shop, text="", attributes={})
    for destination, field in ((None, "destination"), (Point(longitude=math.nan), "destination.longitude")):
        with pytest.raises(Invalid) as nowhere:
            await shop.discovery(consumer_grant()).HoldPromise(hold(destination=destination))
        assert nowhere.value.metadata["field"] == field
    with pytest.raises(NotFound, match="STOCK_NOT_FOUND"):
        await shop.discovery(consumer_grant()).HoldPromise(hold(store_id="str_no"))
    too_late = datetime(9999, 12, 31, tzinfo=UTC)
    for call in (search(shop, needed_by=too_late), shop.discovery(consumer_grant()).HoldPromise(hold(needed_by=too_late))):
        with pytest.raises(Invalid, match="INVALID_FIELD") as far:
            await call
        assert far.value.metadata["field"] == "needed_by"
    with pytest.raises(Denied):
        await shop.discovery(consumer_grant("con_b")).HoldPromise(hold("con_a"))
    with pytest.raises(Invalid, match="INVALID_FIELD"):
        await shop.discovery(store_grant()).HoldPromise(hold(quantity=101))
    with pytest.raises(Invalid, match="The quantity must be 1 or more"):
        await shop.discovery(store_grant()).HoldPromise(hold(quantity=0))
    answer = await shop.discovery(store_grant(role="ROLE_GUIDE")).HoldPromise(hold())
    assert answer.hold.consumer_id == "con_a"


async def test_search_uses_the_current_store_position(shop: Shop) -> None:
    await shop.publish_store("str_near", position=Point(longitude=121.47, latitude=31.23))
    assert (await search(shop)).promises == []
    found = await search(shop, near=Point(longitude=121.47, latitude=31.23))
    assert {(item.store_id, item.distance_metres) for item in found.promises} == {("str_near", 0)}


async def test_geo_queries_use_indexes(shop: Shop) -> None:
    here = At(HERE.longitude, HERE.latitude)
    free, held = (
        geo_queries.stock_pipeline(here, 5_000, ["str_near"], ["var_shirt_40"], available=available, limit=50)
        for available in (True, False)
    )
    for pipeline in (geo_queries.stores_pipeline(here, 5_000, limit=1_000), free, held):
        command = {"aggregate": STORES, "pipeline": pipeline, "cursor": {}}
        found = stages_of(await shop.database.raw.command("explain", command, verbosity="queryPlanner"))
        assert "GEO_NEAR_2DSPHERE" in found
        assert "COLLSCAN" not in found
    for pipeline in (free, held):
        # No plan shows what a $lookup does, so the same query runs on one store.
        (query,) = (stage["$lookup"]["pipeline"][0]["$match"] for stage in pipeline if "$lookup" in stage)
        assert await plan_stages(shop.database[STOCK], {"store_id": "str_near"} | query) == {"FETCH", "IXSCAN"}
