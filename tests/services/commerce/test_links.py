"""Orders, holds and an order's scenario are a person's, under whichever of their ids."""

import asyncio
from datetime import datetime, timedelta
from itertools import permutations

import pytest

from quanyu.commerce.v1.orders_pb2 import BatchListOrdersRequest, ListOrdersRequest
from quanyu.commerce.v1.stock_pb2 import BatchListHoldsRequest, Hold, HoldStockRequest, ListHoldsRequest
from quanyu.events.v1 import events_pb2
from services.commerce.orders.scenario import Reached, Visit, together
from services.commerce.stock.rules import HOLDS_MAX
from services.kit import clock
from services.kit.errors import Exhausted
from services.kit.transactions.outbox import route
from tests.services.commerce.conftest import Shop, consumer, fresh, of_store
from tests.services.lists import rows_read

AT_HOME = ("SCENARIO_AT_HOME", "otherwise", "")
OFF_STORE = ("SCENARIO_OFF_STORE", "reached_after_visit", "out_a")
IDS = ("con_a", "con_twin")
LINK = {"consumer_id": "con_a", "linked_consumer_id": "con_twin"}


async def tell(shop: Shop, at: datetime, **body: dict[str, str]) -> None:
    """An event with such a body, as of `at`."""
    ((kind, told),) = body.items()
    way = route(kind)
    event = events_pb2.Event(id=f"evt_{fresh()}", key=told[way.key], at=at, source=way.publisher, **{kind: told})  # type: ignore[arg-type]
    delivered = await shop.commerce.deliver(event, source=way.publisher)
    assert [item.state for item in delivered] == [events_pb2.DELIVERY_STATE_APPLIED], delivered


async def derived(shop: Shop, consumer_id: str) -> tuple[str, str, str]:
    order = await shop.placed(consumer_id)
    row = await shop.database["orders"].find_one({"_id": order.id})
    return row["scenario"], row["scenario_basis"]["rule"], row["scenario_basis"]["evidence_id"]


async def listed(shop: Shop, consumer_id: str) -> set[str]:
    answer = await shop.orders().ListOrders(ListOrdersRequest(consumer_id=consumer_id))
    return {order.id for order in answer.orders}


@pytest.mark.parametrize("steps", list(permutations(["visit", "outreach", "link"])), ids=", then ".join)
async def test_who_left_as_one_and_was_written_to_as_another_buys_off_store(shop: Shop, steps: tuple[str, ...]) -> None:
    """In whichever order it is heard, and not once the link is undone."""
    now = clock.now()
    visit = {"visit_id": "vis_a", "consumer_id": "con_a", "district_id": "dst_a"}
    wrote = {"outreach_id": "out_a", "consumer_id": "con_twin", "brand_id": "brd_a"}
    await shop.stocked(on_hand=9)
    for step in steps:
        match step:
            case "visit":
                await tell(shop, now - timedelta(hours=2), visit_started=visit)
                await tell(shop, now - timedelta(hours=1), visit_left=visit)
            case "outreach":
                await tell(shop, now - timedelta(minutes=30), outreach_sent=wrote)
            case _:
                await tell(shop, now - timedelta(minutes=20), consumer_linked=LINK)
    assert [await derived(shop, id) for id in IDS] == [OFF_STORE, OFF_STORE]
    await tell(shop, now, consumer_unlinked=LINK)
    assert [await derived(shop, id) for id in IDS] == [AT_HOME, AT_HOME]


async def test_the_orders_of_a_person_are_those_under_all_their_ids(shop: Shop) -> None:
    """Whichever id is asked for, alone or among others; each id has its own again once the link is undone."""
    await shop.stocked(on_hand=9)
    placed = {id: (await shop.placed(id)).id for id in IDS}
    await tell(shop, clock.now(), consumer_linked=LINK)
    assert [await listed(shop, id) for id in IDS] == [set(placed.values())] * 2
    found = (await shop.orders().BatchListOrders(BatchListOrdersRequest(consumer_ids=list(IDS)))).lists
    assert {each.key: {order.id for order in each.orders} for each in found} == {id: set(placed.values()) for id in IDS}
    await tell(shop, clock.now(), consumer_unlinked=LINK)
    assert [await listed(shop, id) for id in IDS] == [{placed[id]} for id in IDS]
    stranger = await shop.orders(consumer("con_a")).BatchListOrders(BatchListOrdersRequest(consumer_ids=["con_twin"]))
    assert not any(each.orders for each in stranger.lists)


async def test_the_holds_of_a_person_are_those_under_all_their_ids(shop: Shop) -> None:
    await shop.stocked(on_hand=9)
    held = {id: (await shop.held(id)).id for id in IDS}

    async def listed(id: str, **more: str) -> set[str]:
        return {hold.id for hold in (await shop.stock().ListHolds(ListHoldsRequest(consumer_id=id, **more))).holds}

    await tell(shop, clock.now(), consumer_linked=LINK)
    assert [await listed(id) for id in IDS] == [set(held.values())] * 2
    assert await listed("con_a", store_id="str_far") == set()
    several = BatchListHoldsRequest(consumer_ids=[*IDS, "con_none"])
    assert {each.key: {hold.id for hold in each.holds} for each in (await shop.stock().BatchListHolds(several)).lists} == {
        id: set(held.values()) for id in IDS
    }
    assert await rows_read(shop.database, "holds", listed("con_a")) == 2
    # Within the caller's scope: the store's staff find them all there, each id by itself its own.
    here = await shop.stock(of_store()).ListHolds(ListHoldsRequest(consumer_id="con_a", store_id="str_near"))
    assert {hold.id for hold in here.holds} == set(held.values())
    own = await shop.stock(consumer("con_twin")).ListHolds(ListHoldsRequest(consumer_id="con_twin"))
    assert [hold.id for hold in own.holds] == [held["con_twin"]]
    mine = (await shop.stock(consumer("con_twin")).BatchListHolds(several)).lists
    assert {hold.id for each in mine for hold in each.holds} == {held["con_twin"]}
    await tell(shop, clock.now(), consumer_unlinked=LINK)
    assert [await listed(id) for id in IDS] == [{held[id]} for id in IDS]


async def test_a_person_holds_no_more_under_several_ids(shop: Shop) -> None:
    """Neither themself nor by a brand's staff, with a hold or with an order; each id has its own count again once the link is undone."""
    await shop.stocked(on_hand=100)
    manager = of_store()

    async def by_staff(id: str) -> None:
        await shop.stock(manager).HoldStock(
            HoldStockRequest(request_id=fresh(), store_id="str_near", variant_id="var_shirt_40", quantity=1, consumer_id=id)
        )

    for place in range(HOLDS_MAX - 2):
        await shop.held(IDS[place % 2])
        await by_staff(IDS[place % 2])
    await tell(shop, clock.now(), consumer_linked=LINK)
    for hold in (shop.held, by_staff):
        for id in IDS:
            await hold(id)
        for id in IDS:
            with pytest.raises(Exhausted, match="TOO_MANY_HOLDS"):
                await hold(id)
    for id in IDS:
        with pytest.raises(Exhausted, match="TOO_MANY_HOLDS"):
            await shop.placed(id)
    await tell(shop, clock.now(), consumer_unlinked=LINK)
    for id in IDS:
        await shop.held(id)
        await by_staff(id)
    await shop.check()


async def test_no_more_stand_for_a_person_however_many_are_asked_for_at_once_under_any_id(shop: Shop) -> None:
    await shop.stocked(on_hand=100)
    await tell(shop, clock.now(), consumer_linked=LINK)
    answers = await asyncio.gather(*(shop.held(id) for id in IDS * 10), return_exceptions=True)
    assert sum(isinstance(answer, Hold) for answer in answers) == HOLDS_MAX
    assert {answer.reason for answer in answers if isinstance(answer, Exhausted)} == {"TOO_MANY_HOLDS"}
    await shop.check()


def test_a_person_is_where_they_went_last_and_was_reached_last_by_each_brand() -> None:
    now = clock.now()
    early, late = now - timedelta(hours=5), now - timedelta(hours=1)
    gone = Visit("con_a", "vis_a", early, early + timedelta(hours=1), {"brd_a": Reached("out_a", late), "brd_b": Reached("out_b", early)})
    here = Visit("con_b", "vis_b", late, None, {"brd_a": Reached("out_c", early), "brd_b": Reached("out_d", late)})
    written_to = Visit("con_c", reached={"brd_c": Reached("out_e", now)})
    for visits in permutations([gone, here, written_to]):
        known = together(visits)
        assert known is not None
        assert (known.visit_id, known.entered_at, known.left_at) == ("vis_b", late, None)
        assert {brand: one.outreach_id for brand, one in known.reached.items()} == {"brd_a": "out_a", "brd_b": "out_d", "brd_c": "out_e"}
    assert together([written_to]) == written_to
    assert together([]) is None
