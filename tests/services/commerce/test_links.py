"""An order's scenario follows from what was told of the person, under whichever of their ids."""

from datetime import datetime, timedelta
from itertools import permutations

import pytest

from quanyu.commerce.v1.orders_pb2 import BatchListOrdersRequest, ListOrdersRequest
from quanyu.facts.v1 import facts_pb2
from services.commerce.orders.scenario import Reached, Visit, together
from services.kit import clock
from services.kit.facts.outbox import route
from tests.services.commerce.conftest import Shop, consumer, fresh

AT_HOME = ("SCENARIO_AT_HOME", "otherwise", "")
OFF_STORE = ("SCENARIO_OFF_STORE", "reached_after_visit", "out_a")
IDS = ("con_a", "con_twin")


async def tell(shop: Shop, at: datetime, **body: dict[str, str]) -> None:
    """A fact with such a body, as of `at`."""
    ((kind, told),) = body.items()
    way = route(kind)
    fact = facts_pb2.Fact(id=f"fct_{fresh()}", key=told[way.key], at=at, source=way.told_by, **{kind: told})  # type: ignore[arg-type]
    delivered = await shop.commerce.deliver(fact, source=way.told_by)
    assert [item.state for item in delivered] == [facts_pb2.DELIVERY_STATE_APPLIED], delivered


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
    link = {"consumer_id": "con_a", "linked_consumer_id": "con_twin"}
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
                await tell(shop, now - timedelta(minutes=20), consumer_linked=link)
    assert [await derived(shop, id) for id in IDS] == [OFF_STORE, OFF_STORE]
    await tell(shop, now, consumer_unlinked=link)
    assert [await derived(shop, id) for id in IDS] == [AT_HOME, AT_HOME]


async def test_the_orders_of_a_person_are_those_under_all_their_ids(shop: Shop) -> None:
    """Whichever id is asked for, alone or among others; each id has its own again once the link is undone."""
    link = {"consumer_id": "con_a", "linked_consumer_id": "con_twin"}
    await shop.stocked(on_hand=9)
    placed = {id: (await shop.placed(id)).id for id in IDS}
    await tell(shop, clock.now(), consumer_linked=link)
    assert [await listed(shop, id) for id in IDS] == [set(placed.values())] * 2
    found = (await shop.orders().BatchListOrders(BatchListOrdersRequest(consumer_ids=list(IDS)))).lists
    assert {each.key: {order.id for order in each.orders} for each in found} == {id: set(placed.values()) for id in IDS}
    await tell(shop, clock.now(), consumer_unlinked=link)
    assert [await listed(shop, id) for id in IDS] == [{placed[id]} for id in IDS]
    stranger = await shop.orders(consumer("con_a")).BatchListOrders(BatchListOrdersRequest(consumer_ids=["con_twin"]))
    assert not any(each.orders for each in stranger.lists)


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
