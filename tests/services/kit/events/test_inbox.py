"""The inbox: each fact takes effect exactly once, in order for each key, and a failing one holds back its own key only."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanyu.facts.v1 import facts_pb2, facts_pb2_grpc
from services.kit.errors import Conflict, Unavailable
from services.kit.events.inbox import APPLIED, BATCH_MAX, FAILED, WAITING, BatchHandler, Happened, plan
from services.kit.mongo.client import Database
from services.kit.security import authorization
from services.kit.transactions.outbox import DELIVERIES
from services.kit.transactions.unit_of_work import UnitOfWork
from tests.services.kit.hearing import AT, SOURCE, Listener, sequenced, visit


@pytest.fixture
async def listener(database: Database) -> AsyncIterator[Listener]:
    listener = Listener(database)
    await listener.start()
    yield listener
    await listener.stop()


async def deliver(listener: Listener, facts: Sequence[facts_pb2.Fact], source: str = SOURCE) -> list[facts_pb2.Delivery]:
    async with grpc.aio.insecure_channel(listener.address) as channel:
        request = facts_pb2.DeliverRequest(source=source, facts=facts)
        return list((await facts_pb2_grpc.FactSinkServiceStub(channel).Deliver(request)).deliveries)


def states(deliveries: Sequence[facts_pb2.Delivery]) -> list[Any]:
    return [delivery.state for delivery in deliveries]


async def test_a_batch_is_applied_in_its_order(listener: Listener) -> None:
    facts = sequenced([visit(key, number) for number in range(1, 6) for key in "ab"])
    deliveries = await deliver(listener, facts)
    assert [delivery.fact_id for delivery in deliveries] == [fact.id for fact in facts]
    assert states(deliveries) == [APPLIED] * 10
    assert await listener.applied() == {"a": [1, 2, 3, 4, 5], "b": [1, 2, 3, 4, 5]}


async def test_a_repeat_is_answered_as_applied_without_effect(listener: Listener) -> None:
    facts = sequenced([visit("a", 1), visit("a", 2), visit("a", 3)])
    await deliver(listener, facts[:2])
    assert states(await deliver(listener, [facts[0], facts[0], *facts[1:], facts[2]])) == [APPLIED] * 5
    assert await listener.applied() == {"a": [1, 2, 3]}


async def test_a_fact_behind_a_gap_waits_for_the_missing_one(listener: Listener) -> None:
    facts = sequenced([visit("a", 1), visit("a", 2), visit("a", 3)])
    early = await deliver(listener, [facts[0], facts[2]])
    assert states(early) == [APPLIED, WAITING]
    assert early[1].reason == "EARLIER_MISSING"
    assert states(await deliver(listener, facts[1:])) == [APPLIED, APPLIED]
    assert await listener.applied() == {"a": [1, 2, 3]}


async def test_sources_do_not_share_sequences(listener: Listener) -> None:
    heard = []

    async def bought(uow: UnitOfWork, fact: facts_pb2.Fact) -> None:
        heard.append((fact.source, fact.sequence))

    listener.handlers["order_paid"] = bought
    await listener.stop()
    await listener.start()
    await deliver(listener, sequenced([visit("a", 1)]))
    paid = visit("a", 2, "commerce")
    paid.order_paid.CopyFrom(facts_pb2.OrderPaid(order_id="a"))
    assert states(await deliver(listener, sequenced([paid]), "commerce")) == [APPLIED]
    assert heard == [("commerce", 1)]
    assert await listener.applied() == {"a": [1]}


async def test_a_failing_fact_holds_back_its_own_key_only(listener: Listener) -> None:
    facts = sequenced([visit(key, number) for number in range(1, 4) for key in "ab"])
    listener.refused.add(("a", "2"))
    assert states(await deliver(listener, facts)) == [APPLIED, APPLIED, FAILED, APPLIED, WAITING, APPLIED]
    assert await listener.applied() == {"a": [1], "b": [1, 2, 3]}
    listener.refused.clear()
    assert states(await deliver(listener, facts)) == [APPLIED] * 6
    assert await listener.applied() == {"a": [1, 2, 3], "b": [1, 2, 3]}


async def test_no_text_of_an_unknown_exception_crosses(listener: Listener) -> None:
    listener.refused.add(("a", "1"))
    (delivery,) = await deliver(listener, sequenced([visit("a", 1)]))
    assert delivery.reason.startswith("INTERNAL bug_")
    assert "text" not in delivery.reason


async def test_a_refusal_is_answered_by_its_reason_and_a_passing_one_does_not_count(listener: Listener) -> None:
    async def refuse(uow: UnitOfWork, fact: facts_pb2.Fact) -> None:
        if fact.key == "never":
            raise Conflict("VISIT_OVER", "the text stays here")
        raise Unavailable("ANOTHER_SERVICE", "the text stays here")

    listener.handlers["visit_started"] = refuse
    await listener.stop()
    await listener.start()
    never, later = await deliver(listener, sequenced([visit("never", 1), visit("later", 1)]))
    assert (never.state, never.reason) == (FAILED, "VISIT_OVER")
    assert (later.state, later.reason) == (WAITING, "ANOTHER_SERVICE")


async def test_a_kind_nobody_handles_fails_and_can_be_applied_by_a_newer_version(listener: Listener) -> None:
    fact = visit("a", 1)
    fact.visit_left.CopyFrom(facts_pb2.VisitLeft(consumer_id="a"))
    unknown = visit("b", 1)
    unknown.ClearField("visit_started")
    for delivery in await deliver(listener, sequenced([fact, unknown])):
        assert (delivery.state, delivery.reason) == (FAILED, "UNKNOWN_KIND")
    assert await listener.database["inbox"].count_documents({}) == 0


@pytest.mark.parametrize(
    "facts",
    [
        [visit("a", 1, "commerce")],
        [visit("a", number) for number in range(BATCH_MAX + 1)],
    ],
    ids=["of another source", "too many"],
)
async def test_a_malformed_batch_is_refused_as_a_whole(listener: Listener, facts: list[facts_pb2.Fact]) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await deliver(listener, sequenced(facts))
    assert await listener.applied() == {}


async def test_the_same_facts_from_many_relays_at_once_take_effect_once(listener: Listener) -> None:
    """The effects are bare inserts, which never conflict with each other: the inbox's own rows are what conflicts."""
    facts = sequenced([visit(key, number) for number in range(1, 4) for key in "abc"])
    for answers in await asyncio.gather(*(deliver(listener, facts) for _ in range(8))):
        assert states(answers) == [APPLIED] * len(facts)
    assert await listener.applied() == {key: [1, 2, 3] for key in "abc"}


async def test_batches_that_take_neighbours_together_take_turns_and_do_nothing_twice(listener: Listener) -> None:
    taken: list[int] = []

    async def count(happened: Sequence[Happened]) -> None:
        taken.append(len(happened))
        session = happened[0][0].session
        await listener.database["counted"].update_one({"_id": "all"}, {"$inc": {"facts": len(happened)}}, upsert=True, session=session)

    listener.handlers["visit_started"] = BatchHandler(count)
    await listener.stop()
    await listener.start()
    batches = [sequenced([visit(f"{key}{number}", 1) for number in range(3)]) for key in "abcdef"]
    await asyncio.gather(*(deliver(listener, batch) for batch in batches))
    assert taken == [3] * 6
    assert await listener.database["counted"].find_one() == {"_id": "all", "facts": 18}


async def test_effects_run_as_the_service_at_the_time_of_the_fact_and_may_tell_facts(listener: Listener) -> None:
    seen = []

    async def answer(uow: UnitOfWork, fact: facts_pb2.Fact) -> None:
        seen.append((authorization.caller(), uow.at))
        await uow.outbox.write(uow.session, [visit("answer", 1, "listener")])

    listener.handlers["visit_started"] = answer
    await listener.stop()
    await listener.start()
    await deliver(listener, sequenced([visit("a", 1)]))
    assert seen == [(authorization.SYSTEM, AT)]
    (row,) = await listener.database[DELIVERIES].find({"listener": "commerce"}).to_list(None)
    assert (row["key"], row["sequence"]) == ("answer", 1)


numbered = st.tuples(st.sampled_from("abc"), st.integers(1, 6))


@given(st.lists(st.lists(numbered, max_size=12), max_size=8))
def test_whatever_is_delivered_a_key_takes_1_2_3_once_each(batches: list[list[tuple[str, int]]]) -> None:
    last: dict[str, int] = {}
    taken: dict[str, list[int]] = defaultdict(list)
    for batch in batches:
        facts = [facts_pb2.Fact(id=f"{key}{number}", key=key, sequence=number) for key, number in batch]
        planned = plan(last, facts)
        assert len(planned.states) == len(facts)
        for fact in planned.apply:
            taken[fact.key].append(fact.sequence)
        for place, (fact, state) in enumerate(zip(facts, planned.states, strict=True), 1):
            stands = {**last, **plan(last, facts[:place]).last}
            assert (state == APPLIED) == (fact.sequence <= stands.get(fact.key, 0))
        last |= planned.last
    assert {key: numbers[-1] for key, numbers in taken.items()} == last
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in taken.values())


@given(st.lists(numbered, max_size=20), st.integers(0, 20))
def test_a_batch_cut_in_two_comes_to_the_same(batch: list[tuple[str, int]], cut: int) -> None:
    facts = [facts_pb2.Fact(id=str(place), key=key, sequence=number) for place, (key, number) in enumerate(batch)]
    whole, first = plan({}, facts), plan({}, facts[:cut])
    second = plan(first.last, facts[cut:])
    assert whole.states == first.states + second.states
    assert whole.apply == first.apply + second.apply
    assert whole.last == {**first.last, **second.last}
