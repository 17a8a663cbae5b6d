"""The relay: every event arrives, in order for each key, whatever happens to the subscribers, the lease and the events before it."""

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
from tests.services.kit.hearing import AT, QUICK, SOURCE, Listener, Sender, sequenced, until, visit

ONE_SHARD = [key for key in (f"k{number:02}" for number in range(60)) if shard_of(key) == 0]


@asynccontextmanager
async def listening(settings: Settings, name: str) -> AsyncIterator[Listener]:
    database = Database(settings, f"{settings.database_prefix}_{name}")
    subscriber = Listener(database)
    await subscriber.start()
    try:
        yield subscriber
    finally:
        await subscriber.stop()
        await database.client.drop_database(database.name)
        await database.close()


@pytest.fixture
async def subscriber(settings: Settings) -> AsyncIterator[Listener]:
    async with listening(settings, "member") as subscriber:
        yield subscriber


@pytest.fixture
async def sender(database: Database) -> Sender:
    sender = Sender(database, ["member"])
    await sender.outbox.prepare()
    return sender


async def test_events_arrive_in_order_for_each_key(sender: Sender, subscriber: Listener) -> None:
    async with sender.relaying({"member": subscriber.address}):
        for number in range(1, 21):
            await sender.tell(*(visit(key, number) for key in "abc"))
        await until(sender.nothing_left)
    assert await subscriber.applied() == {key: list(range(1, 21)) for key in "abc"}


async def test_a_new_event_wakes_the_relay_at_once(sender: Sender, subscriber: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "LOOK_SECONDS", 600.0)
    async with sender.relaying({"member": subscriber.address}, lease_seconds=60.0):
        for number in (1, 2, 3):
            await sender.tell(visit("a", number))
            await until(sender.nothing_left)
    assert await subscriber.applied() == {"a": [1, 2, 3]}


async def test_a_relay_that_is_not_woken_looks_by_itself(sender: Sender, subscriber: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr("services.kit.mongo.change_streams.ChangeStreamHub.subscribe", unavailable)
    async with sender.relaying({"member": subscriber.address}):
        for number in (1, 2):
            await sender.tell(visit("a", number))
            await until(sender.nothing_left)


@asynccontextmanager
async def unavailable(*_: Any) -> AsyncIterator[Any]:
    raise Unavailable("WATCH_UNAVAILABLE")
    yield


async def test_a_parked_event_blocks_its_key_only_and_replays_in_order(sender: Sender, subscriber: Listener) -> None:
    subscriber.refused.add(("a", "2"))
    async with sender.relaying({"member": subscriber.address}, attempts_max=3):
        await sender.tell(*(visit(key, number) for number in range(1, 5) for key in "ab"))
        await until(sender.parked.list)
        # Told after its key was parked: it waits as well, and others go on.
        await sender.tell(visit("a", 5), visit("b", 5))
        await until(lambda: states_are(sender, {PARKED: 1, WAITING: 3}))
        assert await subscriber.applied() == {"a": [1], "b": [1, 2, 3, 4, 5]}
        (parked,) = await sender.parked.list()
        assert (parked.key, parked.sequence, parked.kind, parked.subscriber, parked.attempts) == ("a", 2, "visit_started", "member", 3)
        assert parked.reason.startswith("INTERNAL bug_")

        subscriber.refused.clear()
        assert await sender.parked.replay(subscriber="commerce") == 0
        assert await sender.parked.replay([parked.id]) == 1
        await until(sender.nothing_left)
    assert await subscriber.applied() == {key: [1, 2, 3, 4, 5] for key in "ab"}


async def states_are(sender: Sender, wanted: dict[str, int]) -> bool:
    found: dict[str, int] = {}
    for each in await sender.rows():
        found[each["state"]] = found.get(each["state"], 0) + 1
    return found == wanted


async def test_a_event_that_fails_again_after_its_replay_is_parked_again(sender: Sender, subscriber: Listener) -> None:
    subscriber.refused |= {("a", "1"), ("b", "1")}
    async with sender.relaying({"member": subscriber.address}, attempts_max=2):
        await sender.tell(visit("a", 1), visit("b", 1), visit("a", 2))
        await until(lambda: states_are(sender, {PARKED: 2, WAITING: 1}))
        subscriber.refused.discard(("b", "1"))
        assert await sender.parked.replay() == 2
        await until(lambda: states_are(sender, {PARKED: 1, WAITING: 1}))
    assert await subscriber.applied() == {"b": [1]}


async def test_later_events_do_not_overtake_one_that_is_tried_again(sender: Sender, subscriber: Listener) -> None:
    subscriber.refused.add(("a", "1"))
    async with sender.relaying({"member": subscriber.address}, attempts_max=1000):
        await sender.tell(visit("a", 1), visit("a", 2))
        await until(lambda: states_are(sender, {RETRYING: 1, WAITING: 1}))
        await sender.tell(visit("a", 3), visit("b", 1))
        await until(lambda: states_are(sender, {RETRYING: 1, WAITING: 2}))
        assert await subscriber.applied() == {"b": [1]}
        subscriber.refused.clear()
        await until(sender.nothing_left)
    assert await subscriber.applied() == {"a": [1, 2, 3], "b": [1]}


async def test_a_listener_that_is_away_costs_no_attempt(sender: Sender, subscriber: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "UNREACHED", QUICK)
    await subscriber.stop()
    async with sender.relaying({"member": subscriber.address}, attempts_max=1) as relay:
        await sender.tell(visit("a", 1), visit("a", 2))
        pump = relay.pumps["member", shard_of("a")]

        async def failed_a_few_times() -> bool:
            return pump.size < relay_module.BATCH_MAX // 8

        await until(failed_a_few_times)
        assert {each["state"] for each in await sender.rows()} == {PENDING}
        await subscriber.start()
        await until(sender.nothing_left)
    assert await subscriber.applied() == {"a": [1, 2]}


async def test_two_listeners_do_not_wait_for_each_other(settings: Settings, database: Database, subscriber: Listener) -> None:
    sender = Sender(database, ["member", "commerce"])
    async with listening(settings, "commerce") as other:
        other.refused.add(("a", "1"))
        async with sender.relaying({"member": subscriber.address, "commerce": other.address}, attempts_max=1000):
            await sender.tell(visit("a", 1), visit("a", 2))
            await until(lambda: states_are(sender, {RETRYING: 1, WAITING: 1}))
            assert await subscriber.applied() == {"a": [1, 2]}
            other.refused.clear()
            await until(sender.nothing_left)
        assert await other.applied() == {"a": [1, 2]}


async def test_another_replica_takes_over_and_nothing_is_lost_or_doubled(sender: Sender, subscriber: Listener) -> None:
    addresses = {"member": subscriber.address}

    async def tell() -> None:
        for number in range(1, 41):
            await sender.tell(visit("a", number), visit("b", number))

    async with sender.relaying(addresses):
        async with sender.relaying(addresses):
            telling = asyncio.create_task(tell())
            await until(subscriber.applied)
        # One of the two has stopped amid the events.
        await telling
        await until(sender.nothing_left)
    assert await subscriber.applied() == {key: list(range(1, 41)) for key in "ab"}


async def test_two_relays_that_both_believe_to_hold_the_lease_do_no_harm(
    sender: Sender, subscriber: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def granted(lease: Lease) -> bool:
        lease._ends = lease.clock() + 60
        return True

    monkeypatch.setattr(Lease, "take", granted)
    subscriber.refused.add(("a", "7"))
    addresses = {"member": subscriber.address}
    async with sender.relaying(addresses, attempts_max=3), sender.relaying(addresses, attempts_max=3):
        for number in range(1, 16):
            await sender.tell(*(visit(key, number) for key in "abc"))
        await until(lambda: states_are(sender, {PARKED: 1, WAITING: 8}))
        subscriber.refused.clear()
        await sender.parked.replay()
        await until(sender.nothing_left)
    assert await subscriber.applied() == {key: list(range(1, 16)) for key in "abc"}


async def test_what_waits_is_measured_by_the_holder_only(sender: Sender, subscriber: Listener) -> None:
    def gauge(name: str, shard: int) -> float | None:
        return REGISTRY.get_sample_value(f"quanyu_events_{name}", {"source": SOURCE, "subscriber": "member", "shard": str(shard)})

    async def measured() -> bool:
        return all(gauge("parked", shard) is not None for shard in range(SHARDS))

    key, shard = ONE_SHARD[0], 0
    await sender.tell(visit(key, 1), visit(key, 2))
    await sender.database[DELIVERIES].update_one({"sequence": 1}, {"$set": {"state": PARKED, "due_at": AT}})
    async with sender.relaying({"member": subscriber.address}):
        await until(measured)
        assert gauge("parked", shard) == 1
        assert gauge("pending", shard) == 1
        age = gauge("oldest_age_seconds", shard)
        assert age is not None and 0 <= age < 60
    assert gauge("parked", shard) is None


keys = st.lists(st.sampled_from(ONE_SHARD[:6]), min_size=1, max_size=40)


@examples(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys, st.integers(1, 7))
async def test_the_round_comes_to_every_key_and_begins_each_at_its_first(database: Database, told: list[str], limit: int) -> None:
    await database[DELIVERIES].delete_many({})
    events = sequenced([visit(key, number) for number, key in enumerate(told)])
    await database[DELIVERIES].insert_many([delivery_document(event, "member", event.sequence) for event in events])
    deliveries = DeliveryQueue(database, "member", 0)
    after, seen = "", set[str]()
    # Nothing is ever applied here: a round still passes by every key.
    for _ in range(len(set(told)) + 1):
        rows = await deliveries.pending(after, limit)
        assert 0 < len(rows) <= limit
        for key in {each.key for each in rows}:
            sequences = [each.sequence for each in rows if each.key == key]
            assert sequences == list(range(1, len(sequences) + 1))
        seen |= {each.key for each in rows}
        after = rows[-1].key
    assert seen == set(told)


@given(st.integers(1, 2000), st.floats(0.01, 10), st.floats(10, 1000))
def test_waits_grow_to_their_cap_and_are_never_in_step(failures: int, first: float, cap: float) -> None:
    backoff = Backoff(first, cap)
    full = min(cap, first * 2.0 ** min(failures - 1, 30))
    assert full / 2 <= backoff.seconds(failures) <= full


async def test_a_row_put_off_is_due_later_and_counts_only_what_failed(sender: Sender) -> None:
    key = ONE_SHARD[0]
    await sender.tell(visit(key, 1))
    deliveries = DeliveryQueue(sender.database, "member", 0, attempts_max=2, retry=Backoff(10.0, 100.0))
    for attempts, fails in ((0, False), (1, True)):
        (found,) = await deliveries.pending("", 10) or await deliveries.due(AT + timedelta(days=1), 10)
        assert await deliveries.put_off([(found, "WHY", fails)], AT) == []
        assert await deliveries.due(AT, 10) == []
        (later,) = await deliveries.due(AT + timedelta(seconds=20), 10)
        assert (later.attempts, later.state) == (attempts, RETRYING)
        due = await deliveries.next_due()
        assert due is not None and AT < due <= AT + timedelta(seconds=20)
    assert await deliveries.put_off([(later, "WHY", True)], AT) == [later]
    assert await deliveries.next_due() is None
