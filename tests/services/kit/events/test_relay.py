"""Tests of the relay: each event arrives, in order for each key, despite failures of subscribers, leases and earlier events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from services.kit.backoff import Backoff
from services.kit.errors import Unavailable
from services.kit.events import relay as relay_module
from services.kit.events.deliveries import DeliveryQueue
from services.kit.mongo.client import Database
from services.kit.mongo.lease import Lease
from services.kit.settings import Settings
from services.kit.transactions.outbox import DELIVERIES, PARKED, PENDING, RETRYING, SHARDS, WAITING, delivery_document, shard_of
from tests.services.kit.event_services import AT, SHORT_BACKOFF, SOURCE, Publisher, Subscriber, number_events, visit_event, wait_until

ONE_SHARD = [key for key in (f"k{number:02}" for number in range(60)) if shard_of(key) == 0]


@asynccontextmanager
async def run_subscriber(settings: Settings, name: str) -> AsyncIterator[Subscriber]:
    database = Database(settings, f"{settings.database_prefix}_{name}")
    subscriber = Subscriber(database)
    await subscriber.start()
    try:
        yield subscriber
    finally:
        await subscriber.stop()
        await database.client.drop_database(database.name)
        await database.close()


@pytest.fixture
async def subscriber(settings: Settings) -> AsyncIterator[Subscriber]:
    async with run_subscriber(settings, "member") as subscriber:
        yield subscriber


@pytest.fixture
async def publisher(database: Database) -> Publisher:
    publisher = Publisher(database, ["member"])
    await publisher.outbox.prepare()
    return publisher


async def test_events_arrive_in_order_for_each_key(publisher: Publisher, subscriber: Subscriber) -> None:
    async with publisher.run_relay({"member": subscriber.address}):
        for number in range(1, 21):
            await publisher.publish(*(visit_event(key, number) for key in "abc"))
        await wait_until(publisher.has_no_deliveries)
    assert await subscriber.applied_numbers() == {key: list(range(1, 21)) for key in "abc"}


async def test_new_event_wakes_the_relay_at_once(publisher: Publisher, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "POLL_SECONDS", 600.0)
    async with publisher.run_relay({"member": subscriber.address}, lease_seconds=60.0):
        for number in (1, 2, 3):
            await publisher.publish(visit_event("a", number))
            await wait_until(publisher.has_no_deliveries)
    assert await subscriber.applied_numbers() == {"a": [1, 2, 3]}


async def test_relay_without_change_stream_polls(publisher: Publisher, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "POLL_SECONDS", 0.1)
    monkeypatch.setattr("services.kit.mongo.change_streams.ChangeStreamHub.subscribe", unavailable)
    async with publisher.run_relay({"member": subscriber.address}):
        for number in (1, 2):
            await publisher.publish(visit_event("a", number))
            await wait_until(publisher.has_no_deliveries)


@asynccontextmanager
async def unavailable(*_: Any) -> AsyncIterator[Any]:
    raise Unavailable("WATCH_UNAVAILABLE")
    yield


async def test_parked_event_blocks_its_key_and_replays(publisher: Publisher, subscriber: Subscriber) -> None:
    subscriber.failing.add(("a", "2"))
    async with publisher.run_relay({"member": subscriber.address}, attempts_max=3):
        await publisher.publish(*(visit_event(key, number) for number in range(1, 5) for key in "ab"))
        await wait_until(publisher.parked_events.list)
        # Published after its key was parked: it waits as well, and other keys continue.
        await publisher.publish(visit_event("a", 5), visit_event("b", 5))
        await wait_until(lambda: states_are(publisher, {PARKED: 1, WAITING: 3}))
        assert await subscriber.applied_numbers() == {"a": [1], "b": [1, 2, 3, 4, 5]}
        (parked,) = await publisher.parked_events.list()
        assert (parked.key, parked.sequence, parked.kind, parked.subscriber, parked.attempts) == ("a", 2, "visit_started", "member", 3)
        assert parked.reason.startswith("INTERNAL bug_")

        subscriber.failing.clear()
        assert await publisher.parked_events.replay(subscriber="commerce") == 0
        assert await publisher.parked_events.replay([parked.id]) == 1
        await wait_until(publisher.has_no_deliveries)
    assert await subscriber.applied_numbers() == {key: [1, 2, 3, 4, 5] for key in "ab"}


async def states_are(publisher: Publisher, wanted: dict[str, int]) -> bool:
    found: dict[str, int] = {}
    for each in await publisher.deliveries():
        found[each["state"]] = found.get(each["state"], 0) + 1
    return found == wanted


async def test_replayed_event_that_fails_is_parked_again(publisher: Publisher, subscriber: Subscriber) -> None:
    subscriber.failing |= {("a", "1"), ("b", "1")}
    async with publisher.run_relay({"member": subscriber.address}, attempts_max=2):
        await publisher.publish(visit_event("a", 1), visit_event("b", 1), visit_event("a", 2))
        await wait_until(lambda: states_are(publisher, {PARKED: 2, WAITING: 1}))
        subscriber.failing.discard(("b", "1"))
        assert await publisher.parked_events.replay() == 2
        await wait_until(lambda: states_are(publisher, {PARKED: 1, WAITING: 1}))
    assert await subscriber.applied_numbers() == {"b": [1]}


async def test_later_events_do_not_overtake_a_retry(publisher: Publisher, subscriber: Subscriber) -> None:
    subscriber.failing.add(("a", "1"))
    async with publisher.run_relay({"member": subscriber.address}, attempts_max=1000):
        await publisher.publish(visit_event("a", 1), visit_event("a", 2))
        await wait_until(lambda: states_are(publisher, {RETRYING: 1, WAITING: 1}))
        await publisher.publish(visit_event("a", 3), visit_event("b", 1))
        await wait_until(lambda: states_are(publisher, {RETRYING: 1, WAITING: 2}))
        assert await subscriber.applied_numbers() == {"b": [1]}
        subscriber.failing.clear()
        await wait_until(publisher.has_no_deliveries)
    assert await subscriber.applied_numbers() == {"a": [1, 2, 3], "b": [1]}


async def test_unreachable_subscriber_costs_no_attempt(
    publisher: Publisher, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "FAILURE_BACKOFF", SHORT_BACKOFF)
    await subscriber.stop()
    async with publisher.run_relay({"member": subscriber.address}, attempts_max=1) as relay:
        await publisher.publish(visit_event("a", 1), visit_event("a", 2))
        shard_relay = relay.shard_relays["member", shard_of("a")]

        async def has_failed_often() -> bool:
            return shard_relay.batch_size < relay_module.BATCH_MAX // 8

        await wait_until(has_failed_often)
        assert {each["state"] for each in await publisher.deliveries()} == {PENDING}
        await subscriber.start()
        await wait_until(publisher.has_no_deliveries)
    assert await subscriber.applied_numbers() == {"a": [1, 2]}


async def test_subscribers_do_not_wait_for_each_other(settings: Settings, database: Database, subscriber: Subscriber) -> None:
    publisher = Publisher(database, ["member", "commerce"])
    async with run_subscriber(settings, "commerce") as other:
        other.failing.add(("a", "1"))
        async with publisher.run_relay({"member": subscriber.address, "commerce": other.address}, attempts_max=1000):
            await publisher.publish(visit_event("a", 1), visit_event("a", 2))
            await wait_until(lambda: states_are(publisher, {RETRYING: 1, WAITING: 1}))
            assert await subscriber.applied_numbers() == {"a": [1, 2]}
            other.failing.clear()
            await wait_until(publisher.has_no_deliveries)
        assert await other.applied_numbers() == {"a": [1, 2]}


async def test_replica_takeover_neither_loses_nor_repeats(publisher: Publisher, subscriber: Subscriber) -> None:
    addresses = {"member": subscriber.address}

    async def publish() -> None:
        for number in range(1, 41):
            await publisher.publish(visit_event("a", number), visit_event("b", number))

    async with publisher.run_relay(addresses):
        async with publisher.run_relay(addresses):
            publishing = asyncio.create_task(publish())
            await wait_until(subscriber.applied_numbers)
        # One of the two relays has stopped between the events.
        await publishing
        await wait_until(publisher.has_no_deliveries)
    assert await subscriber.applied_numbers() == {key: list(range(1, 41)) for key in "ab"}


async def test_two_relays_with_the_lease_deliver_once(
    publisher: Publisher, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def acquire(lease: Lease) -> bool:
        lease._ends = lease.clock() + 60
        return True

    monkeypatch.setattr(Lease, "acquire", acquire)
    subscriber.failing.add(("a", "7"))
    addresses = {"member": subscriber.address}
    async with publisher.run_relay(addresses, attempts_max=3), publisher.run_relay(addresses, attempts_max=3):
        for number in range(1, 16):
            await publisher.publish(*(visit_event(key, number) for key in "abc"))
        await wait_until(lambda: states_are(publisher, {PARKED: 1, WAITING: 8}))
        subscriber.failing.clear()
        await publisher.parked_events.replay()
        await wait_until(publisher.has_no_deliveries)
    assert await subscriber.applied_numbers() == {key: list(range(1, 16)) for key in "abc"}


async def test_only_the_lease_holder_sets_the_gauges(publisher: Publisher, subscriber: Subscriber) -> None:
    def gauge(name: str, shard: int) -> float | None:
        return REGISTRY.get_sample_value(f"quanyu_events_{name}", {"source": SOURCE, "subscriber": "member", "shard": str(shard)})

    async def is_measured() -> bool:
        return all(gauge("parked", shard) is not None for shard in range(SHARDS))

    key, shard = ONE_SHARD[0], 0
    await publisher.publish(visit_event(key, 1), visit_event(key, 2))
    await publisher.database[DELIVERIES].update_one({"sequence": 1}, {"$set": {"state": PARKED, "due_at": AT}})
    async with publisher.run_relay({"member": subscriber.address}):
        await wait_until(is_measured)
        assert gauge("parked", shard) == 1
        assert gauge("pending", shard) == 1
        age = gauge("oldest_age_seconds", shard)
        assert age is not None and 0 <= age < 60
    assert gauge("parked", shard) is None


keys = st.lists(st.sampled_from(ONE_SHARD[:6]), min_size=1, max_size=40)


@examples(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys, st.integers(1, 7))
async def test_relay_reaches_each_key_from_its_first_event(database: Database, event_keys: list[str], limit: int) -> None:
    await database[DELIVERIES].delete_many({})
    events = number_events([visit_event(key, number) for number, key in enumerate(event_keys)])
    await database[DELIVERIES].insert_many([delivery_document(event, "member", event.sequence) for event in events])
    queue = DeliveryQueue(database, "member", 0)
    after, seen = "", set[str]()
    # Nothing is applied here; still the relay reaches each key.
    for _ in range(len(set(event_keys)) + 1):
        batch = await queue.find_pending(after, limit)
        assert 0 < len(batch) <= limit
        for key in {event.key for event in batch}:
            sequences = [event.sequence for event in batch if event.key == key]
            assert sequences == list(range(1, len(sequences) + 1))
        seen |= {event.key for event in batch}
        after = batch[-1].key
    assert seen == set(event_keys)


@given(st.integers(1, 2000), st.floats(0.01, 10), st.floats(10, 1000))
def test_backoff_grows_to_its_cap_with_jitter(failures: int, first: float, cap: float) -> None:
    backoff = Backoff(first, cap)
    full = min(cap, first * 2.0 ** min(failures - 1, 30))
    assert full / 2 <= backoff.seconds(failures) <= full


async def test_postponed_event_counts_only_its_failures(publisher: Publisher) -> None:
    key = ONE_SHARD[0]
    await publisher.publish(visit_event(key, 1))
    queue = DeliveryQueue(publisher.database, "member", 0, attempts_max=2, retry=Backoff(10.0, 100.0))
    for attempts, is_failure in ((0, False), (1, True)):
        (queued,) = await queue.find_pending("", 10) or await queue.find_due(AT + timedelta(days=1), 10)
        assert await queue.postpone([(queued, "WHY", is_failure)], AT) == []
        assert await queue.find_due(AT, 10) == []
        (later,) = await queue.find_due(AT + timedelta(seconds=20), 10)
        assert (later.attempts, later.state) == (attempts, RETRYING)
        due = await queue.find_next_due_time()
        assert due is not None and AT < due <= AT + timedelta(seconds=20)
    assert await queue.postpone([(later, "WHY", True)], AT) == [later]
    assert await queue.find_next_due_time() is None
