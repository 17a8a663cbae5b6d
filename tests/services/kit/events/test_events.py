"""The outbox: events are numbered and stored in the transaction that causes them, in the order in which they happened."""

import asyncio
from datetime import datetime
from typing import Any

import pytest

from quanyu.events.v1 import events_pb2
from services.kit.events.deliveries import published_at
from services.kit.mongo.client import Database
from services.kit.transactions.outbox import DELIVERIES, EVENT_BYTES_MAX, KEYS, SHARDS, Outbox, shard_of
from services.kit.values.event import Event
from tests.services.kit.hearing import AT, SOURCE, Sender, visit


class Cancelled(Exception):
    """Ends a transaction."""


class VisitStarted(Event, frozen=True):
    """The rule's event, named like its message."""

    kind = "visit_started"
    visit_id: str
    consumer_id: str
    district_id: str | None = None


@pytest.fixture
async def sender(database: Database) -> Sender:
    sender = Sender(database, ["member", "commerce"])
    await sender.outbox.prepare()
    return sender


async def sequences(sender: Sender, subscriber: str) -> dict[str, list[int]]:
    """The sequences given out to a subscriber by key, in the order of the events' numbers."""
    by_key: dict[str, list[tuple[int, int]]] = {}
    for row in await sender.rows(subscriber=subscriber):
        event = events_pb2.Event.FromString(row["event"])
        assert event.sequence == row["sequence"]
        by_key.setdefault(event.key, []).append((int(event.visit_started.visit_id), event.sequence))
    return {key: [sequence for _, sequence in sorted(pairs)] for key, pairs in by_key.items()}


async def test_each_listener_gets_each_event_numbered_by_key(sender: Sender) -> None:
    await sender.tell(visit("a", 1), visit("b", 1), visit("a", 2))
    await sender.tell(visit("a", 3))
    for subscriber in ("member", "commerce"):
        assert await sequences(sender, subscriber) == {"a": [1, 2, 3], "b": [1]}


async def test_a_listener_that_hears_some_kinds_sees_no_gap(sender: Sender) -> None:
    some = Outbox(sender.database, SOURCE, subscribers={"visit_started": ["member"]})
    await sender.tell(visit("a", 1))
    await sender.database.transact(lambda session: some.write(session, [visit("a", 2)]))
    await sender.tell(visit("a", 3))
    assert await sequences(sender, "member") == {"a": [1, 2, 3]}
    assert await sequences(sender, "commerce") == {"a": [1, 2]}


async def test_a_event_nobody_hears_costs_nothing(database: Database) -> None:
    outbox = Outbox(database, SOURCE, subscribers={})
    await database.transact(lambda session: outbox.write(session, [visit("a", 1)]))
    assert await database[DELIVERIES].count_documents({}) == await database[KEYS].count_documents({}) == 0


async def test_a_cancelled_transaction_told_nothing(sender: Sender) -> None:
    async def body(session: Any) -> None:
        await sender.outbox.write(session, [visit("a", 1), visit("b", 1)])
        raise Cancelled

    with pytest.raises(Cancelled):
        await sender.database.transact(body)
    await sender.tell(visit("a", 2))
    assert await sequences(sender, "member") == {"a": [1]}


async def test_concurrent_tellers_of_one_key_are_numbered_without_gaps(sender: Sender) -> None:
    await asyncio.gather(*(sender.tell(visit("a", number)) for number in range(30)))
    for subscriber in ("member", "commerce"):
        assert sorted((await sequences(sender, subscriber))["a"]) == list(range(1, 31))


async def test_who_sees_a_event_sees_all_before_it(sender: Sender) -> None:
    """While transactions of one key begin early and commit late, no reader ever finds event n + 1 without event n."""
    done = asyncio.Event()
    gaps = []

    async def tell(number: int) -> None:
        async def body(session: Any) -> None:
            await sender.database["causes"].insert_one({"_id": number}, session=session)
            await asyncio.sleep(0.003 * (number % 3))  # between the beginning of the transaction and its sequence
            await sender.outbox.write(session, [visit("a", number)])
            await asyncio.sleep(0.003 * (number % 2))  # and between that and its end

        await sender.database.transact(body)

    async def read() -> None:
        while not done.is_set():
            seen = [row["sequence"] async for row in sender.database[DELIVERIES].find({"subscriber": "member"}).sort("sequence", 1)]
            if seen != list(range(1, len(seen) + 1)):
                gaps.append(seen)

    await sender.database["causes"].insert_one({"_id": "first"})
    reading = asyncio.create_task(read())
    await asyncio.gather(*(tell(number) for number in range(20)))
    done.set()
    await reading
    assert not gaps
    assert len(await sender.rows(subscriber="member")) == 20


async def test_a_rules_event_becomes_the_message_of_its_name(database: Database) -> None:
    event = Outbox(database, SOURCE).event(VisitStarted("vis_1", "con_1"), AT)
    assert event.WhichOneof("body") == "visit_started"
    assert (event.key, event.source, event.visit_started.visit_id) == ("con_1", SOURCE, "vis_1")
    assert event.at.ToDatetime(tzinfo=AT.tzinfo) == AT


async def test_a_event_that_is_too_large_is_refused_where_it_is_told(sender: Sender) -> None:
    large = visit("a", 1)
    large.visit_started.district_id = "d" * EVENT_BYTES_MAX
    with pytest.raises(ValueError, match="tell it in parts"):
        await sender.tell(large)


async def test_a_row_knows_when_it_was_told(sender: Sender) -> None:
    before = datetime.now(AT.tzinfo)
    await sender.tell(visit("a", 1))
    (row,) = await sender.rows(subscriber="member")
    assert abs((published_at(row["_id"]) - before).total_seconds()) < 5


def test_every_shard_gets_keys_and_a_key_keeps_its_shard() -> None:
    keys = [f"con_{number}" for number in range(200)]
    assert {shard_of(key) for key in keys} == set(range(SHARDS))
    assert [shard_of(key) for key in keys] == [shard_of(key) for key in keys]
