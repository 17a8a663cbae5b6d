"""Tests of the outbox: the causing transaction numbers and stores events in their order."""

import asyncio
from datetime import datetime
from typing import Any

import pytest

from quanyu.events.v1 import events_pb2
from services.kit.events.deliveries import published_at
from services.kit.mongo.client import Database
from services.kit.transactions.outbox import DELIVERIES, EVENT_BYTES_MAX, KEYS, SHARDS, Outbox, shard_of
from services.kit.values.event import Event
from tests.services.kit.event_services import AT, SOURCE, Publisher, visit_event


class Cancelled(Exception):
    """An exception that aborts a transaction."""


class VisitStarted(Event, frozen=True):
    """An event of a rule, with the kind of its message."""

    kind = "visit_started"
    visit_id: str
    consumer_id: str
    district_id: str | None = None


@pytest.fixture
async def publisher(database: Database) -> Publisher:
    publisher = Publisher(database, ["member", "commerce"])
    await publisher.outbox.prepare()
    return publisher


async def sequences(publisher: Publisher, subscriber: str) -> dict[str, list[int]]:
    """Returns the sequences of a subscriber's events by key, in the order of the events' numbers."""
    by_key: dict[str, list[tuple[int, int]]] = {}
    for delivery in await publisher.deliveries(subscriber=subscriber):
        event = events_pb2.Event.FromString(delivery["event"])
        assert event.sequence == delivery["sequence"]
        by_key.setdefault(event.key, []).append((int(event.visit_started.visit_id), event.sequence))
    return {key: [sequence for _, sequence in sorted(pairs)] for key, pairs in by_key.items()}


async def test_outbox_numbers_events_by_key_for_each_subscriber(publisher: Publisher) -> None:
    await publisher.publish(visit_event("a", 1), visit_event("b", 1), visit_event("a", 2))
    await publisher.publish(visit_event("a", 3))
    for subscriber in ("member", "commerce"):
        assert await sequences(publisher, subscriber) == {"a": [1, 2, 3], "b": [1]}


async def test_subscriber_of_some_kinds_sees_no_gap(publisher: Publisher) -> None:
    partial_outbox = Outbox(publisher.database, SOURCE, subscribers={"visit_started": ["member"]})
    await publisher.publish(visit_event("a", 1))
    await publisher.database.transact(lambda session: partial_outbox.write(session, [visit_event("a", 2)]))
    await publisher.publish(visit_event("a", 3))
    assert await sequences(publisher, "member") == {"a": [1, 2, 3]}
    assert await sequences(publisher, "commerce") == {"a": [1, 2]}


async def test_event_without_subscribers_writes_nothing(database: Database) -> None:
    outbox = Outbox(database, SOURCE, subscribers={})
    await database.transact(lambda session: outbox.write(session, [visit_event("a", 1)]))
    assert await database[DELIVERIES].count_documents({}) == await database[KEYS].count_documents({}) == 0


async def test_aborted_transaction_publishes_nothing(publisher: Publisher) -> None:
    async def body(session: Any) -> None:
        await publisher.outbox.write(session, [visit_event("a", 1), visit_event("b", 1)])
        raise Cancelled

    with pytest.raises(Cancelled):
        await publisher.database.transact(body)
    await publisher.publish(visit_event("a", 2))
    assert await sequences(publisher, "member") == {"a": [1]}


async def test_concurrent_events_of_a_key_have_no_gaps(publisher: Publisher) -> None:
    await asyncio.gather(*(publisher.publish(visit_event("a", number)) for number in range(30)))
    for subscriber in ("member", "commerce"):
        assert sorted((await sequences(publisher, subscriber))["a"]) == list(range(1, 31))


async def test_reader_of_an_event_sees_all_earlier_events(publisher: Publisher) -> None:
    """Transactions of one key start early and commit late; still no reader sees event n + 1 without event n."""
    done = asyncio.Event()
    gaps = []

    async def publish(number: int) -> None:
        async def body(session: Any) -> None:
            await publisher.database["causes"].insert_one({"_id": number}, session=session)
            await asyncio.sleep(0.003 * (number % 3))  # between the start of the transaction and its sequence
            await publisher.outbox.write(session, [visit_event("a", number)])
            await asyncio.sleep(0.003 * (number % 2))  # between the sequence and the commit

        await publisher.database.transact(body)

    async def read() -> None:
        while not done.is_set():
            seen = [
                delivery["sequence"] async for delivery in publisher.database[DELIVERIES].find({"subscriber": "member"}).sort("sequence", 1)
            ]
            if seen != list(range(1, len(seen) + 1)):
                gaps.append(seen)

    await publisher.database["causes"].insert_one({"_id": "first"})
    reading = asyncio.create_task(read())
    await asyncio.gather(*(publish(number) for number in range(20)))
    done.set()
    await reading
    assert not gaps
    assert len(await publisher.deliveries(subscriber="member")) == 20


async def test_event_of_a_rule_becomes_its_message(database: Database) -> None:
    event = Outbox(database, SOURCE).to_message(VisitStarted("vis_1", "con_1"), AT)
    assert event.WhichOneof("body") == "visit_started"
    assert (event.key, event.source, event.visit_started.visit_id) == ("con_1", SOURCE, "vis_1")
    assert event.at.ToDatetime(tzinfo=AT.tzinfo) == AT


async def test_too_large_event_is_refused_at_publication(publisher: Publisher) -> None:
    large = visit_event("a", 1)
    large.visit_started.district_id = "d" * EVENT_BYTES_MAX
    with pytest.raises(ValueError, match="Split it into several events"):
        await publisher.publish(large)


async def test_delivery_id_has_the_time_of_publication(publisher: Publisher) -> None:
    before = datetime.now(AT.tzinfo)
    await publisher.publish(visit_event("a", 1))
    (delivery,) = await publisher.deliveries(subscriber="member")
    assert abs((published_at(delivery["_id"]) - before).total_seconds()) < 5


def test_keys_use_all_shards_and_keep_theirs() -> None:
    keys = [f"con_{number}" for number in range(200)]
    assert {shard_of(key) for key in keys} == set(range(SHARDS))
    assert [shard_of(key) for key in keys] == [shard_of(key) for key in keys]
