"""Tests of the inbox: each event takes effect exactly once, in order for each key; a failing one holds back only its own key."""

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
from tests.services.kit.event_services import AT, SOURCE, Subscriber, number_events, visit_event


@pytest.fixture
async def subscriber(database: Database) -> AsyncIterator[Subscriber]:
    subscriber = Subscriber(database)
    await subscriber.start()
    yield subscriber
    await subscriber.stop()


async def deliver(subscriber: Subscriber, events: Sequence[events_pb2.Event], source: str = SOURCE) -> list[events_pb2.Delivery]:
    async with grpc.aio.insecure_channel(subscriber.address) as channel:
        request = events_pb2.DeliverRequest(source=source, events=events)
        return list((await events_pb2_grpc.EventInboxServiceStub(channel).Deliver(request)).deliveries)


def states(deliveries: Sequence[events_pb2.Delivery]) -> list[Any]:
    return [delivery.state for delivery in deliveries]


async def test_batch_is_applied_in_order(subscriber: Subscriber) -> None:
    events = number_events([visit_event(key, number) for number in range(1, 6) for key in "ab"])
    deliveries = await deliver(subscriber, events)
    assert [delivery.event_id for delivery in deliveries] == [event.id for event in events]
    assert states(deliveries) == [APPLIED] * 10
    assert await subscriber.applied_numbers() == {"a": [1, 2, 3, 4, 5], "b": [1, 2, 3, 4, 5]}


async def test_repeated_event_is_applied_without_effect(subscriber: Subscriber) -> None:
    events = number_events([visit_event("a", 1), visit_event("a", 2), visit_event("a", 3)])
    await deliver(subscriber, events[:2])
    assert states(await deliver(subscriber, [events[0], events[0], *events[1:], events[2]])) == [APPLIED] * 5
    assert await subscriber.applied_numbers() == {"a": [1, 2, 3]}


async def test_event_after_a_gap_waits_for_the_missing(subscriber: Subscriber) -> None:
    events = number_events([visit_event("a", 1), visit_event("a", 2), visit_event("a", 3)])
    early = await deliver(subscriber, [events[0], events[2]])
    assert states(early) == [APPLIED, WAITING]
    assert early[1].reason == "EARLIER_MISSING"
    assert states(await deliver(subscriber, events[1:])) == [APPLIED, APPLIED]
    assert await subscriber.applied_numbers() == {"a": [1, 2, 3]}


async def test_sources_have_separate_sequences(subscriber: Subscriber) -> None:
    received = []

    async def handle_order_paid(uow: UnitOfWork, event: events_pb2.Event) -> None:
        received.append((event.source, event.sequence))

    subscriber.handlers["order_paid"] = handle_order_paid
    await subscriber.stop()
    await subscriber.start()
    await deliver(subscriber, number_events([visit_event("a", 1)]))
    paid = visit_event("a", 2, "commerce")
    paid.order_paid.CopyFrom(events_pb2.OrderPaid(order_id="a"))
    assert states(await deliver(subscriber, number_events([paid]), "commerce")) == [APPLIED]
    assert received == [("commerce", 1)]
    assert await subscriber.applied_numbers() == {"a": [1]}


async def test_failing_event_holds_back_only_its_key(subscriber: Subscriber) -> None:
    events = number_events([visit_event(key, number) for number in range(1, 4) for key in "ab"])
    subscriber.failing.add(("a", "2"))
    assert states(await deliver(subscriber, events)) == [APPLIED, APPLIED, FAILED, APPLIED, WAITING, APPLIED]
    assert await subscriber.applied_numbers() == {"a": [1], "b": [1, 2, 3]}
    subscriber.failing.clear()
    assert states(await deliver(subscriber, events)) == [APPLIED] * 6
    assert await subscriber.applied_numbers() == {"a": [1, 2, 3], "b": [1, 2, 3]}


async def test_unknown_exception_leaks_no_text(subscriber: Subscriber) -> None:
    subscriber.failing.add(("a", "1"))
    (delivery,) = await deliver(subscriber, number_events([visit_event("a", 1)]))
    assert delivery.reason.startswith("INTERNAL bug_")
    assert "text" not in delivery.reason


async def test_refusal_fails_unless_it_is_retryable(subscriber: Subscriber) -> None:
    async def refuse(uow: UnitOfWork, event: events_pb2.Event) -> None:
        if event.key == "never":
            raise Conflict("VISIT_OVER", "this text stays here")
        raise Unavailable("ANOTHER_SERVICE", "this text stays here")

    subscriber.handlers["visit_started"] = refuse
    await subscriber.stop()
    await subscriber.start()
    never, later = await deliver(subscriber, number_events([visit_event("never", 1), visit_event("later", 1)]))
    assert (never.state, never.reason) == (FAILED, "VISIT_OVER")
    assert (later.state, later.reason) == (WAITING, "ANOTHER_SERVICE")


async def test_unknown_kind_fails_and_is_not_recorded(subscriber: Subscriber) -> None:
    event = visit_event("a", 1)
    event.visit_left.CopyFrom(events_pb2.VisitLeft(consumer_id="a"))
    unknown = visit_event("b", 1)
    unknown.ClearField("visit_started")
    for delivery in await deliver(subscriber, number_events([event, unknown])):
        assert (delivery.state, delivery.reason) == (FAILED, "UNKNOWN_KIND")
    assert await subscriber.database["inbox"].count_documents({}) == 0


@pytest.mark.parametrize(
    "events",
    [
        [visit_event("a", 1, "commerce")],
        [visit_event("a", number) for number in range(BATCH_MAX + 1)],
    ],
    ids=["another source", "too many"],
)
async def test_malformed_batch_is_refused_as_a_whole(subscriber: Subscriber, events: list[events_pb2.Event]) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await deliver(subscriber, number_events(events))
    assert await subscriber.applied_numbers() == {}


async def test_events_from_concurrent_relays_take_effect_once(subscriber: Subscriber) -> None:
    """The effects are inserts, which never conflict with each other; the documents of the inbox do."""
    events = number_events([visit_event(key, number) for number in range(1, 4) for key in "abc"])
    for deliveries in await asyncio.gather(*(deliver(subscriber, events) for _ in range(8))):
        assert states(deliveries) == [APPLIED] * len(events)
    assert await subscriber.applied_numbers() == {key: [1, 2, 3] for key in "abc"}


async def test_batch_handlers_of_concurrent_batches_run_once(subscriber: Subscriber) -> None:
    sizes: list[int] = []

    async def count(events: Sequence[EventInUnit]) -> None:
        sizes.append(len(events))
        session = events[0][0].session
        await subscriber.database["counted"].update_one({"_id": "all"}, {"$inc": {"events": len(events)}}, upsert=True, session=session)

    subscriber.handlers["visit_started"] = BatchHandler(count)
    await subscriber.stop()
    await subscriber.start()
    batches = [number_events([visit_event(f"{key}{number}", 1) for number in range(3)]) for key in "abcdef"]
    await asyncio.gather(*(deliver(subscriber, batch) for batch in batches))
    assert sizes == [3] * 6
    assert await subscriber.database["counted"].find_one() == {"_id": "all", "events": 18}


async def test_effect_runs_as_system_at_event_time(subscriber: Subscriber) -> None:
    seen = []

    async def handle(uow: UnitOfWork, event: events_pb2.Event) -> None:
        seen.append((current_caller(), uow.at))
        await uow.outbox.write(uow.session, [visit_event("answer", 1, "subscriber")])

    subscriber.handlers["visit_started"] = handle
    await subscriber.stop()
    await subscriber.start()
    await deliver(subscriber, number_events([visit_event("a", 1)]))
    assert seen == [(SYSTEM, AT)]
    (delivery,) = await subscriber.database[DELIVERIES].find({"subscriber": "commerce"}).to_list(None)
    assert (delivery["key"], delivery["sequence"]) == ("answer", 1)


numbered = st.tuples(st.sampled_from("abc"), st.integers(1, 6))


@given(st.lists(st.lists(numbered, max_size=12), max_size=8))
def test_any_batches_apply_each_sequence_once_in_order(batches: list[list[tuple[str, int]]]) -> None:
    last: dict[str, int] = {}
    applied: dict[str, list[int]] = defaultdict(list)
    for batch in batches:
        events = [events_pb2.Event(id=f"{key}{number}", key=key, sequence=number) for key, number in batch]
        planned = plan(last, events)
        assert len(planned.states) == len(events)
        for event in planned.apply:
            applied[event.key].append(event.sequence)
        for position, (event, state) in enumerate(zip(events, planned.states, strict=True), 1):
            sequences = {**last, **plan(last, events[:position]).last}
            assert (state == APPLIED) == (event.sequence <= sequences.get(event.key, 0))
        last |= planned.last
    assert {key: numbers[-1] for key, numbers in applied.items()} == last
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in applied.values())


@given(st.lists(numbered, max_size=20), st.integers(0, 20))
def test_split_batch_has_the_same_plan(batch: list[tuple[str, int]], cut: int) -> None:
    events = [events_pb2.Event(id=str(index), key=key, sequence=number) for index, (key, number) in enumerate(batch)]
    whole, first = plan({}, events), plan({}, events[:cut])
    second = plan(first.last, events[cut:])
    assert whole.states == first.states + second.states
    assert whole.apply == first.apply + second.apply
    assert whole.last == {**first.last, **second.last}
