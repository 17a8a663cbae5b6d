"""The consumer asset through the running service: events in, relations right after, causes named, nothing lost."""

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
from tests.services.lists import first_pages, rows_read, says_the_same_of_each
from tests.services.member.conftest import OPERATOR, brand, guide, manager, new_request, shopper

DAY = timedelta(days=1)


def stamp(at: datetime) -> Timestamp:
    stamped = Timestamp()
    stamped.FromDatetime(at)
    return stamped


def summary(order_id, consumer_id, at, brands=("brd_1",), seller_id="brd_1"):
    lines = [events_pb2.OrderLine(brand_id=id, variant_id="var_1", quantity=1, paid={"minor": 100, "currency": "CNY"}) for id in brands]
    return events_pb2.OrderSummary(
        order_id=order_id, consumer_id=consumer_id, store_id="str_1", seller_id=seller_id, touchpoint="TOUCHPOINT_APP",
        scenario="SCENARIO_URGENT_NEED", paid_at=stamp(at), lines=lines,
    )  # fmt: skip


def paid(order_id, consumer_id, at, **more):
    order = summary(order_id, consumer_id, at, **more)
    return events_pb2.Event(key=order_id, source="commerce", order_paid=events_pb2.OrderPaid(order_id=order_id, order=order))


def imported(batch_id, orders):
    return events_pb2.Event(
        id=f"evt_{batch_id}", key=batch_id, source="commerce", orders_imported=events_pb2.OrdersImported(batch_id=batch_id, orders=orders)
    )  # fmt: skip


def pack(pack_id, consumer_id, *brands):
    coupons = [events_pb2.PackedCoupon(coupon_id=f"cpn_{id}", brand_id=id) for id in brands]
    issued = events_pb2.PackIssued(pack_id=pack_id, consumer_id=consumer_id, coupons=coupons, touchpoint="TOUCHPOINT_DISTRICT_SCREEN")
    return events_pb2.Event(key=consumer_id, source="district", at=stamp(clock.now()), pack_issued=issued)


async def relation(speaker, consumer_id, brand_id="brd_1"):
    return (await speaker.relation.GetRelation(pb.GetRelationRequest(consumer_id=consumer_id, brand_id=brand_id))).relation


async def transitions(speaker, consumer_id, brand_id="brd_1", **page):
    request = pb.ListTransitionsRequest(consumer_id=consumer_id, brand_id=brand_id, page=PageRequest(**page))
    return await speaker.relation.ListTransitions(request)


async def everything(town):
    """All relations and transitions as they are stored."""
    found = []
    for name in ("relations", "transitions"):
        found.append(sorted([row async for row in town.database[name].find()], key=lambda row: row["_id"]))
    return found


async def recounted(town):
    """All relations and transitions counted from scratch, from the interactions alone."""
    persons = {row["_id"]: row["person_id"] async for row in town.database["consumers"].find()}
    places = {}
    async for row in town.database["interactions"].find():
        interaction = rules.Interaction(
            id=row["_id"], consumer_id=row["consumer_id"], brand_id=row["brand_id"], kind=InteractionKind(row["kind"]), at=row["at"],
            ref=row["ref"], paid=rules.Money(**row["paid"]) if "paid" in row else None,
        )  # fmt: skip
        places.setdefault((persons.get(row["consumer_id"], row["consumer_id"]), row["brand_id"]), []).append(interaction)
    return {place: rules.recount(*place, ones) for place, ones in places.items()}


async def assert_exact(town):
    """What was kept step by step is what a count from scratch gives."""
    expected = await recounted(town)
    relations, moves = await everything(town)
    assert {(row["consumer_id"], row["brand_id"]) for row in relations} == expected.keys()
    for row in relations:
        counted, _ = expected[row["consumer_id"], row["brand_id"]]
        assert (row["stage"], row["interaction_count"], row["order_count"]) == (
            counted.stage,
            counted.interaction_count,
            counted.order_count,
        )
        assert (row["heat"], row["stage_since"], row["transition_count"]) == (counted.heat, counted.stage_since, counted.transition_count)
    assert [row["_id"] for row in moves] == sorted(move.id for _, moved in expected.values() for move in moved)


async def test_events_move_the_stage_and_every_move_names_its_cause(town):
    id = await town.registered()
    at = clock.now()
    await town.tell(pack("pck_1", id, "brd_1", "brd_2"), source="district")
    assert (await relation(town.operator, id, "brd_2")).stage == pb.STAGE_AWARENESS
    await town.tell(paid("ord_1", id, at + timedelta(seconds=1)), source="commerce")
    now = await relation(town.operator, id)
    assert (now.stage, now.order_count, now.interaction_count, now.spent[0].minor) == (pb.STAGE_PURCHASE, 1, 2, 100)
    assert 0 < now.closeness < 100
    moves = (await transitions(town.speaker(brand("brd_1")), id)).transitions
    assert [(one.from_stage, one.to_stage, one.cause.ref, one.cause.kind) for one in moves] == [
        (pb.STAGE_AWARENESS, pb.STAGE_PURCHASE, "ord_1", pb.INTERACTION_KIND_ORDER_PAID),
        (pb.STAGE_UNSPECIFIED, pb.STAGE_AWARENESS, "pck_1", pb.INTERACTION_KIND_PACK_RECEIVED),
    ]
    told = await town.operator.relation.ListInteractions(pb.ListInteractionsRequest(consumer_id=id, brand_id="brd_1"))
    assert [(one.id, one.scenario) for one in told.interactions] == [("int_ord_1_brd_1", 3), ("int_pck_1_brd_1", 5)]
    # A brand that got to know the consumer this way finds them, and nothing of what others supplied.
    seen = await town.speaker(brand("brd_2")).identity.GetConsumer(identity_pb2.GetConsumerRequest(id=id))
    assert (seen.consumer.display_name, seen.consumer.phone) == ("", "")


async def test_late_and_shuffled_events_give_what_a_count_from_scratch_gives(town):
    chance = random.Random(7)
    consumers = [await town.registered() for _ in range(4)]
    start = clock.now() - 600 * DAY
    orders = [
        summary(f"ord_{n}", chance.choice(consumers), start + chance.randrange(590) * DAY, brands=chance.sample(["brd_1", "brd_2"], 2))
        for n in range(120)
    ]
    chance.shuffle(orders)
    for number in range(0, 120, 30):
        await town.tell(imported(f"bat_{number}", orders[number : number + 30]), source="commerce")
        await assert_exact(town)
    for order in (orders[3], orders[50]):
        again = events_pb2.Event(key=f"again_{order.order_id}", source="commerce")
        again.order_paid.order_id, _ = order.order_id, again.order_paid.order.CopyFrom(order)
        await town.tell(again, source="commerce")
    assert await town.database["interactions"].count_documents({}) == 240


async def test_linking_counts_both_people_and_unlinking_restores_each(town):
    first, second = await town.registered(), await town.registered()
    start = clock.now() - 100 * DAY
    await town.tell(
        *(paid(f"ord_{n}", id, start + n * DAY) for n, id in enumerate([first, second, first, second, first])), source="commerce"
    )
    await town.tell(paid("ord_9", second, start, brands=["brd_2"], seller_id="brd_2"), source="commerce")
    before = await everything(town)
    known_before = [row["known_to"] async for row in town.database["consumers"].find().sort("_id")]
    assert (await relation(town.operator, first)).order_count == 3
    link = {"request_id": new_request(), "consumer_id": first, "linked_consumer_id": second}
    await town.operator.identity.LinkConsumers(identity_pb2.LinkConsumersRequest(**link, evidence=["IDENTITY_KIND_PHONE"]))
    for id in (first, second):
        now = await relation(town.operator, id)
        assert (now.consumer_id, now.order_count, now.stage) == (first, 5, pb.STAGE_LOYALTY)
    await assert_exact(town)
    told = await town.speaker(*shopper(first, second)).relation.ListInteractions(pb.ListInteractionsRequest(consumer_id=second))
    assert len(told.interactions) == 6
    await town.operator.identity.UnlinkConsumers(identity_pb2.UnlinkConsumersRequest(**{**link, "request_id": new_request()}))
    assert await everything(town) == before
    assert [row["known_to"] async for row in town.database["consumers"].find().sort("_id")] == known_before


async def test_links_undone_and_made_while_things_happen_lose_nothing(town):
    first, second = await town.registered(), await town.registered()
    link = {"consumer_id": first, "linked_consumer_id": second}
    start = clock.now() - 200 * DAY

    async def happen(id, source):
        for number in range(12):
            brands = [f"brd_{number % 4}"]
            event = imported(f"bat_{id}_{number}", [summary(f"ord_{id}_{number}", id, start + number * DAY, brands=brands)])
            await town.tell(event, source=source)

    async def link_and_unlink():
        for _ in range(4):
            request = identity_pb2.LinkConsumersRequest(request_id=new_request(), **link, evidence=["IDENTITY_KIND_PHONE"])
            await town.operator.identity.LinkConsumers(request)
            await town.operator.identity.UnlinkConsumers(identity_pb2.UnlinkConsumersRequest(request_id=new_request(), **link))

    await asyncio.gather(happen(first, "commerce"), happen(second, "commerce"), link_and_unlink())
    await assert_exact(town)
    assert await town.database["interactions"].count_documents({}) == 42
    for id in (first, second):
        row = await town.database["consumers"].find_one({"_id": id})
        assert set(row["known_to"]) == {"brd_0", "brd_1", "brd_2", "brd_3"}


async def test_a_relation_is_as_of_now_lapses_included_and_pages_hold_every_move(town):
    id = await town.registered()
    start = clock.now() - 900 * DAY
    await town.tell(*(paid(f"ord_{n}", id, start + n * DAY) for n in range(3)), source="commerce")
    now = await relation(town.operator, id)
    assert (now.stage, now.last.ref, now.transition_count) == (pb.STAGE_AWARENESS, "ord_2", 4)
    assert now.closeness < 0.01
    whole = list((await transitions(town.operator, id)).transitions)
    assert [(one.to_stage, one.direction) for one in whole] == [
        (pb.STAGE_AWARENESS, pb.DIRECTION_LAPSE),
        (pb.STAGE_PURCHASE, pb.DIRECTION_LAPSE),
        (pb.STAGE_LOYALTY, pb.DIRECTION_ADVANCE),
        (pb.STAGE_PURCHASE, pb.DIRECTION_ADVANCE),
    ]
    for first in (1, 3):
        found, after = [], ""
        while True:
            answer = await transitions(town.operator, id, first=first, after=after)
            found += answer.transitions
            if not answer.page.has_next_page:
                break
            after = answer.page.end_cursor
        assert found == whole
    earlier = await relation(town.speaker(OPERATOR, offset=-850 * DAY.total_seconds()), id)
    assert earlier.stage == pb.STAGE_LOYALTY


async def test_recording_by_a_brand_and_its_staff(town):
    id = await town.registered()

    def seen(**more):
        given = {"consumer_id": id, "brand_id": "brd_1", "kind": pb.INTERACTION_KIND_STORE_VISITED, "touchpoint": "TOUCHPOINT_STORE"}
        return pb.RecordInteractionRequest(**({"request_id": new_request()} | given | more))

    answer = await town.speaker(brand("brd_1")).relation.RecordInteraction(seen())
    assert answer.stage == pb.STAGE_INTEREST
    await town.speaker(*guide("stf_1", "str_1")).relation.RecordInteraction(seen(store_id="str_1"))
    assert (await relation(town.operator, id)).interaction_count == 2
    with pytest.raises(Denied, match="BRAND_NOT_YOURS"):
        await town.speaker(*guide("stf_2", "str_2")).relation.RecordInteraction(seen(store_id="str_2"))
    with pytest.raises(NotFound, match="CONSUMER_NOT_FOUND"):
        await town.speaker(brand("brd_2")).relation.RecordInteraction(seen(brand_id="brd_2"))
    with pytest.raises(Invalid, match="KIND_NOT_RECORDED"):
        await town.operator.relation.RecordInteraction(seen(kind=pb.INTERACTION_KIND_ORDER_PAID))
    with pytest.raises(Invalid, match="IN_THE_FUTURE"):
        await town.operator.relation.RecordInteraction(seen(at=stamp(clock.now() + timedelta(minutes=6))))
    for early in (datetime(1, 1, 1, tzinfo=UTC), rules.EARLIEST - timedelta(seconds=1)):
        with pytest.raises(Invalid, match="INVALID_FIELD") as refused:
            await town.operator.relation.RecordInteraction(seen(at=stamp(early)))
        assert refused.value.metadata["field"] == "at"
    await town.operator.relation.RecordInteraction(seen(at=stamp(rules.EARLIEST)))


async def relations(speaker, id):
    """The brands whose relation with a consumer somebody sees, alone and in a batch."""
    listed = await speaker.relation.ListRelations(pb.ListRelationsRequest(consumer_id=id))
    batch = await speaker.relation.BatchListRelations(pb.BatchListRelationsRequest(consumer_ids=[id]))
    seen = sorted(one.brand_id for one in listed.relations)
    assert sorted(one.brand_id for consumer in batch.consumers for one in consumer.relations) == seen
    return seen


async def test_who_reads_a_relation(town):
    id, other = await town.registered(), await town.registered(brand_id="brd_2")
    await town.tell(paid("ord_1", id, clock.now(), brands=["brd_1", "brd_2"]), source="commerce")
    await town.tell(paid("ord_2", other, clock.now()), source="commerce")
    bind = outreach_pb2.BindConsumerRequest(request_id=new_request(), consumer_id=id, brand_id="brd_1", staff_id="stf_1")
    await town.operator.outreach.BindConsumer(bind)
    for grants in ([brand("brd_1")], guide("stf_1", "str_1"), shopper(id)):
        speaker = town.speaker(*grants)
        assert (await relation(speaker, id)).stage == pb.STAGE_PURCHASE
        assert len((await transitions(speaker, id)).transitions) == 1
    told = await town.speaker(*guide("stf_1", "str_1")).relation.ListInteractions(pb.ListInteractionsRequest(consumer_id=id))
    assert [one.brand_id for one in told.interactions] == ["brd_1"]
    for grants in ([brand("brd_1")], guide("stf_1", "str_1"), [manager("str_1")]):
        assert await relations(town.speaker(*grants), id) == ["brd_1"]
    assert await relations(town.speaker(*shopper(id)), id) == ["brd_1", "brd_2"]
    for grants in ([brand("brd_2")], guide("stf_2", "str_2"), shopper(other)):
        speaker = town.speaker(*grants)
        assert await relations(speaker, id) == (["brd_2"] if grants == [brand("brd_2")] else [])
        with pytest.raises(NotFound, match="RELATION_NOT_FOUND"):
            await relation(speaker, id)
        assert not (await transitions(speaker, id)).transitions
        batch = pb.BatchGetRelationsRequest(consumer_ids=[id], brand_id="brd_1")
        assert not (await speaker.relation.BatchGetRelations(batch)).relations
    with pytest.raises(NotFound):
        await relation(town.speaker(*guide("stf_1", "str_1")), other)


async def test_lists_of_a_brand_of_a_person_and_of_many_people(town):
    ids = [await town.registered() for _ in range(5)]
    start = clock.now() - 10 * DAY
    await town.tell(
        *(paid(f"ord_{n}", id, start + n * timedelta(hours=1), brands=["brd_1", "brd_2", "brd_3"]) for n, id in enumerate(ids)),
        source="commerce",
    )
    first = await town.speaker(brand("brd_2")).relation.ListRelations(pb.ListRelationsRequest(brand_id="brd_2", page=PageRequest(first=3)))
    assert [one.consumer_id for one in first.relations] == ids[:1:-1] and first.page.has_next_page
    mine = await town.speaker(*shopper(ids[0])).relation.ListRelations(pb.ListRelationsRequest(consumer_id=ids[0]))
    assert {one.brand_id for one in mine.relations} == {"brd_1", "brd_2", "brd_3"}
    lists = await town.operator.relation.BatchListRelations(pb.BatchListRelationsRequest(consumer_ids=ids, first=2))
    assert [(one.consumer_id, len(one.relations), one.page.has_next_page) for one in lists.consumers] == [(id, 2, True) for id in ids]
    rest = PageRequest(after=lists.consumers[0].page.end_cursor)
    more = await town.operator.relation.ListRelations(pb.ListRelationsRequest(consumer_id=ids[0], page=rest))
    assert {one.brand_id for one in [*more.relations, *lists.consumers[0].relations]} == {"brd_1", "brd_2", "brd_3"}
    lists = await town.speaker(brand("brd_3")).relation.BatchListRelations(pb.BatchListRelationsRequest(consumer_ids=ids))
    assert {one.brand_id for consumer in lists.consumers for one in consumer.relations} == {"brd_3"}
    with pytest.raises(Invalid, match="CONSUMER_OR_BRAND"):
        await town.operator.relation.ListRelations(pb.ListRelationsRequest())


async def test_five_hundred_orders_a_event_are_counted_exactly(town):
    """The import's shape: many people, several brands an order, in order of time."""
    chance = random.Random(3)
    start = clock.now() - 400 * DAY
    orders = [
        summary(f"ord_{n}", f"con_{chance.randrange(150)}", start + n * timedelta(hours=4),
                brands=chance.sample([f"brd_{m}" for m in range(30)], chance.randrange(1, 6)), seller_id="rtl_1")
        for n in range(1500)
    ]  # fmt: skip
    for number in range(0, 1500, 500):
        await town.tell(imported(f"bat_{number}", orders[number : number + 500]), source="commerce")
    await assert_exact(town)


def test_interactions_come_in_the_fields_of_their_message():
    assert {field.name for field in pb.Interaction.DESCRIPTOR.fields} | {"version"} == set(Interaction.__struct_fields__)


async def test_the_first_relations_of_several_are_those_of_each_within_scope(town):
    ids = [await town.registered() for _ in range(4)]
    start = clock.now() - 10 * DAY
    brands = ["brd_1", "brd_2", "brd_3"]
    orders = [paid(f"ord_{n}", id, start + n * timedelta(hours=1), brands=brands[: 3 - n % 2]) for n, id in enumerate(ids)]
    await town.tell(*orders, source="commerce")
    link = identity_pb2.LinkConsumersRequest(
        request_id=new_request(), consumer_id=ids[0], linked_consumer_id=ids[1], evidence=["IDENTITY_KIND_PHONE"]
    )  # fmt: skip
    await town.operator.identity.LinkConsumers(link)
    bind = outreach_pb2.BindConsumerRequest(request_id=new_request(), consumer_id=ids[2], brand_id="brd_1", staff_id="stf_1")
    await town.operator.outreach.BindConsumer(bind)
    rpc = "RelationService.BatchListRelations"
    for grants, of_people, of_brands in (
        ([OPERATOR], {ids[0]: 3, ids[1]: 3, ids[2]: 3, ids[3]: 2}, {"brd_1": 3, "brd_2": 3, "brd_3": 2}),
        ([brand("brd_3")], {ids[0]: 1, ids[1]: 1, ids[2]: 1}, {"brd_3": 2}),
        (shopper(ids[1]), {ids[0]: 3, ids[1]: 3}, {}),
        (guide("stf_1", "str_1"), {ids[2]: 1}, {}),
    ):
        speaker = town.speaker(*grants).relation
        assert await says_the_same_of_each(speaker, rpc, "consumer_id", ids, told="id") == of_people
        assert await says_the_same_of_each(speaker, rpc, "brand_id", brands, told="id") == of_brands
    assert await rows_read(town.database, "relations", first_pages(town.operator.relation, rpc, "brand_id", brands, 1)) == 3 * 2 + 3


async def test_what_happened_in_several_relations_is_what_happened_in_each(town):
    ids = [await town.registered() for _ in range(3)]
    long_ago = clock.now() - 300 * DAY
    orders = [paid(f"ord_{n}", id, long_ago + n * DAY, brands=["brd_1", "brd_2"]) for n, id in enumerate([*ids, *ids[:2]])]
    await town.tell(*orders, source="commerce")
    link = identity_pb2.LinkConsumersRequest(
        request_id=new_request(), consumer_id=ids[0], linked_consumer_id=ids[1], evidence=["IDENTITY_KIND_PHONE"]
    )  # fmt: skip
    await town.operator.identity.LinkConsumers(link)
    bind = outreach_pb2.BindConsumerRequest(request_id=new_request(), consumer_id=ids[2], brand_id="brd_1", staff_id="stf_1")
    await town.operator.outreach.BindConsumer(bind)
    rows = [row async for row in town.database["relations"].find()]
    assert len(rows) == 4
    asked = [*(row["_id"] for row in rows), "rel_none"]
    for grants, seen in (([OPERATOR], 4), ([brand("brd_2")], 2), (shopper(ids[1]), 2), (guide("stf_1", "str_1"), 1), (shopper("con_x"), 0)):
        speaker = town.speaker(*grants).relation
        for noun, one in (("Transitions", speaker.ListTransitions), ("Interactions", speaker.ListInteractions)):
            for first in (1, 2, 100):
                found = await first_pages(speaker, f"RelationService.BatchList{noun}", "relation_id", asked, first)
                assert len(found) == seen
                for row in rows:
                    of = {"consumer_id": row["consumer_id"], "brand_id": row["brand_id"], "page": PageRequest(first=first)}
                    answer = await one(getattr(pb, f"List{noun}Request")(**of))
                    assert found.get(row["_id"], ([], PageInfo())) == (list(getattr(answer, noun.lower())), answer.page)
    # They lapsed meanwhile: what is due as of now comes before what is written.
    moves, _ = (await first_pages(town.operator.relation, "RelationService.BatchListTransitions", "relation_id", asked, 100))[asked[0]]
    assert len(moves) > await town.database["transitions"].count_documents(
        {"consumer_id": rows[0]["consumer_id"], "brand_id": rows[0]["brand_id"]}
    )
    for noun in ("Transitions", "Interactions"):
        with pytest.raises(Invalid, match="BATCH_TOO_LARGE"):
            await first_pages(
                town.operator.relation, f"RelationService.BatchList{noun}", "relation_id", [f"rel_{n}" for n in range(101)], 1
            )
