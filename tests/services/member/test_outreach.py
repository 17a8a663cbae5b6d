"""Bindings and messages through the running service."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from quanyu.events.v1 import events_pb2
from quanyu.member.v1 import identity_pb2, relation_pb2
from quanyu.member.v1 import outreach_pb2 as pb
from services.kit import clock
from services.kit.errors import Conflict, Denied, Exhausted, Invalid, NotFound
from services.kit.values import opening_hours
from tests.services.lists import first_pages, says_the_same_of_each
from tests.services.member.conftest import brand, guide, manager, new_request, shopper
from tests.services.member.test_relation import paid

DAY_SECONDS = 86_400.0


def evening() -> float:
    """How far a clock must be moved to show 21:40 in Shanghai today."""
    now = datetime.now(UTC)
    return (opening_hours.moment(opening_hours.day_of(now, "Asia/Shanghai"), 21 * 60 + 40, "Asia/Shanghai") - now).total_seconds()


def binding(consumer_id, staff_id="stf_1", brand_id="brd_1", **more):
    return pb.BindConsumerRequest(request_id=new_request(), consumer_id=consumer_id, brand_id=brand_id, staff_id=staff_id, **more)


def message(consumer_id, text="Your shirt is back", staff_id="stf_1", **more):
    return pb.SendOutreachRequest(
        request_id=new_request(), consumer_id=consumer_id, brand_id="brd_1", staff_id=staff_id, text=text, **more
    )  # fmt: skip


async def client(town, **more):
    """A consumer bound to guide 1 who allows brand 1 to write."""
    id = await town.registered(**more)
    await town.operator.outreach.BindConsumer(binding(id))
    await town.consent(id)
    return id


async def staff(town, staff_id, store_id, brand_id="brd_1", active=True):
    changed = events_pb2.StaffChanged(staff_id=staff_id, brand_id=brand_id, store_id=store_id, active=active)
    await town.tell(events_pb2.Event(key=staff_id, source="organization", staff_changed=changed), source="organization")


async def test_a_guide_binds_finds_and_gives_up_clients(town):
    await staff(town, "stf_3", "str_1")
    id = await town.registered("13812341234", display_name="Li Na")
    mine, colleague = town.speaker(*guide("stf_1", "str_1")), town.speaker(*guide("stf_3", "str_1"))
    with pytest.raises(NotFound):
        await mine.identity.GetConsumer(identity_pb2.GetConsumerRequest(id=id))
    bound = (await mine.outreach.BindConsumer(binding(id))).binding
    assert (bound.staff_id, bound.store_id, bound.consumer_id) == ("stf_1", "str_1", id)
    seen = (await mine.identity.GetConsumer(identity_pb2.GetConsumerRequest(id=id))).consumer
    assert (seen.display_name, seen.phone) == ("Li Na", "138****1234")
    book = await mine.outreach.ListClients(pb.ListClientsRequest(staff_id="stf_1"))
    assert [one.consumer_id for one in book.bindings] == [id]
    with pytest.raises(Conflict, match="BOUND_ELSEWHERE"):
        await town.speaker(*guide("stf_3", "str_1")[1:]).outreach.BindConsumer(binding(id, "stf_3"))
    with pytest.raises(Denied):
        await colleague.outreach.BindConsumer(binding(id, "stf_1", brand_id="brd_2"))
    moved = await town.speaker(manager("str_1")).outreach.BindConsumer(binding(id, "stf_3", store_id="str_1"))
    assert moved.binding.staff_id == "stf_3"
    assert not (await mine.outreach.ListClients(pb.ListClientsRequest(staff_id="stf_1"))).bindings
    ended = await colleague.outreach.UnbindConsumer(pb.UnbindConsumerRequest(request_id=new_request(), consumer_id=id, brand_id="brd_1"))
    assert ended.binding.HasField("ended_at")
    with pytest.raises(NotFound):
        await colleague.identity.GetConsumer(identity_pb2.GetConsumerRequest(id=id))
    told = [event.consumer_bound for event in await town.member.events_told()]
    assert [one.staff_id for one in told] == ["stf_1", "stf_3", ""]
    assert [one.HasField("bound_at") for one in told] == [True, True, False]


async def test_bindings_to_strangers_are_refused(town):
    id, theirs = await town.registered(), await town.registered(brand_id="brd_2")
    await staff(town, "stf_4", "str_1", active=False)
    operator = town.speaker(brand("brd_1")).outreach
    for staff_id in ("stf_2", "stf_4", "stf_unknown"):
        with pytest.raises(NotFound, match="STAFF_UNKNOWN"):
            await operator.BindConsumer(binding(id, staff_id))
    with pytest.raises(NotFound, match="CONSUMER_NOT_FOUND"):
        await operator.BindConsumer(binding(theirs))
    with pytest.raises(NotFound, match="NOT_BOUND"):
        await operator.GetBinding(pb.GetBindingRequest(consumer_id=id, brand_id="brd_1"))


async def test_one_active_binding_for_each_consumer_and_brand_however_many_bind_at_once(town):
    for number in range(3, 8):
        await staff(town, f"stf_{number}", "str_1")
    id = await town.registered()
    operator = town.speaker(brand("brd_1")).outreach
    await asyncio.gather(*(operator.BindConsumer(binding(id, f"stf_{number}")) for number in range(3, 8)))
    active = await town.database["bindings"].find({"consumer_id": id, "active": True}).to_list(None)
    row = await town.database["consumers"].find_one({"_id": id})
    assert [one["staff_id"] for one in active] == [one["staff_id"] for one in row["served"]]


async def test_an_import_binds_what_can_be(town):
    ids = [await town.registered() for _ in range(3)]
    rows = [pb.ImportedBinding(consumer_id=id, staff_id="stf_1") for id in ids]
    rows += [
        pb.ImportedBinding(consumer_id="con_nobody", staff_id="stf_1"),
        pb.ImportedBinding(consumer_id=ids[0], staff_id="stf_1"),
        pb.ImportedBinding(consumer_id=await town.registered(), staff_id="stf_2"),
    ]
    request = pb.ImportBindingsRequest(request_id=new_request(), brand_id="brd_1", bindings=rows)
    answer = await town.speaker(brand("brd_1")).outreach.ImportBindings(request)
    assert answer.bound == 3
    assert [(one.index, one.reason) for one in answer.rejects] == [(3, "CONSUMER_NOT_FOUND"), (4, "INVALID_FIELD"), (5, "STAFF_UNKNOWN")]
    found = await town.operator.outreach.BatchGetBindings(pb.BatchGetBindingsRequest(consumer_ids=[*ids, "con_nobody"]))
    assert {one.consumer_id for one in found.bindings} == set(ids)
    for grants, count in ((shopper(ids[0]), 1), ([brand("brd_2")], 0), (guide("stf_2", "str_2"), 0), ([manager("str_1")], 3)):
        found = await town.speaker(*grants).outreach.BatchGetBindings(pb.BatchGetBindingsRequest(consumer_ids=ids))
        assert len(found.bindings) == count


async def test_a_message_reaches_the_inbox_the_timeline_and_the_guides_list(town):
    id = await client(town)
    writer = town.speaker(*guide("stf_1", "str_1"), offset=evening())
    sent = await writer.outreach.SendOutreach(message(id, "A white shirt, size 40", task_id="tsk_1"))
    assert sent.remaining == 2
    receiver = town.speaker(*shopper(id), offset=evening())
    inbox = await receiver.outreach.ListInbox(pb.ListInboxRequest(consumer_id=id))
    assert ([one.text for one in inbox.outreaches], inbox.unread) == (["A white shirt, size 40"], 1)
    mark = pb.MarkReadRequest(request_id=new_request(), consumer_id=id, outreach_ids=[sent.outreach_id])
    assert (await receiver.outreach.MarkRead(mark)).marked == 1
    assert (await receiver.outreach.ListInbox(pb.ListInboxRequest(consumer_id=id))).unread == 0
    listed = (await writer.outreach.ListOutreaches(pb.ListOutreachesRequest(staff_id="stf_1"))).outreaches
    assert [(one.outcome, one.task_id) for one in listed] == [(pb.OUTCOME_READ, "tsk_1")]
    told = await town.operator.relation.ListInteractions(relation_pb2.ListInteractionsRequest(consumer_id=id))
    assert [(one.kind, one.ref) for one in told.interactions] == [(relation_pb2.INTERACTION_KIND_OUTREACH_RECEIVED, sent.outreach_id)]
    event = [one.outreach_sent for one in await town.member.events_told() if one.WhichOneof("body") == "outreach_sent"]
    assert [(one.outreach_id, one.staff_id, one.store_id, one.task_id) for one in event] == [(sent.outreach_id, "stf_1", "str_1", "tsk_1")]
    async for row in town.database["outreaches"].find():
        assert "white shirt" not in str(row)
    await town.tell(paid("ord_1", id, clock.now() + timedelta(seconds=evening() + 60)), source="commerce")
    (listed,) = (await town.operator.outreach.BatchGetOutreaches(pb.BatchGetOutreachesRequest(ids=[sent.outreach_id]))).outreaches
    assert (listed.outcome, listed.order_id) == (pb.OUTCOME_ORDERED, "ord_1")


async def test_a_message_is_refused_without_binding_consent_or_daylight(town):
    id, unbound, silent = await client(town), await town.registered(), await town.registered()
    await town.operator.outreach.BindConsumer(binding(silent))
    mine = guide("stf_1", "str_1")
    refused = [
        (mine, 0, message(unbound), Denied, "NOT_BOUND"),
        (mine, 0, message(silent), Conflict, "NO_CONSENT"),
        (mine, 3600, message(id), Conflict, "QUIET_HOURS"),
        (guide("stf_2", "str_2"), 0, message(id, staff_id="stf_2"), Denied, "NOT_BOUND"),
        (guide("stf_2", "str_2"), 0, message(id), Denied, "NOT_PERMITTED"),
        ([brand("brd_1")], 0, message(id), Denied, "NOT_PERMITTED"),
        (mine, 0, message(id, " \n\u3000"), Invalid, "INVALID_FIELD"),
    ]
    for grants, later, request, kind, reason in refused:
        with pytest.raises(kind) as caught:
            await town.speaker(*grants, offset=evening() + later).outreach.SendOutreach(request)
        assert caught.value.reason == reason
    await staff(town, "stf_1", "str_1", active=False)
    with pytest.raises(Denied, match="STAFF_UNKNOWN"):
        await town.speaker(*mine, offset=evening()).outreach.SendOutreach(message(id))
    assert await town.database["outreaches"].count_documents({}) == 0


async def test_the_cap_is_exact_however_many_write_at_once(town):
    id = await client(town)
    writer = town.speaker(*guide("stf_1", "str_1"), offset=evening())
    answers = await asyncio.gather(*(writer.outreach.SendOutreach(message(id)) for _ in range(12)), return_exceptions=True)
    sent = [one for one in answers if isinstance(one, pb.SendOutreachResponse)]
    assert sorted(one.remaining for one in sent) == [0, 1, 2]
    assert all(isinstance(one, Exhausted) and one.reason == "FREQUENCY_CAP" for one in answers if one not in sent)
    assert await town.database["outreaches"].count_documents({}) == 3
    later = town.speaker(*guide("stf_1", "str_1"), offset=evening() + 7 * DAY_SECONDS + 60)
    assert (await later.outreach.SendOutreach(message(id))).remaining == 2


async def test_the_cap_counts_a_person_once_under_all_their_ids(town):
    first, second = await client(town), await client(town)
    writer = town.speaker(*guide("stf_1", "str_1"), offset=evening())
    for id in (first, first, second):
        await writer.outreach.SendOutreach(message(id))
    link = identity_pb2.LinkConsumersRequest(
        request_id=new_request(), consumer_id=first, linked_consumer_id=second, evidence=["IDENTITY_KIND_PHONE"]
    )  # fmt: skip
    await town.operator.identity.LinkConsumers(link)
    for id in (first, second):
        with pytest.raises(Exhausted, match="FREQUENCY_CAP"):
            await writer.outreach.SendOutreach(message(id))
    inbox = await town.speaker(*shopper(first, second)).outreach.ListInbox(pb.ListInboxRequest(consumer_id=first))
    assert (len(inbox.outreaches), inbox.unread) == (3, 3)


async def test_messages_are_read_by_their_receiver_only(town):
    id, other = await client(town), await client(town)
    writer = town.speaker(*guide("stf_1", "str_1"), offset=evening())
    mine = (await writer.outreach.SendOutreach(message(id))).outreach_id
    theirs = (await writer.outreach.SendOutreach(message(other))).outreach_id
    receiver = town.speaker(*shopper(id)).outreach
    with pytest.raises(NotFound, match="OUTREACH_NOT_FOUND"):
        await receiver.MarkRead(pb.MarkReadRequest(request_id=new_request(), consumer_id=id, outreach_ids=[mine, theirs]))
    assert (await receiver.ListInbox(pb.ListInboxRequest(consumer_id=id))).unread == 1
    with pytest.raises(Denied):
        await receiver.ListInbox(pb.ListInboxRequest(consumer_id=other))
    for grants in ([brand("brd_2")], guide("stf_2", "str_2"), shopper("con_x")):
        found = await town.speaker(*grants).outreach.BatchGetOutreaches(pb.BatchGetOutreachesRequest(ids=[mine, theirs]))
        assert not found.outreaches


async def test_the_first_messages_and_clients_of_several_are_those_of_each_within_scope(town):
    await staff(town, "stf_3", "str_1")
    ids = [await client(town) for _ in range(4)]
    await town.speaker(manager("str_1")).outreach.BindConsumer(binding(ids[3], "stf_3", store_id="str_1"))
    first, second = town.speaker(*guide("stf_1", "str_1"), offset=evening()), town.speaker(*guide("stf_3", "str_1"), offset=evening())
    for id in (*ids[:3], ids[0]):
        await first.outreach.SendOutreach(message(id))
    await second.outreach.SendOutreach(message(ids[3], staff_id="stf_3"))
    written, clients = "OutreachService.BatchListOutreaches", "OutreachService.BatchListClients"
    guides, stores, brands = ["stf_1", "stf_3", "stf_none"], ["str_1", "str_2"], ["brd_1", "brd_2"]
    for speaker, of_guides, of_stores, of_brands, bound in (
        (town.operator, {"stf_1": 4, "stf_3": 1}, {"str_1": 5}, {"brd_1": 5}, {"stf_1": 3, "stf_3": 1}),
        (town.speaker(*guide("stf_3", "str_1")[1:]), {"stf_3": 1}, {"str_1": 1}, {"brd_1": 1}, {"stf_3": 1}),
        (town.speaker(brand("brd_2")), {}, {}, {}, {}),
    ):
        assert await says_the_same_of_each(speaker.outreach, written, "staff_id", guides) == of_guides
        assert await says_the_same_of_each(speaker.outreach, written, "store_id", stores) == of_stores
        assert await says_the_same_of_each(speaker.outreach, written, "brand_id", brands) == of_brands
        assert await says_the_same_of_each(speaker.outreach, clients, "staff_id", guides) == bound
    with pytest.raises(Invalid, match="INVALID_FIELD"):
        await town.operator.outreach.BatchListOutreaches(pb.BatchListOutreachesRequest(staff_ids=guides, store_ids=stores))


async def test_the_first_messages_in_several_inboxes_are_those_of_each_person(town):
    ids = [await client(town) for _ in range(3)]
    writer = town.speaker(*guide("stf_1", "str_1"), offset=evening())
    sent = [(await writer.outreach.SendOutreach(message(id))).outreach_id for id in (ids[0], ids[0], ids[1])]
    await town.speaker(*shopper(ids[1])).outreach.MarkRead(
        pb.MarkReadRequest(request_id=new_request(), consumer_id=ids[1], outreach_ids=[sent[2]])
    )
    link = identity_pb2.LinkConsumersRequest(
        request_id=new_request(), consumer_id=ids[0], linked_consumer_id=ids[2], evidence=["IDENTITY_KIND_PHONE"]
    )  # fmt: skip
    await town.operator.identity.LinkConsumers(link)
    rpc = "OutreachService.BatchListInbox"
    assert await says_the_same_of_each(town.operator.outreach, rpc, "consumer_id", ids) == {ids[0]: 2, ids[1]: 1, ids[2]: 2}
    everybody = await town.operator.outreach.BatchListInbox(pb.BatchListInboxRequest(consumer_ids=ids, first=1))
    assert {one.consumer_id: one.unread for one in everybody.consumers} == {ids[0]: 2, ids[1]: 0, ids[2]: 2}
    # Who has an id of a person reads what came under any.
    hers = await first_pages(town.speaker(*shopper(ids[2])).outreach, rpc, "consumer_id", ids, 5)
    assert {id: len(found) for id, (found, _) in hers.items()} == {ids[2]: 2}
    with pytest.raises(Denied):
        await first_pages(town.speaker(brand("brd_1")).outreach, rpc, "consumer_id", ids, 5)
