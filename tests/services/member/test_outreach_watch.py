"""Following an inbox, under whichever of their ids somebody is written to."""

import pytest

from quanyu.member.v1 import identity_pb2
from quanyu.member.v1 import outreach_pb2 as pb
from services.kit import clock, ids
from services.kit.errors import Denied, Invalid
from services.kit.rpc.change_feed import REWIND
from tests.services.member.conftest import brand, guide, new_request, shopper
from tests.services.member.test_events import stages
from tests.services.member.test_identity import link
from tests.services.member.test_outreach import client, evening, message
from tests.services.streams import listening


async def write(town, consumer_id, text="Your shirt is back"):
    await town.speaker(*guide("stf_1", "str_1"), offset=evening()).outreach.SendOutreach(message(consumer_id, text))


def inbox(town, *ids):
    return town.speaker(*shopper(*ids)).outreach.WatchInbox


def watching(consumer_id, after=""):
    return pb.WatchInboxRequest(consumer_id=consumer_id, after=after)


async def test_each_message_comes_once_with_how_many_are_unread(town):
    id = await client(town)
    await write(town, id, "before")
    async with listening(inbox(town, id), watching(id)) as stream:
        await stream.began()
        begun = stream.cursor
        await write(town, id, "A white shirt")
        (first,) = await stream.came(1)
        assert (first.message.text, first.message.consumer_id, first.unread) == ("A white shirt", id, 2)
        mark = pb.MarkReadRequest(request_id=new_request(), consumer_id=id, outreach_ids=[first.message.id])
        await town.speaker(*shopper(id)).outreach.MarkRead(mark)
        await write(town, id, "size 40")
        (_, second) = await stream.came(2)
        assert (second.message.text, second.unread) == ("size 40", 2)
    async with listening(inbox(town, id), watching(id, first.cursor)) as again:
        assert [one.message.text for one in await again.came(1)] == ["size 40"]
    async with listening(inbox(town, id), watching(id, begun)) as again:
        (read, unread) = await again.came(2)
        assert [one.message.text for one in (read, unread)] == ["A white shirt", "size 40"]
        assert (read.message.outcome, unread.message.outcome) == (pb.OUTCOME_READ, pb.OUTCOME_SENT)


async def test_a_link_ends_the_stream_and_the_next_one_hears_the_whole_person(town):
    first, second = await client(town), await client(town)
    async with listening(inbox(town, first), watching(first)) as stream:
        await stream.began()
        await town.operator.identity.LinkConsumers(link(first, second))
        assert await stream.ended() is None
    await write(town, second, "to the other id")
    async with listening(inbox(town, first), watching(first, stream.cursor)) as again:
        (told,) = await again.came(1)
        assert (told.message.text, told.message.consumer_id) == ("to the other id", second)
        unlink = identity_pb2.UnlinkConsumersRequest(request_id=new_request(), consumer_id=first, linked_consumer_id=second)
        await town.operator.identity.UnlinkConsumers(unlink)
        assert await again.ended() is None
    async with (
        listening(inbox(town, first), watching(first, again.cursor)) as mine,
        listening(inbox(town, second), watching(second)) as theirs,
    ):
        await mine.began(), await theirs.began()
        await write(town, second, "no longer mine")
        await theirs.came(1)
        await write(town, first, "mine")
        assert [one.message.text for one in await mine.came(1)] == ["mine"]


@pytest.mark.parametrize("grants", [shopper("con_x"), guide("stf_1", "str_1"), [brand("brd_1")]], ids=["neighbour", "guide", "brand"])
async def test_nobody_else_hears_of_an_inbox(town, grants):
    id = await client(town)
    async with listening(town.speaker(*grants).outreach.WatchInbox, watching(id)) as stream:
        assert isinstance(await stream.ended(), Denied)
        assert not stream.responses


async def test_after_anothers_cursor_is_refused(town):
    id, other = await client(town), await client(town)
    async with listening(inbox(town, id), watching(id)) as stream:
        await stream.began()
    for wrong in (stream.cursor, "x"):
        async with listening(inbox(town, other), watching(other, wrong)) as refused:
            refusal = await refused.ended()
            assert isinstance(refusal, Invalid) and refusal.reason == "INVALID_CURSOR"


async def test_what_came_is_read_by_an_index(town):
    members = [await client(town), "con_linked"]
    await write(town, members[0])
    since = {"_id": {"$gte": ids.least("out", clock.real() - REWIND)}}
    found = (
        town.database["outreaches"]
        .find({"$and": [{"consumer_id": {"$in": members}}, since]})
        .sort([("_id", 1)])
        .hint([("consumer_id", 1), ("_id", 1)])
    )
    plan = (await found.explain())["queryPlanner"]["winningPlan"]
    assert "COLLSCAN" not in stages(plan) and "SORT" not in stages(plan) and "consumer_id_1__id_1" in str(plan)
