"""OutreachService: bindings and messages."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from quanyu.events.v1 import events_pb2
from quanyu.member.v1 import identity_pb2, relation_pb2
from quanyu.member.v1 import outreach_pb2 as pb
from services.kit import clock
from services.kit.errors import Conflict, Denied, Exhausted, Invalid, NotFound
from services.kit.values import opening_hours
from tests.services.lists import assert_batch_equals_lists, fetch_first_pages
from tests.services.member.conftest import brand_operator, consumer_grants, guide_grants, new_request_id, store_manager
from tests.services.member.test_relation import order_paid_event

DAY_SECONDS = 86_400.0


def evening_offset_seconds() -> float:
    """Returns the clock offset that makes it 21:40 in Shanghai today."""
    now = datetime.now(UTC)
    return (opening_hours.moment(opening_hours.local_day(now, "Asia/Shanghai"), 21 * 60 + 40, "Asia/Shanghai") - now).total_seconds()


def bind_request(consumer_id, staff_id="stf_1", brand_id="brd_1", **more):
    return pb.BindConsumerRequest(request_id=new_request_id(), consumer_id=consumer_id, brand_id=brand_id, staff_id=staff_id, **more)


def send_request(consumer_id, text="Your shirt is back", staff_id="stf_1", **more):
    return pb.SendOutreachRequest(
        request_id=new_request_id(), consumer_id=consumer_id, brand_id="brd_1", staff_id=staff_id, text=text, **more
    )  # fmt: skip


async def bind_new_consumer(world, **more):
    """Registers a consumer who is bound to guide 1 and consents to messages of brand 1."""
    id = await world.register(**more)
    await world.operator.outreach.BindConsumer(bind_request(id))
    await world.consent(id)
    return id


async def change_staff(world, staff_id, store_id, brand_id="brd_1", active=True):
    changed = events_pb2.StaffChanged(staff_id=staff_id, brand_id=brand_id, store_id=store_id, active=active)
    await world.deliver(events_pb2.Event(key=staff_id, source="organization", staff_changed=changed), source="organization")


async def test_guide_binds_lists_and_unbinds_clients(world):
    await change_staff(world, "stf_3", "str_1")
    id = await world.register("13812341234", display_name="Li Na")
    own, colleague = world.client(*guide_grants("stf_1", "str_1")), world.client(*guide_grants("stf_3", "str_1"))
    with pytest.raises(NotFound):
        await own.identity.GetConsumer(identity_pb2.GetConsumerRequest(id=id))
    bound = (await own.outreach.BindConsumer(bind_request(id))).binding
    assert (bound.staff_id, bound.store_id, bound.consumer_id) == ("stf_1", "str_1", id)
    visible = (await own.identity.GetConsumer(identity_pb2.GetConsumerRequest(id=id))).consumer
    assert (visible.display_name, visible.phone) == ("Li Na", "138****1234")
    clients = await own.outreach.ListClients(pb.ListClientsRequest(staff_id="stf_1"))
    assert [one.consumer_id for one in clients.bindings] == [id]
    with pytest.raises(Conflict, match="BOUND_ELSEWHERE"):
        await world.client(*guide_grants("stf_3", "str_1")[1:]).outreach.BindConsumer(bind_request(id, "stf_3"))
    with pytest.raises(Denied):
        await colleague.outreach.BindConsumer(bind_request(id, "stf_1", brand_id="brd_2"))
    moved = await world.client(store_manager("str_1")).outreach.BindConsumer(bind_request(id, "stf_3", store_id="str_1"))
    assert moved.binding.staff_id == "stf_3"
    assert not (await own.outreach.ListClients(pb.ListClientsRequest(staff_id="stf_1"))).bindings
    ended = await colleague.outreach.UnbindConsumer(pb.UnbindConsumerRequest(request_id=new_request_id(), consumer_id=id, brand_id="brd_1"))
    assert ended.binding.HasField("ended_at")
    with pytest.raises(NotFound):
        await colleague.identity.GetConsumer(identity_pb2.GetConsumerRequest(id=id))
    events = [event.consumer_bound for event in await world.member.published_events()]
    assert [one.staff_id for one in events] == ["stf_1", "stf_3", ""]
    assert [one.HasField("bound_at") for one in events] == [True, True, False]


async def test_binding_to_unknown_staff_or_consumer_is_refused(world):
    id, other_id = await world.register(), await world.register(brand_id="brd_2")
    await change_staff(world, "stf_4", "str_1", active=False)
    operator = world.client(brand_operator("brd_1")).outreach
    for staff_id in ("stf_2", "stf_4", "stf_unknown"):
        with pytest.raises(NotFound, match="STAFF_UNKNOWN"):
            await operator.BindConsumer(bind_request(id, staff_id))
    with pytest.raises(NotFound, match="CONSUMER_NOT_FOUND"):
        await operator.BindConsumer(bind_request(other_id))
    with pytest.raises(NotFound, match="NOT_BOUND"):
        await operator.GetBinding(pb.GetBindingRequest(consumer_id=id, brand_id="brd_1"))


async def test_concurrent_bindings_leave_one_active(world):
    for number in range(3, 8):
        await change_staff(world, f"stf_{number}", "str_1")
    id = await world.register()
    operator = world.client(brand_operator("brd_1")).outreach
    await asyncio.gather(*(operator.BindConsumer(bind_request(id, f"stf_{number}")) for number in range(3, 8)))
    active = await world.database["bindings"].find({"consumer_id": id, "active": True}).to_list(None)
    document = await world.database["consumers"].find_one({"_id": id})
    assert [one["staff_id"] for one in active] == [one["staff_id"] for one in document["served"]]


async def test_import_of_bindings_reports_rejects(world):
    ids = [await world.register() for _ in range(3)]
    rows = [pb.ImportedBinding(consumer_id=id, staff_id="stf_1") for id in ids]
    rows += [
        pb.ImportedBinding(consumer_id="con_unknown", staff_id="stf_1"),
        pb.ImportedBinding(consumer_id=ids[0], staff_id="stf_1"),
        pb.ImportedBinding(consumer_id=await world.register(), staff_id="stf_2"),
    ]
    request = pb.ImportBindingsRequest(request_id=new_request_id(), brand_id="brd_1", bindings=rows)
    answer = await world.client(brand_operator("brd_1")).outreach.ImportBindings(request)
    assert answer.bound == 3
    assert [(one.index, one.reason) for one in answer.rejects] == [(3, "CONSUMER_NOT_FOUND"), (4, "INVALID_FIELD"), (5, "STAFF_UNKNOWN")]
    found = await world.operator.outreach.BatchGetBindings(pb.BatchGetBindingsRequest(consumer_ids=[*ids, "con_unknown"]))
    assert {one.consumer_id for one in found.bindings} == set(ids)
    for grants, count in (
        (consumer_grants(ids[0]), 1),
        ([brand_operator("brd_2")], 0),
        (guide_grants("stf_2", "str_2"), 0),
        ([store_manager("str_1")], 3),
    ):
        found = await world.client(*grants).outreach.BatchGetBindings(pb.BatchGetBindingsRequest(consumer_ids=ids))
        assert len(found.bindings) == count


async def test_message_appears_in_inbox_timeline_and_guides_list(world):
    id = await bind_new_consumer(world)
    writer = world.client(*guide_grants("stf_1", "str_1"), offset=evening_offset_seconds())
    sent = await writer.outreach.SendOutreach(send_request(id, "A white shirt, size 40", task_id="tsk_1"))
    assert sent.remaining == 2
    receiver = world.client(*consumer_grants(id), offset=evening_offset_seconds())
    inbox = await receiver.outreach.ListInbox(pb.ListInboxRequest(consumer_id=id))
    assert ([one.text for one in inbox.outreaches], inbox.unread) == (["A white shirt, size 40"], 1)
    mark = pb.MarkReadRequest(request_id=new_request_id(), consumer_id=id, outreach_ids=[sent.outreach_id])
    assert (await receiver.outreach.MarkRead(mark)).marked == 1
    assert (await receiver.outreach.ListInbox(pb.ListInboxRequest(consumer_id=id))).unread == 0
    listed = (await writer.outreach.ListOutreaches(pb.ListOutreachesRequest(staff_id="stf_1"))).outreaches
    assert [(one.outcome, one.task_id) for one in listed] == [(pb.OUTCOME_READ, "tsk_1")]
    timeline = await world.operator.relation.ListInteractions(relation_pb2.ListInteractionsRequest(consumer_id=id))
    assert [(one.kind, one.ref) for one in timeline.interactions] == [(relation_pb2.INTERACTION_KIND_OUTREACH_RECEIVED, sent.outreach_id)]
    events = [one.outreach_sent for one in await world.member.published_events() if one.WhichOneof("body") == "outreach_sent"]
    assert [(one.outreach_id, one.staff_id, one.store_id, one.task_id) for one in events] == [(sent.outreach_id, "stf_1", "str_1", "tsk_1")]
    async for document in world.database["outreaches"].find():
        assert "white shirt" not in str(document)
    await world.deliver(order_paid_event("ord_1", id, clock.now() + timedelta(seconds=evening_offset_seconds() + 60)), source="commerce")
    (listed,) = (await world.operator.outreach.BatchGetOutreaches(pb.BatchGetOutreachesRequest(ids=[sent.outreach_id]))).outreaches
    assert (listed.outcome, listed.order_id) == (pb.OUTCOME_ORDERED, "ord_1")


async def test_message_without_binding_or_consent_is_refused(world):
    id, unbound, unasked = await bind_new_consumer(world), await world.register(), await world.register()
    await world.operator.outreach.BindConsumer(bind_request(unasked))
    own_grants = guide_grants("stf_1", "str_1")
    refused = [
        (own_grants, 0, send_request(unbound), Denied, "NOT_BOUND"),
        (own_grants, 0, send_request(unasked), Conflict, "NO_CONSENT"),
        (own_grants, 3600, send_request(id), Conflict, "QUIET_HOURS"),
        (guide_grants("stf_2", "str_2"), 0, send_request(id, staff_id="stf_2"), Denied, "NOT_BOUND"),
        (guide_grants("stf_2", "str_2"), 0, send_request(id), Denied, "NOT_PERMITTED"),
        ([brand_operator("brd_1")], 0, send_request(id), Denied, "NOT_PERMITTED"),
        (own_grants, 0, send_request(id, " \n\u3000"), Invalid, "INVALID_FIELD"),
    ]
    for grants, later_seconds, request, kind, reason in refused:
        with pytest.raises(kind) as caught:
            await world.client(*grants, offset=evening_offset_seconds() + later_seconds).outreach.SendOutreach(request)
        assert caught.value.reason == reason
    await change_staff(world, "stf_1", "str_1", active=False)
    with pytest.raises(Denied, match="STAFF_UNKNOWN"):
        await world.client(*own_grants, offset=evening_offset_seconds()).outreach.SendOutreach(send_request(id))
    assert await world.database["outreaches"].count_documents({}) == 0


async def test_frequency_cap_is_exact_under_concurrency(world):
    id = await bind_new_consumer(world)
    writer = world.client(*guide_grants("stf_1", "str_1"), offset=evening_offset_seconds())
    answers = await asyncio.gather(*(writer.outreach.SendOutreach(send_request(id)) for _ in range(12)), return_exceptions=True)
    sent = [one for one in answers if isinstance(one, pb.SendOutreachResponse)]
    assert sorted(one.remaining for one in sent) == [0, 1, 2]
    assert all(isinstance(one, Exhausted) and one.reason == "FREQUENCY_CAP" for one in answers if one not in sent)
    assert await world.database["outreaches"].count_documents({}) == 3
    later = world.client(*guide_grants("stf_1", "str_1"), offset=evening_offset_seconds() + 7 * DAY_SECONDS + 60)
    assert (await later.outreach.SendOutreach(send_request(id))).remaining == 2


async def test_frequency_cap_counts_linked_consumers_together(world):
    first, second = await bind_new_consumer(world), await bind_new_consumer(world)
    writer = world.client(*guide_grants("stf_1", "str_1"), offset=evening_offset_seconds())
    for id in (first, first, second):
        await writer.outreach.SendOutreach(send_request(id))
    link = identity_pb2.LinkConsumersRequest(
        request_id=new_request_id(), consumer_id=first, linked_consumer_id=second, evidence=["IDENTITY_KIND_PHONE"]
    )  # fmt: skip
    await world.operator.identity.LinkConsumers(link)
    for id in (first, second):
        with pytest.raises(Exhausted, match="FREQUENCY_CAP"):
            await writer.outreach.SendOutreach(send_request(id))
    inbox = await world.client(*consumer_grants(first, second)).outreach.ListInbox(pb.ListInboxRequest(consumer_id=first))
    assert (len(inbox.outreaches), inbox.unread) == (3, 3)


async def test_only_the_receiver_reads_and_marks_messages(world):
    id, other = await bind_new_consumer(world), await bind_new_consumer(world)
    writer = world.client(*guide_grants("stf_1", "str_1"), offset=evening_offset_seconds())
    own_message = (await writer.outreach.SendOutreach(send_request(id))).outreach_id
    other_message = (await writer.outreach.SendOutreach(send_request(other))).outreach_id
    receiver = world.client(*consumer_grants(id)).outreach
    with pytest.raises(NotFound, match="OUTREACH_NOT_FOUND"):
        await receiver.MarkRead(pb.MarkReadRequest(request_id=new_request_id(), consumer_id=id, outreach_ids=[own_message, other_message]))
    assert (await receiver.ListInbox(pb.ListInboxRequest(consumer_id=id))).unread == 1
    with pytest.raises(Denied):
        await receiver.ListInbox(pb.ListInboxRequest(consumer_id=other))
    for grants in ([brand_operator("brd_2")], guide_grants("stf_2", "str_2"), consumer_grants("con_x")):
        found = await world.client(*grants).outreach.BatchGetOutreaches(pb.BatchGetOutreachesRequest(ids=[own_message, other_message]))
        assert not found.outreaches


async def test_batch_lists_of_messages_equal_single_lists(world):
    await change_staff(world, "stf_3", "str_1")
    ids = [await bind_new_consumer(world) for _ in range(4)]
    await world.client(store_manager("str_1")).outreach.BindConsumer(bind_request(ids[3], "stf_3", store_id="str_1"))
    first, second = (
        world.client(*guide_grants("stf_1", "str_1"), offset=evening_offset_seconds()),
        world.client(*guide_grants("stf_3", "str_1"), offset=evening_offset_seconds()),
    )
    for id in (*ids[:3], ids[0]):
        await first.outreach.SendOutreach(send_request(id))
    await second.outreach.SendOutreach(send_request(ids[3], staff_id="stf_3"))
    written, clients = "OutreachService.BatchListOutreaches", "OutreachService.BatchListClients"
    guides, stores, brands = ["stf_1", "stf_3", "stf_none"], ["str_1", "str_2"], ["brd_1", "brd_2"]
    for client, of_guides, of_stores, of_brands, bound in (
        (world.operator, {"stf_1": 4, "stf_3": 1}, {"str_1": 5}, {"brd_1": 5}, {"stf_1": 3, "stf_3": 1}),
        (world.client(*guide_grants("stf_3", "str_1")[1:]), {"stf_3": 1}, {"str_1": 1}, {"brd_1": 1}, {"stf_3": 1}),
        (world.client(brand_operator("brd_2")), {}, {}, {}, {}),
    ):
        assert await assert_batch_equals_lists(client.outreach, written, "staff_id", guides) == of_guides
        assert await assert_batch_equals_lists(client.outreach, written, "store_id", stores) == of_stores
        assert await assert_batch_equals_lists(client.outreach, written, "brand_id", brands) == of_brands
        assert await assert_batch_equals_lists(client.outreach, clients, "staff_id", guides) == bound
    with pytest.raises(Invalid, match="INVALID_FIELD"):
        await world.operator.outreach.BatchListOutreaches(pb.BatchListOutreachesRequest(staff_ids=guides, store_ids=stores))


async def test_batch_lists_of_inboxes_equal_single_lists(world):
    ids = [await bind_new_consumer(world) for _ in range(3)]
    writer = world.client(*guide_grants("stf_1", "str_1"), offset=evening_offset_seconds())
    sent = [(await writer.outreach.SendOutreach(send_request(id))).outreach_id for id in (ids[0], ids[0], ids[1])]
    await world.client(*consumer_grants(ids[1])).outreach.MarkRead(
        pb.MarkReadRequest(request_id=new_request_id(), consumer_id=ids[1], outreach_ids=[sent[2]])
    )
    link = identity_pb2.LinkConsumersRequest(
        request_id=new_request_id(), consumer_id=ids[0], linked_consumer_id=ids[2], evidence=["IDENTITY_KIND_PHONE"]
    )  # fmt: skip
    await world.operator.identity.LinkConsumers(link)
    rpc = "OutreachService.BatchListInbox"
    assert await assert_batch_equals_lists(world.operator.outreach, rpc, "consumer_id", ids) == {ids[0]: 2, ids[1]: 1, ids[2]: 2}
    inboxes = await world.operator.outreach.BatchListInbox(pb.BatchListInboxRequest(consumer_ids=ids, first=1))
    assert {one.consumer_id: one.unread for one in inboxes.consumers} == {ids[0]: 2, ids[1]: 0, ids[2]: 2}
    # A caller with one id of a person reads the messages to all of them.
    own = await fetch_first_pages(world.client(*consumer_grants(ids[2])).outreach, rpc, "consumer_id", ids, 5)
    assert {id: len(found) for id, (found, _) in own.items()} == {ids[2]: 2}
    with pytest.raises(Denied):
        await fetch_first_pages(world.client(brand_operator("brd_1")).outreach, rpc, "consumer_id", ids, 5)
