"""Linked consumer ids: orders, holds and the scenario of an order belong to the person behind them."""

import asyncio
from datetime import datetime, timedelta
from itertools import permutations

import pytest

from quanyu.commerce.v1.orders_pb2 import BatchListOrdersRequest, ListOrdersRequest
from quanyu.commerce.v1.stock_pb2 import BatchListHoldsRequest, Hold, HoldStockRequest, ListHoldsRequest
from quanyu.events.v1 import events_pb2
from services.commerce.orders.scenario import GuideMessage, Visit, merge_visits
from services.commerce.stock.rules import HOLDS_MAX
from services.kit import clock
from services.kit.errors import Exhausted
from services.kit.transactions.outbox import route_of
from tests.services.commerce.conftest import Shop, consumer_grant, new_key, store_grant
from tests.services.lists import count_documents_read

AT_HOME = ("SCENARIO_AT_HOME", "otherwise", "")
OFF_STORE = ("SCENARIO_OFF_STORE", "reached_after_visit", "out_a")
IDS = ("con_a", "con_twin")
LINK = {"consumer_id": "con_a", "linked_consumer_id": "con_twin"}


async def publish(shop: Shop, at: datetime, **body: dict[str, str]) -> None:
    """Publishes an event with this body, as of `at`."""
    ((kind, fields),) = body.items()
    event_route = route_of(kind)
    source = event_route.publisher
    event = events_pb2.Event(id=f"evt_{new_key()}", key=fields[event_route.key], at=at, source=source, **{kind: fields})  # type: ignore[arg-type]
    delivered = await shop.commerce.deliver(event, source=source)
    assert [item.state for item in delivered] == [events_pb2.DELIVERY_STATE_APPLIED], delivered


async def order_scenario(shop: Shop, consumer_id: str) -> tuple[str, str, str]:
    order = await shop.place_order(consumer_id)
    document = await shop.database["orders"].find_one({"_id": order.id})
    return document["scenario"], document["scenario_basis"]["rule"], document["scenario_basis"]["evidence_id"]


async def listed(shop: Shop, consumer_id: str) -> set[str]:
    answer = await shop.orders().ListOrders(ListOrdersRequest(consumer_id=consumer_id))
    return {order.id for order in answer.orders}


@pytest.mark.parametrize("steps", list(permutations(["visit", "outreach", "link"])), ids=", then ".join)
async def test_linked_visit_and_message_give_off_store(shop: Shop, steps: tuple[str, ...]) -> None:
    """The order of the events has no effect, and an undone link restores the scenario of each id."""
    now = clock.now()
    visit = {"visit_id": "vis_a", "consumer_id": "con_a", "district_id": "dst_a"}
    message = {"outreach_id": "out_a", "consumer_id": "con_twin", "brand_id": "brd_a"}
    await shop.set_stock(on_hand=9)
    for step in steps:
        match step:
            case "visit":
                await publish(shop, now - timedelta(hours=2), visit_started=visit)
                await publish(shop, now - timedelta(hours=1), visit_left=visit)
            case "outreach":
                await publish(shop, now - timedelta(minutes=30), outreach_sent=message)
            case _:
                await publish(shop, now - timedelta(minutes=20), consumer_linked=LINK)
    assert [await order_scenario(shop, id) for id in IDS] == [OFF_STORE, OFF_STORE]
    await publish(shop, now, consumer_unlinked=LINK)
    assert [await order_scenario(shop, id) for id in IDS] == [AT_HOME, AT_HOME]


async def test_orders_of_linked_ids_are_listed_together(shop: Shop) -> None:
    """An undone link gives each id its own orders again."""
    await shop.set_stock(on_hand=9)
    placed = {id: (await shop.place_order(id)).id for id in IDS}
    await publish(shop, clock.now(), consumer_linked=LINK)
    assert [await listed(shop, id) for id in IDS] == [set(placed.values())] * 2
    found = (await shop.orders().BatchListOrders(BatchListOrdersRequest(consumer_ids=list(IDS)))).lists
    assert {each.key: {order.id for order in each.orders} for each in found} == {id: set(placed.values()) for id in IDS}
    await publish(shop, clock.now(), consumer_unlinked=LINK)
    assert [await listed(shop, id) for id in IDS] == [{placed[id]} for id in IDS]
    stranger = await shop.orders(consumer_grant("con_a")).BatchListOrders(BatchListOrdersRequest(consumer_ids=["con_twin"]))
    assert not any(each.orders for each in stranger.lists)


async def test_holds_of_linked_ids_are_listed_together(shop: Shop) -> None:
    await shop.set_stock(on_hand=9)
    held = {id: (await shop.hold(id)).id for id in IDS}

    async def listed(id: str, **more: str) -> set[str]:
        return {hold.id for hold in (await shop.stock().ListHolds(ListHoldsRequest(consumer_id=id, **more))).holds}

    await publish(shop, clock.now(), consumer_linked=LINK)
    assert [await listed(id) for id in IDS] == [set(held.values())] * 2
    assert await listed("con_a", store_id="str_far") == set()
    request = BatchListHoldsRequest(consumer_ids=[*IDS, "con_none"])
    assert {each.key: {hold.id for hold in each.holds} for each in (await shop.stock().BatchListHolds(request)).lists} == {
        id: set(held.values()) for id in IDS
    }
    assert await count_documents_read(shop.database, "holds", listed("con_a")) == 2
    # The store's staff list the holds of both ids in their store. Each id lists its own.
    here = await shop.stock(store_grant()).ListHolds(ListHoldsRequest(consumer_id="con_a", store_id="str_near"))
    assert {hold.id for hold in here.holds} == set(held.values())
    own = await shop.stock(consumer_grant("con_twin")).ListHolds(ListHoldsRequest(consumer_id="con_twin"))
    assert [hold.id for hold in own.holds] == [held["con_twin"]]
    batch = (await shop.stock(consumer_grant("con_twin")).BatchListHolds(request)).lists
    assert {hold.id for each in batch for hold in each.holds} == {held["con_twin"]}
    await publish(shop, clock.now(), consumer_unlinked=LINK)
    assert [await listed(id) for id in IDS] == [{held[id]} for id in IDS]


async def test_linked_ids_share_one_hold_quota(shop: Shop) -> None:
    """It holds for the consumer and for a brand's staff, for holds and for orders. An undone link restores each id's quota."""
    await shop.set_stock(on_hand=100)
    manager = store_grant()

    async def hold_by_staff(id: str) -> None:
        await shop.stock(manager).HoldStock(
            HoldStockRequest(request_id=new_key(), store_id="str_near", variant_id="var_shirt_40", quantity=1, consumer_id=id)
        )

    for index in range(HOLDS_MAX - 2):
        await shop.hold(IDS[index % 2])
        await hold_by_staff(IDS[index % 2])
    await publish(shop, clock.now(), consumer_linked=LINK)
    for hold in (shop.hold, hold_by_staff):
        for id in IDS:
            await hold(id)
        for id in IDS:
            with pytest.raises(Exhausted, match="TOO_MANY_HOLDS"):
                await hold(id)
    for id in IDS:
        with pytest.raises(Exhausted, match="TOO_MANY_HOLDS"):
            await shop.place_order(id)
    await publish(shop, clock.now(), consumer_unlinked=LINK)
    for id in IDS:
        await shop.hold(id)
        await hold_by_staff(id)
    await shop.check_reserved()


async def test_linked_ids_share_quota_under_concurrency(shop: Shop) -> None:
    await shop.set_stock(on_hand=100)
    await publish(shop, clock.now(), consumer_linked=LINK)
    answers = await asyncio.gather(*(shop.hold(id) for id in IDS * 10), return_exceptions=True)
    assert sum(isinstance(answer, Hold) for answer in answers) == HOLDS_MAX
    assert {answer.reason for answer in answers if isinstance(answer, Exhausted)} == {"TOO_MANY_HOLDS"}
    await shop.check_reserved()


def test_merge_visits_keeps_last_visit_and_messages() -> None:
    now = clock.now()
    early, late = now - timedelta(hours=5), now - timedelta(hours=1)
    ended = Visit(
        "con_a", "vis_a", early, early + timedelta(hours=1), {"brd_a": GuideMessage("out_a", late), "brd_b": GuideMessage("out_b", early)}
    )
    open_visit = Visit("con_b", "vis_b", late, None, {"brd_a": GuideMessage("out_c", early), "brd_b": GuideMessage("out_d", late)})
    message_only = Visit("con_c", reached={"brd_c": GuideMessage("out_e", now)})
    for visits in permutations([ended, open_visit, message_only]):
        merged = merge_visits(visits)
        assert merged is not None
        assert (merged.visit_id, merged.entered_at, merged.left_at) == ("vis_b", late, None)
        assert {brand: message.outreach_id for brand, message in merged.reached.items()} == {
            "brd_a": "out_a",
            "brd_b": "out_d",
            "brd_c": "out_e",
        }
    assert merge_visits([message_only]) == message_only
    assert merge_visits([]) is None
