"""WatchInbox: the stream of a person's new messages, under all of their consumer ids."""

import pytest

from quanyu.member.v1 import identity_pb2
from quanyu.member.v1 import outreach_pb2 as pb
from services.kit import clock, ids
from services.kit.errors import Denied, Invalid
from services.kit.rpc.change_feed import REWIND
from tests.services.member.conftest import brand_operator, consumer_grants, guide_grants, new_request_id
from tests.services.member.test_events import list_stages
from tests.services.member.test_identity import link_request
from tests.services.member.test_outreach import bind_new_consumer, evening_offset_seconds, send_request
from tests.services.streams import read_stream


async def send(world, consumer_id, text="Your shirt is back"):
    await world.client(*guide_grants("stf_1", "str_1"), offset=evening_offset_seconds()).outreach.SendOutreach(
        send_request(consumer_id, text)
    )


def watch_rpc(world, *ids):
    return world.client(*consumer_grants(*ids)).outreach.WatchInbox


def watch_request(consumer_id, after=""):
    return pb.WatchInboxRequest(consumer_id=consumer_id, after=after)


async def test_watch_yields_each_message_once_with_unread_count(world):
    id = await bind_new_consumer(world)
    await send(world, id, "before")
    async with read_stream(watch_rpc(world, id), watch_request(id)) as stream:
        await stream.wait_until_started()
        first_cursor = stream.cursor
        await send(world, id, "A white shirt")
        (first,) = await stream.expect_responses(1)
        assert (first.message.text, first.message.consumer_id, first.unread) == ("A white shirt", id, 2)
        mark = pb.MarkReadRequest(request_id=new_request_id(), consumer_id=id, outreach_ids=[first.message.id])
        await world.client(*consumer_grants(id)).outreach.MarkRead(mark)
        await send(world, id, "size 40")
        (_, second) = await stream.expect_responses(2)
        assert (second.message.text, second.unread) == ("size 40", 2)
    async with read_stream(watch_rpc(world, id), watch_request(id, first.cursor)) as again:
        assert [one.message.text for one in await again.expect_responses(1)] == ["size 40"]
    async with read_stream(watch_rpc(world, id), watch_request(id, first_cursor)) as again:
        (read, unread) = await again.expect_responses(2)
        assert [one.message.text for one in (read, unread)] == ["A white shirt", "size 40"]
        assert (read.message.outcome, unread.message.outcome) == (pb.OUTCOME_READ, pb.OUTCOME_SENT)


async def test_link_ends_watch_and_next_covers_person(world):
    first, second = await bind_new_consumer(world), await bind_new_consumer(world)
    async with read_stream(watch_rpc(world, first), watch_request(first)) as stream:
        await stream.wait_until_started()
        await world.operator.identity.LinkConsumers(link_request(first, second))
        assert await stream.wait_until_ended() is None
    await send(world, second, "to the other id")
    async with read_stream(watch_rpc(world, first), watch_request(first, stream.cursor)) as again:
        (received,) = await again.expect_responses(1)
        assert (received.message.text, received.message.consumer_id) == ("to the other id", second)
        unlink = identity_pb2.UnlinkConsumersRequest(request_id=new_request_id(), consumer_id=first, linked_consumer_id=second)
        await world.operator.identity.UnlinkConsumers(unlink)
        assert await again.wait_until_ended() is None
    async with (
        read_stream(watch_rpc(world, first), watch_request(first, again.cursor)) as mine,
        read_stream(watch_rpc(world, second), watch_request(second)) as theirs,
    ):
        await mine.wait_until_started(), await theirs.wait_until_started()
        await send(world, second, "no longer mine")
        await theirs.expect_responses(1)
        await send(world, first, "mine")
        assert [one.message.text for one in await mine.expect_responses(1)] == ["mine"]


@pytest.mark.parametrize(
    "grants", [consumer_grants("con_x"), guide_grants("stf_1", "str_1"), [brand_operator("brd_1")]], ids=["neighbour", "guide", "brand"]
)
async def test_watch_is_denied_to_other_callers(world, grants):
    id = await bind_new_consumer(world)
    async with read_stream(world.client(*grants).outreach.WatchInbox, watch_request(id)) as stream:
        assert isinstance(await stream.wait_until_ended(), Denied)
        assert not stream.responses


async def test_watch_refuses_cursor_of_other_inbox(world):
    id, other = await bind_new_consumer(world), await bind_new_consumer(world)
    async with read_stream(watch_rpc(world, id), watch_request(id)) as stream:
        await stream.wait_until_started()
    for wrong in (stream.cursor, "x"):
        async with read_stream(watch_rpc(world, other), watch_request(other, wrong)) as refused:
            refusal = await refused.wait_until_ended()
            assert isinstance(refusal, Invalid) and refusal.reason == "INVALID_CURSOR"


async def test_watch_reads_by_index(world):
    members = [await bind_new_consumer(world), "con_linked"]
    await send(world, members[0])
    since = {"_id": {"$gte": ids.lower_bound("out", clock.system_now() - REWIND)}}
    found = (
        world.database["outreaches"]
        .find({"$and": [{"consumer_id": {"$in": members}}, since]})
        .sort([("_id", 1)])
        .hint([("consumer_id", 1), ("_id", 1)])
    )
    plan = (await found.explain())["queryPlanner"]["winningPlan"]
    assert "COLLSCAN" not in list_stages(plan) and "SORT" not in list_stages(plan) and "consumer_id_1__id_1" in str(plan)
