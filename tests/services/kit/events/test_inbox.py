"""The inbox: each event takes effect exactly once, in order for each key, and a failing one holds back its own key only."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanyu.events.v1 import events_pb2, events_pb2_grpc
from services.kit.errors import Conflict, Unavailable
from services.kit.events.inbox import APPLIED, BATCH_MAX, FAILED, WAITING, BatchHandler, EventInUnit, plan
from services.kit.mongo.client import Database
from services.kit.security.caller import SYSTEM, current_caller
from services.kit.transactions.outbox import DELIVERIES
from services.kit.transactions.unit_of_work import UnitOfWork
from tests.services.kit.hearing import AT, SOURCE, Listener, sequenced, visit


@pytest.fixture
async def subscriber(database: Database) -> AsyncIterator[Listener]:
    subscriber = Listener(database)
    await subscriber.start()
    yield subscriber
    await subscriber.stop()


async def deliver(subscriber: Listener, events: Sequence[events_pb2.Event], source: str = SOURCE) -> list[events_pb2.Delivery]:
    async with grpc.aio.insecure_channel(subscriber.address) as channel:
        request = events_pb2.DeliverRequest(source=source, events=events)
        return list((await events_pb2_grpc.EventInboxServiceStub(channel).Deliver(request)).deliveries)


def states(deliveries: Sequence[events_pb2.Delivery]) -> list[Any]:
    return [delivery.state for delivery in deliveries]


async def test_a_batch_is_applied_in_its_order(subscriber: Listener) -> None:
    events = sequenced([visit(key, number) for number in range(1, 6) for key in "ab"])
    deliveries = await deliver(subscriber, events)
    assert [delivery.event_id for delivery in deliveries] == [event.id for event in events]
    assert states(deliveries) == [APPLIED] * 10
    assert await subscriber.applied() == {"a": [1, 2, 3, 4, 5], "b": [1, 2, 3, 4, 5]}


async def test_a_repeat_is_answered_as_applied_without_effect(subscriber: Listener) -> None:
    events = sequenced([visit("a", 1), visit("a", 2), visit("a", 3)])
    await deliver(subscriber, events[:2])
    assert states(await deliver(subscriber, [events[0], events[0], *events[1:], events[2]])) == [APPLIED] * 5
    assert await subscriber.applied() == {"a": [1, 2, 3]}


async def test_a_event_behind_a_gap_waits_for_the_missing_one(subscriber: Listener) -> None:
    events = sequenced([visit("a", 1), visit("a", 2), visit("a", 3)])
    early = await deliver(subscriber, [events[0], events[2]])
    assert states(early) == [APPLIED, WAITING]
    assert early[1].reason == "EARLIER_MISSING"
    assert states(await deliver(subscriber, events[1:])) == [APPLIED, APPLIED]
    assert await subscriber.applied() == {"a": [1, 2, 3]}


async def test_sources_do_not_share_sequences(subscriber: Listener) -> None:
    heard = []

    async def bought(uow: UnitOfWork, event: events_pb2.Event) -> None:
        heard.append((event.source, event.sequence))

    subscriber.handlers["order_paid"] = bought
    await subscriber.stop()
    await subscriber.start()
    await deliver(subscriber, sequenced([visit("a", 1)]))
    paid = visit("a", 2, "commerce")
    paid.order_paid.CopyFrom(events_pb2.OrderPaid(order_id="a"))
    assert states(await deliver(subscriber, sequenced([paid]), "commerce")) == [APPLIED]
    assert heard == [("commerce", 1)]
    assert await subscriber.applied() == {"a": [1]}


async def test_a_failing_event_holds_back_its_own_key_only(subscriber: Listener) -> None:
    events = sequenced([visit(key, number) for number in range(1, 4) for key in "ab"])
    subscriber.refused.add(("a", "2"))
    assert states(await deliver(subscriber, events)) == [APPLIED, APPLIED, FAILED, APPLIED, WAITING, APPLIED]
    assert await subscriber.applied() == {"a": [1], "b": [1, 2, 3]}
    subscriber.refused.clear()
    assert states(await deliver(subscriber, events)) == [APPLIED] * 6
    assert await subscriber.applied() == {"a": [1, 2, 3], "b": [1, 2, 3]}


async def test_no_text_of_an_unknown_exception_crosses(subscriber: Listener) -> None:
    subscriber.refused.add(("a", "1"))
    (delivery,) = await deliver(subscriber, sequenced([visit("a", 1)]))
    assert delivery.reason.startswith("INTERNAL bug_")
    assert "text" not in delivery.reason


async def test_a_refusal_is_answered_by_its_reason_and_a_passing_one_does_not_count(subscriber: Listener) -> None:
    async def refuse(uow: UnitOfWork, event: events_pb2.Event) -> None:
        if event.key == "never":
            raise Conflict("VISIT_OVER", "the text stays here")
        raise Unavailable("ANOTHER_SERVICE", "the text stays here")

    subscriber.handlers["visit_started"] = refuse
    await subscriber.stop()
    await subscriber.start()
    never, later = await deliver(subscriber, sequenced([visit("never", 1), visit("later", 1)]))
    assert (never.state, never.reason) == (FAILED, "VISIT_OVER")
    assert (later.state, later.reason) == (WAITING, "ANOTHER_SERVICE")


async def test_a_kind_nobody_handles_fails_and_can_be_applied_by_a_newer_version(subscriber: Listener) -> None:
    event = visit("a", 1)
    event.visit_left.CopyFrom(events_pb2.VisitLeft(consumer_id="a"))
    unknown = visit("b", 1)
    unknown.ClearField("visit_started")
    for delivery in await deliver(subscriber, sequenced([event, unknown])):
        assert (delivery.state, delivery.reason) == (FAILED, "UNKNOWN_KIND")
    assert await subscriber.database["inbox"].count_documents({}) == 0


@pytest.mark.parametrize(
    "events",
    [
        [visit("a", 1, "commerce")],
        [visit("a", number) for number in range(BATCH_MAX + 1)],
    ],
    ids=["of another source", "too many"],
)
async def test_a_malformed_batch_is_refused_as_a_whole(subscriber: Listener, events: list[events_pb2.Event]) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await deliver(subscriber, sequenced(events))
    assert await subscriber.applied() == {}


async def test_the_same_events_from_many_relays_at_once_take_effect_once(subscriber: Listener) -> None:
    """The effects are bare inserts, which never conflict with each other: the inbox's own rows are what conflicts."""
    events = sequenced([visit(key, number) for number in range(1, 4) for key in "abc"])
    for answers in await asyncio.gather(*(deliver(subscriber, events) for _ in range(8))):
        assert states(answers) == [APPLIED] * len(events)
    assert await subscriber.applied() == {key: [1, 2, 3] for key in "abc"}


async def test_batches_that_take_neighbours_together_take_turns_and_do_nothing_twice(subscriber: Listener) -> None:
    taken: list[int] = []

    async def count(happened: Sequence[EventInUnit]) -> None:
        taken.append(len(happened))
        session = happened[0][0].session
        await subscriber.database["counted"].update_one({"_id": "all"}, {"$inc": {"events": len(happened)}}, upsert=True, session=session)

    subscriber.handlers["visit_started"] = BatchHandler(count)
    await subscriber.stop()
    await subscriber.start()
    batches = [sequenced([visit(f"{key}{number}", 1) for number in range(3)]) for key in "abcdef"]
    await asyncio.gather(*(deliver(subscriber, batch) for batch in batches))
    assert taken == [3] * 6
    assert await subscriber.database["counted"].find_one() == {"_id": "all", "events": 18}


async def test_effects_run_as_the_service_at_the_time_of_the_event_and_may_tell_events(subscriber: Listener) -> None:
    seen = []

    async def answer(uow: UnitOfWork, event: events_pb2.Event) -> None:
        seen.append((current_caller(), uow.at))
        await uow.outbox.write(uow.session, [visit("answer", 1, "subscriber")])

    subscriber.handlers["visit_started"] = answer
    await subscriber.stop()
    await subscriber.start()
    await deliver(subscriber, sequenced([visit("a", 1)]))
    assert seen == [(SYSTEM, AT)]
    (row,) = await subscriber.database[DELIVERIES].find({"subscriber": "commerce"}).to_list(None)
    assert (row["key"], row["sequence"]) == ("answer", 1)


numbered = st.tuples(st.sampled_from("abc"), st.integers(1, 6))


@given(st.lists(st.lists(numbered, max_size=12), max_size=8))
def test_whatever_is_delivered_a_key_takes_1_2_3_once_each(batches: list[list[tuple[str, int]]]) -> None:
    last: dict[str, int] = {}
    taken: dict[str, list[int]] = defaultdict(list)
    for batch in batches:
        events = [events_pb2.Event(id=f"{key}{number}", key=key, sequence=number) for key, number in batch]
        planned = plan(last, events)
        assert len(planned.states) == len(events)
        for event in planned.apply:
            taken[event.key].append(event.sequence)
        for place, (event, state) in enumerate(zip(events, planned.states, strict=True), 1):
            stands = {**last, **plan(last, events[:place]).last}
            assert (state == APPLIED) == (event.sequence <= stands.get(event.key, 0))
        last |= planned.last
    assert {key: numbers[-1] for key, numbers in taken.items()} == last
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in taken.values())


@given(st.lists(numbered, max_size=20), st.integers(0, 20))
def test_a_batch_cut_in_two_comes_to_the_same(batch: list[tuple[str, int]], cut: int) -> None:
    events = [events_pb2.Event(id=str(place), key=key, sequence=number) for place, (key, number) in enumerate(batch)]
    whole, first = plan({}, events), plan({}, events[:cut])
    second = plan(first.last, events[cut:])
    assert whole.states == first.states + second.states
    assert whole.apply == first.apply + second.apply
    assert whole.last == {**first.last, **second.last}
