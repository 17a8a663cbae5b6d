"""RelationService: relations follow events at once, transitions name their causes, and no interaction is lost."""

import asyncio
import random
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from quanyu.common.v1.page_pb2 import PageInfo, PageRequest
from quanyu.events.v1 import events_pb2
from quanyu.member.v1 import identity_pb2, outreach_pb2
from quanyu.member.v1 import relation_pb2 as pb
from services.kit import clock
from services.kit.errors import Denied, Invalid, NotFound
from services.member.relation import rules
from services.member.relation.enums import InteractionKind
from services.member.relation.rules import Interaction
from tests.services.lists import assert_batch_equals_lists, count_documents_read, fetch_first_pages
from tests.services.member.conftest import OPERATOR, brand_operator, consumer_grants, guide_grants, new_request_id, store_manager

DAY = timedelta(days=1)


def to_timestamp(at: datetime) -> Timestamp:
    stamped = Timestamp()
    stamped.FromDatetime(at)
    return stamped


def order_summary(order_id, consumer_id, at, brands=("brd_1",), seller_id="brd_1"):
    lines = [events_pb2.OrderLine(brand_id=id, variant_id="var_1", quantity=1, paid={"minor": 100, "currency": "CNY"}) for id in brands]
    return events_pb2.OrderSummary(
        order_id=order_id, consumer_id=consumer_id, store_id="str_1", seller_id=seller_id, touchpoint="TOUCHPOINT_APP",
        scenario="SCENARIO_URGENT_NEED", paid_at=to_timestamp(at), lines=lines,
    )  # fmt: skip


def order_paid_event(order_id, consumer_id, at, **more):
    order = order_summary(order_id, consumer_id, at, **more)
    return events_pb2.Event(key=order_id, source="commerce", order_paid=events_pb2.OrderPaid(order_id=order_id, order=order))


def orders_imported_event(batch_id, orders):
    return events_pb2.Event(
        id=f"evt_{batch_id}", key=batch_id, source="commerce", orders_imported=events_pb2.OrdersImported(batch_id=batch_id, orders=orders)
    )  # fmt: skip


def pack_issued_event(pack_id, consumer_id, *brands):
    coupons = [events_pb2.PackedCoupon(coupon_id=f"cpn_{id}", brand_id=id) for id in brands]
    issued = events_pb2.PackIssued(pack_id=pack_id, consumer_id=consumer_id, coupons=coupons, touchpoint="TOUCHPOINT_DISTRICT_SCREEN")
    return events_pb2.Event(key=consumer_id, source="district", at=to_timestamp(clock.now()), pack_issued=issued)


async def get_relation(client, consumer_id, brand_id="brd_1"):
    return (await client.relation.GetRelation(pb.GetRelationRequest(consumer_id=consumer_id, brand_id=brand_id))).relation


async def list_transitions(client, consumer_id, brand_id="brd_1", **page):
    request = pb.ListTransitionsRequest(consumer_id=consumer_id, brand_id=brand_id, page=PageRequest(**page))
    return await client.relation.ListTransitions(request)


async def read_stored(world):
    """Returns all stored relations and transitions."""
    found = []
    for name in ("relations", "transitions"):
        found.append(sorted([document async for document in world.database[name].find()], key=lambda document: document["_id"]))
    return found


async def recount_all(world):
    """Returns all relations and transitions, folded from the stored interactions alone."""
    persons = {document["_id"]: document["person_id"] async for document in world.database["consumers"].find()}
    by_key = {}
    async for document in world.database["interactions"].find():
        interaction = rules.Interaction(
            id=document["_id"], consumer_id=document["consumer_id"], brand_id=document["brand_id"],
            kind=InteractionKind(document["kind"]), at=document["at"],
            ref=document["ref"], paid=rules.Money(**document["paid"]) if "paid" in document else None,
        )  # fmt: skip
        by_key.setdefault((persons.get(document["consumer_id"], document["consumer_id"]), document["brand_id"]), []).append(interaction)
    return {key: rules.recount(*key, interactions) for key, interactions in by_key.items()}


async def assert_exact(world):
    """Checks that the stored relations and transitions equal a recount of the interactions."""
    expected = await recount_all(world)
    relations, transitions = await read_stored(world)
    assert {(document["consumer_id"], document["brand_id"]) for document in relations} == expected.keys()
    for document in relations:
        counted, _ = expected[document["consumer_id"], document["brand_id"]]
        assert (document["stage"], document["interaction_count"], document["order_count"]) == (
            counted.stage,
            counted.interaction_count,
            counted.order_count,
        )
        assert (document["heat"], document["stage_since"], document["transition_count"]) == (
            counted.heat,
            counted.stage_since,
            counted.transition_count,
        )
    assert [document["_id"] for document in transitions] == sorted(
        one.id for _, expected_ones in expected.values() for one in expected_ones
    )


async def test_events_move_the_stage_and_name_causes(world):
    id = await world.register()
    at = clock.now()
    await world.deliver(pack_issued_event("pck_1", id, "brd_1", "brd_2"), source="district")
    assert (await get_relation(world.operator, id, "brd_2")).stage == pb.STAGE_AWARENESS
    await world.deliver(order_paid_event("ord_1", id, at + timedelta(seconds=1)), source="commerce")
    current = await get_relation(world.operator, id)
    assert (current.stage, current.order_count, current.interaction_count, current.spent[0].minor) == (pb.STAGE_PURCHASE, 1, 2, 100)
    assert 0 < current.closeness < 100
    moves = (await list_transitions(world.client(brand_operator("brd_1")), id)).transitions
    assert [(one.from_stage, one.to_stage, one.cause.ref, one.cause.kind) for one in moves] == [
        (pb.STAGE_AWARENESS, pb.STAGE_PURCHASE, "ord_1", pb.INTERACTION_KIND_ORDER_PAID),
        (pb.STAGE_UNSPECIFIED, pb.STAGE_AWARENESS, "pck_1", pb.INTERACTION_KIND_PACK_RECEIVED),
    ]
    timeline = await world.operator.relation.ListInteractions(pb.ListInteractionsRequest(consumer_id=id, brand_id="brd_1"))
    assert [(one.id, one.scenario) for one in timeline.interactions] == [("int_ord_1_brd_1", 3), ("int_pck_1_brd_1", 5)]
    # A brand that knows the consumer only from events sees no data of other brands.
    found = await world.client(brand_operator("brd_2")).identity.GetConsumer(identity_pb2.GetConsumerRequest(id=id))
    assert (found.consumer.display_name, found.consumer.phone) == ("", "")


async def test_shuffled_events_give_the_same_relations_as_recount(world):
    chance = random.Random(7)
    consumers = [await world.register() for _ in range(4)]
    start = clock.now() - 600 * DAY
    orders = [
        order_summary(
            f"ord_{n}", chance.choice(consumers), start + chance.randrange(590) * DAY, brands=chance.sample(["brd_1", "brd_2"], 2)
        )
        for n in range(120)
    ]
    chance.shuffle(orders)
    for number in range(0, 120, 30):
        await world.deliver(orders_imported_event(f"bat_{number}", orders[number : number + 30]), source="commerce")
        await assert_exact(world)
    for order in (orders[3], orders[50]):
        again = events_pb2.Event(key=f"again_{order.order_id}", source="commerce")
        again.order_paid.order_id, _ = order.order_id, again.order_paid.order.CopyFrom(order)
        await world.deliver(again, source="commerce")
    assert await world.database["interactions"].count_documents({}) == 240


async def test_link_merges_relations_and_unlink_restores_them(world):
    first, second = await world.register(), await world.register()
    start = clock.now() - 100 * DAY
    await world.deliver(
        *(order_paid_event(f"ord_{n}", id, start + n * DAY) for n, id in enumerate([first, second, first, second, first])),
        source="commerce",
    )
    await world.deliver(order_paid_event("ord_9", second, start, brands=["brd_2"], seller_id="brd_2"), source="commerce")
    before = await read_stored(world)
    known_before = [document["known_to"] async for document in world.database["consumers"].find().sort("_id")]
    assert (await get_relation(world.operator, first)).order_count == 3
    link = {"request_id": new_request_id(), "consumer_id": first, "linked_consumer_id": second}
    await world.operator.identity.LinkConsumers(identity_pb2.LinkConsumersRequest(**link, evidence=["IDENTITY_KIND_PHONE"]))
    for id in (first, second):
        current = await get_relation(world.operator, id)
        assert (current.consumer_id, current.order_count, current.stage) == (first, 5, pb.STAGE_LOYALTY)
    await assert_exact(world)
    timeline = await world.client(*consumer_grants(first, second)).relation.ListInteractions(pb.ListInteractionsRequest(consumer_id=second))
    assert len(timeline.interactions) == 6
    await world.operator.identity.UnlinkConsumers(identity_pb2.UnlinkConsumersRequest(**{**link, "request_id": new_request_id()}))
    assert await read_stored(world) == before
    assert [document["known_to"] async for document in world.database["consumers"].find().sort("_id")] == known_before


async def test_concurrent_links_and_events_lose_no_interaction(world):
    first, second = await world.register(), await world.register()
    link = {"consumer_id": first, "linked_consumer_id": second}
    start = clock.now() - 200 * DAY

    async def import_orders(id, source):
        for number in range(12):
            brands = [f"brd_{number % 4}"]
            event = orders_imported_event(
                f"bat_{id}_{number}", [order_summary(f"ord_{id}_{number}", id, start + number * DAY, brands=brands)]
            )
            await world.deliver(event, source=source)

    async def link_and_unlink():
        for _ in range(4):
            request = identity_pb2.LinkConsumersRequest(request_id=new_request_id(), **link, evidence=["IDENTITY_KIND_PHONE"])
            await world.operator.identity.LinkConsumers(request)
            await world.operator.identity.UnlinkConsumers(identity_pb2.UnlinkConsumersRequest(request_id=new_request_id(), **link))

    await asyncio.gather(import_orders(first, "commerce"), import_orders(second, "commerce"), link_and_unlink())
    await assert_exact(world)
    assert await world.database["interactions"].count_documents({}) == 42
    for id in (first, second):
        document = await world.database["consumers"].find_one({"_id": id})
        assert set(document["known_to"]) == {"brd_0", "brd_1", "brd_2", "brd_3"}


async def test_relation_includes_due_lapses_on_all_pages(world):
    id = await world.register()
    start = clock.now() - 900 * DAY
    await world.deliver(*(order_paid_event(f"ord_{n}", id, start + n * DAY) for n in range(3)), source="commerce")
    current = await get_relation(world.operator, id)
    assert (current.stage, current.last.ref, current.transition_count) == (pb.STAGE_AWARENESS, "ord_2", 4)
    assert current.closeness < 0.01
    complete = list((await list_transitions(world.operator, id)).transitions)
    assert [(one.to_stage, one.direction) for one in complete] == [
        (pb.STAGE_AWARENESS, pb.DIRECTION_LAPSE),
        (pb.STAGE_PURCHASE, pb.DIRECTION_LAPSE),
        (pb.STAGE_LOYALTY, pb.DIRECTION_ADVANCE),
        (pb.STAGE_PURCHASE, pb.DIRECTION_ADVANCE),
    ]
    for first in (1, 3):
        found, after = [], ""
        while True:
            answer = await list_transitions(world.operator, id, first=first, after=after)
            found += answer.transitions
            if not answer.page.has_next_page:
                break
            after = answer.page.end_cursor
        assert found == complete
    earlier = await get_relation(world.client(OPERATOR, offset=-850 * DAY.total_seconds()), id)
    assert earlier.stage == pb.STAGE_LOYALTY


async def test_brand_and_staff_record_interactions(world):
    id = await world.register()

    def record_request(**more):
        values = {"consumer_id": id, "brand_id": "brd_1", "kind": pb.INTERACTION_KIND_STORE_VISITED, "touchpoint": "TOUCHPOINT_STORE"}
        return pb.RecordInteractionRequest(**({"request_id": new_request_id()} | values | more))

    answer = await world.client(brand_operator("brd_1")).relation.RecordInteraction(record_request())
    assert answer.stage == pb.STAGE_INTEREST
    await world.client(*guide_grants("stf_1", "str_1")).relation.RecordInteraction(record_request(store_id="str_1"))
    assert (await get_relation(world.operator, id)).interaction_count == 2
    with pytest.raises(Denied, match="BRAND_NOT_YOURS"):
        await world.client(*guide_grants("stf_2", "str_2")).relation.RecordInteraction(record_request(store_id="str_2"))
    with pytest.raises(NotFound, match="CONSUMER_NOT_FOUND"):
        await world.client(brand_operator("brd_2")).relation.RecordInteraction(record_request(brand_id="brd_2"))
    with pytest.raises(Invalid, match="KIND_NOT_RECORDED"):
        await world.operator.relation.RecordInteraction(record_request(kind=pb.INTERACTION_KIND_ORDER_PAID))
    with pytest.raises(Invalid, match="IN_THE_FUTURE"):
        await world.operator.relation.RecordInteraction(record_request(at=to_timestamp(clock.now() + timedelta(minutes=6))))
    for early in (datetime(1, 1, 1, tzinfo=UTC), rules.EARLIEST - timedelta(seconds=1)):
        with pytest.raises(Invalid, match="INVALID_FIELD") as refused:
            await world.operator.relation.RecordInteraction(record_request(at=to_timestamp(early)))
        assert refused.value.metadata["field"] == "at"
    await world.operator.relation.RecordInteraction(record_request(at=to_timestamp(rules.EARLIEST)))


async def list_related_brands(client, id):
    """Returns the brands whose relation with a consumer the client sees; the single and the batch list must agree."""
    listed = await client.relation.ListRelations(pb.ListRelationsRequest(consumer_id=id))
    batch = await client.relation.BatchListRelations(pb.BatchListRelationsRequest(consumer_ids=[id]))
    brands = sorted(one.brand_id for one in listed.relations)
    assert sorted(one.brand_id for consumer in batch.consumers for one in consumer.relations) == brands
    return brands


async def test_only_brand_guide_and_consumer_read_relations(world):
    id, other = await world.register(), await world.register(brand_id="brd_2")
    await world.deliver(order_paid_event("ord_1", id, clock.now(), brands=["brd_1", "brd_2"]), source="commerce")
    await world.deliver(order_paid_event("ord_2", other, clock.now()), source="commerce")
    bind = outreach_pb2.BindConsumerRequest(request_id=new_request_id(), consumer_id=id, brand_id="brd_1", staff_id="stf_1")
    await world.operator.outreach.BindConsumer(bind)
    for grants in ([brand_operator("brd_1")], guide_grants("stf_1", "str_1"), consumer_grants(id)):
        client = world.client(*grants)
        assert (await get_relation(client, id)).stage == pb.STAGE_PURCHASE
        assert len((await list_transitions(client, id)).transitions) == 1
    timeline = await world.client(*guide_grants("stf_1", "str_1")).relation.ListInteractions(pb.ListInteractionsRequest(consumer_id=id))
    assert [one.brand_id for one in timeline.interactions] == ["brd_1"]
    for grants in ([brand_operator("brd_1")], guide_grants("stf_1", "str_1"), [store_manager("str_1")]):
        assert await list_related_brands(world.client(*grants), id) == ["brd_1"]
    assert await list_related_brands(world.client(*consumer_grants(id)), id) == ["brd_1", "brd_2"]
    for grants in ([brand_operator("brd_2")], guide_grants("stf_2", "str_2"), consumer_grants(other)):
        client = world.client(*grants)
        assert await list_related_brands(client, id) == (["brd_2"] if grants == [brand_operator("brd_2")] else [])
        with pytest.raises(NotFound, match="RELATION_NOT_FOUND"):
            await get_relation(client, id)
        assert not (await list_transitions(client, id)).transitions
        batch = pb.BatchGetRelationsRequest(consumer_ids=[id], brand_id="brd_1")
        assert not (await client.relation.BatchGetRelations(batch)).relations
    with pytest.raises(NotFound):
        await get_relation(world.client(*guide_grants("stf_1", "str_1")), other)


async def test_relations_are_listed_by_brand_and_person(world):
    ids = [await world.register() for _ in range(5)]
    start = clock.now() - 10 * DAY
    await world.deliver(
        *(order_paid_event(f"ord_{n}", id, start + n * timedelta(hours=1), brands=["brd_1", "brd_2", "brd_3"]) for n, id in enumerate(ids)),
        source="commerce",
    )
    first = await world.client(brand_operator("brd_2")).relation.ListRelations(
        pb.ListRelationsRequest(brand_id="brd_2", page=PageRequest(first=3))
    )
    assert [one.consumer_id for one in first.relations] == ids[:1:-1] and first.page.has_next_page
    own = await world.client(*consumer_grants(ids[0])).relation.ListRelations(pb.ListRelationsRequest(consumer_id=ids[0]))
    assert {one.brand_id for one in own.relations} == {"brd_1", "brd_2", "brd_3"}
    lists = await world.operator.relation.BatchListRelations(pb.BatchListRelationsRequest(consumer_ids=ids, first=2))
    assert [(one.consumer_id, len(one.relations), one.page.has_next_page) for one in lists.consumers] == [(id, 2, True) for id in ids]
    rest = PageRequest(after=lists.consumers[0].page.end_cursor)
    more = await world.operator.relation.ListRelations(pb.ListRelationsRequest(consumer_id=ids[0], page=rest))
    assert {one.brand_id for one in [*more.relations, *lists.consumers[0].relations]} == {"brd_1", "brd_2", "brd_3"}
    lists = await world.client(brand_operator("brd_3")).relation.BatchListRelations(pb.BatchListRelationsRequest(consumer_ids=ids))
    assert {one.brand_id for consumer in lists.consumers for one in consumer.relations} == {"brd_3"}
    with pytest.raises(Invalid, match="CONSUMER_OR_BRAND"):
        await world.operator.relation.ListRelations(pb.ListRelationsRequest())


async def test_events_with_five_hundred_orders_are_exact(world):
    """The orders are like those of an import: many people, several brands an order, in order of time."""
    chance = random.Random(3)
    start = clock.now() - 400 * DAY
    orders = [
        order_summary(f"ord_{n}", f"con_{chance.randrange(150)}", start + n * timedelta(hours=4),
                brands=chance.sample([f"brd_{m}" for m in range(30)], chance.randrange(1, 6)), seller_id="rtl_1")
        for n in range(1500)
    ]  # fmt: skip
    for number in range(0, 1500, 500):
        await world.deliver(orders_imported_event(f"bat_{number}", orders[number : number + 500]), source="commerce")
    await assert_exact(world)


def test_interaction_struct_has_the_message_fields():
    assert {field.name for field in pb.Interaction.DESCRIPTOR.fields} | {"version"} == set(Interaction.__struct_fields__)


async def test_batch_lists_of_relations_equal_single_lists(world):
    ids = [await world.register() for _ in range(4)]
    start = clock.now() - 10 * DAY
    brands = ["brd_1", "brd_2", "brd_3"]
    orders = [order_paid_event(f"ord_{n}", id, start + n * timedelta(hours=1), brands=brands[: 3 - n % 2]) for n, id in enumerate(ids)]
    await world.deliver(*orders, source="commerce")
    link = identity_pb2.LinkConsumersRequest(
        request_id=new_request_id(), consumer_id=ids[0], linked_consumer_id=ids[1], evidence=["IDENTITY_KIND_PHONE"]
    )  # fmt: skip
    await world.operator.identity.LinkConsumers(link)
    bind = outreach_pb2.BindConsumerRequest(request_id=new_request_id(), consumer_id=ids[2], brand_id="brd_1", staff_id="stf_1")
    await world.operator.outreach.BindConsumer(bind)
    rpc = "RelationService.BatchListRelations"
    for grants, of_people, of_brands in (
        ([OPERATOR], {ids[0]: 3, ids[1]: 3, ids[2]: 3, ids[3]: 2}, {"brd_1": 3, "brd_2": 3, "brd_3": 2}),
        ([brand_operator("brd_3")], {ids[0]: 1, ids[1]: 1, ids[2]: 1}, {"brd_3": 2}),
        (consumer_grants(ids[1]), {ids[0]: 3, ids[1]: 3}, {}),
        (guide_grants("stf_1", "str_1"), {ids[2]: 1}, {}),
    ):
        client = world.client(*grants).relation
        assert await assert_batch_equals_lists(client, rpc, "consumer_id", ids, field="id") == of_people
        assert await assert_batch_equals_lists(client, rpc, "brand_id", brands, field="id") == of_brands
    assert (
        await count_documents_read(world.database, "relations", fetch_first_pages(world.operator.relation, rpc, "brand_id", brands, 1))
        == 3 * 2 + 3
    )


async def test_batch_lists_of_transitions_equal_single_lists(world):
    ids = [await world.register() for _ in range(3)]
    long_ago = clock.now() - 300 * DAY
    orders = [order_paid_event(f"ord_{n}", id, long_ago + n * DAY, brands=["brd_1", "brd_2"]) for n, id in enumerate([*ids, *ids[:2]])]
    await world.deliver(*orders, source="commerce")
    link = identity_pb2.LinkConsumersRequest(
        request_id=new_request_id(), consumer_id=ids[0], linked_consumer_id=ids[1], evidence=["IDENTITY_KIND_PHONE"]
    )  # fmt: skip
    await world.operator.identity.LinkConsumers(link)
    bind = outreach_pb2.BindConsumerRequest(request_id=new_request_id(), consumer_id=ids[2], brand_id="brd_1", staff_id="stf_1")
    await world.operator.outreach.BindConsumer(bind)
    documents = [document async for document in world.database["relations"].find()]
    assert len(documents) == 4
    keys = [*(document["_id"] for document in documents), "rel_none"]
    for grants, visible_count in (
        ([OPERATOR], 4),
        ([brand_operator("brd_2")], 2),
        (consumer_grants(ids[1]), 2),
        (guide_grants("stf_1", "str_1"), 1),
        (consumer_grants("con_x"), 0),
    ):
        client = world.client(*grants).relation
        for noun, one in (("Transitions", client.ListTransitions), ("Interactions", client.ListInteractions)):
            for first in (1, 2, 100):
                found = await fetch_first_pages(client, f"RelationService.BatchList{noun}", "relation_id", keys, first)
                assert len(found) == visible_count
                for document in documents:
                    of = {"consumer_id": document["consumer_id"], "brand_id": document["brand_id"], "page": PageRequest(first=first)}
                    answer = await one(getattr(pb, f"List{noun}Request")(**of))
                    assert found.get(document["_id"], ([], PageInfo())) == (list(getattr(answer, noun.lower())), answer.page)
    # The relations lapsed since the orders: due lapses come before the stored transitions.
    moves, _ = (await fetch_first_pages(world.operator.relation, "RelationService.BatchListTransitions", "relation_id", keys, 100))[keys[0]]
    assert len(moves) > await world.database["transitions"].count_documents(
        {"consumer_id": documents[0]["consumer_id"], "brand_id": documents[0]["brand_id"]}
    )
    for noun in ("Transitions", "Interactions"):
        with pytest.raises(Invalid, match="BATCH_TOO_LARGE"):
            await fetch_first_pages(
                world.operator.relation, f"RelationService.BatchList{noun}", "relation_id", [f"rel_{n}" for n in range(101)], 1
            )
