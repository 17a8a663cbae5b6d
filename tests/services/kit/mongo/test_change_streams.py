"""Tests of the change stream hub: subscriptions do not delay each other, and a lost change ends them with an error."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.kit.errors import Overloaded, Unavailable
from services.kit.mongo.change_streams import ChangeStreamHub, Subscription, WatchedCollection
from services.kit.mongo.client import Database
from tests.services.kit.event_services import wait_until

ORDERS = WatchedCollection("orders", fields=("state",))
HOLDS = WatchedCollection("holds", kinds=("insert",), keys=("_id", "place"))


@asynccontextmanager
async def run_hub(hub: ChangeStreamHub) -> AsyncIterator[ChangeStreamHub]:
    """Runs the hub for the time of the block."""
    reading = asyncio.create_task(hub.run())
    try:
        yield hub
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


@pytest.fixture
async def hub(database: Database) -> AsyncIterator[ChangeStreamHub]:
    async with run_hub(ChangeStreamHub(database, [ORDERS, HOLDS])) as hub:
        yield hub


async def take(subscription: Subscription, number: int) -> list[tuple[str, Any, dict[str, Any]]]:
    async with asyncio.timeout(20):
        changes = [await anext(subscription) for _ in range(number)]
    return [(change.kind, change.id, change.document) for change in changes]


async def test_changes_arrive_in_order_with_watched_fields(database: Database, hub: ChangeStreamHub) -> None:
    async with hub.subscribe("orders") as changes:
        orders = database["orders"]
        await orders.insert_one({"_id": 1, "state": "OPEN", "secret": "x"})
        await orders.update_one({"_id": 1}, {"$set": {"state": "PAID"}})
        await orders.delete_one({"_id": 1})
        (first, second, third) = await take(changes, 3)
    assert first == ("insert", 1, {"state": "OPEN"})
    assert second[:2] == ("update", 1)
    assert "secret" not in second[2]
    assert third == ("delete", 1, {})


async def test_subscription_gets_its_collections_kinds_and_keys(database: Database, hub: ChangeStreamHub) -> None:
    holds, orders = database["holds"], database["orders"]
    async with (
        hub.subscribe("holds", keys=["even", 3]) as by_keys,
        hub.subscribe("holds") as all_of_them,
        hub.subscribe("orders", "holds") as both,
    ):
        await orders.insert_one({"_id": 9, "place": "even"})
        for number in range(5):
            await holds.insert_one({"_id": number, "place": "odd" if number % 2 else "even"})
            await holds.delete_one({"_id": number})
        assert [each[1] for each in await take(by_keys, 4)] == [0, 2, 3, 4]
        assert [each[:2] for each in await take(all_of_them, 5)] == [("insert", number) for number in range(5)]
        assert [each[1] for each in await take(both, 6)] == [9, 0, 1, 2, 3, 4]


async def test_update_is_dispatched_by_current_keys(database: Database) -> None:
    hub = ChangeStreamHub(database, [WatchedCollection("tasks", keys=("guide",))])
    async with run_hub(hub), hub.subscribe("tasks", keys=["anna"]) as hers, hub.subscribe("tasks", keys=["bert"]) as his:
        await database["tasks"].insert_one({"_id": 1, "guide": "anna"})
        await take(hers, 1)
        await database["tasks"].update_one({"_id": 1}, {"$set": {"guide": "bert"}})
        assert await take(his, 1) == [("update", 1, {"guide": "bert"})]
        await database["tasks"].insert_one({"_id": 2, "guide": "anna"})
        assert await take(hers, 1) == [("insert", 2, {"guide": "anna"})]


async def test_batches_have_all_unread_changes_in_order(database: Database, hub: ChangeStreamHub) -> None:
    async with hub.subscribe("holds") as changes, hub.subscribe("holds") as other:
        assert changes.after is None
        await database["holds"].insert_many([{"_id": number} for number in range(5)])
        await take(other, 5)
        first = await changes.next_batch(3)
        rest = await changes.next_batch(9)
        assert [[change.id for change in batch] for batch in (first, rest)] == [[0, 1, 2], [3, 4]]
        times = [change.at for change in (*first, *rest)]
        assert times == sorted(times)
    async with hub.subscribe("holds") as later:
        assert later.after == times[-1]


async def test_ended_subscription_leaves_nothing_behind(hub: ChangeStreamHub) -> None:
    async with hub.subscribe("holds", keys=range(50)), hub.subscribe("orders"):
        assert len(hub._subscribers) == 51
    assert not hub._subscribers


async def test_change_of_a_transaction_arrives_after_commit(database: Database, hub: ChangeStreamHub) -> None:
    await database.raw.create_collection("holds")
    async with hub.subscribe("holds") as changes:

        async def body(session: Any) -> None:
            await database["holds"].insert_one({"_id": 1}, session=session)
            await database["holds"].insert_one({"_id": 2})

        await database.transact(body)
        assert [each[1] for each in await take(changes, 2)] == [2, 1]


async def test_slow_subscription_ends_and_others_continue(database: Database, hub: ChangeStreamHub) -> None:
    async with hub.subscribe("holds", unread_max=2) as slow, hub.subscribe("holds") as quick:
        await database["holds"].insert_many([{"_id": number} for number in range(5)])
        assert len(await take(quick, 5)) == 5
        with pytest.raises(Overloaded) as refused:
            await take(slow, 1)
        assert refused.value.reason == "SUBSCRIBER_TOO_SLOW"
        with pytest.raises(Overloaded):
            await take(slow, 1)


async def test_stream_resumes_after_an_error(database: Database, hub: ChangeStreamHub) -> None:
    async def kill_cursors() -> int:
        """Kills the cursors of the stream on the server; returns their number."""
        stream = {"appName": database.name, "cursor.originatingCommand.pipeline.0.$changeStream": {"$exists": True}}
        pipeline = [{"$currentOp": {"idleCursors": True}}, {"$match": stream}]
        found = await database.client.admin.command({"aggregate": 1, "pipeline": pipeline, "cursor": {}})
        sessions = [{"id": each["lsid"]["id"]} for each in found["cursor"]["firstBatch"]]
        if sessions:
            await database.client.admin.command({"killSessions": sessions})
        return len(sessions)

    async with hub.subscribe("holds") as changes:
        for number in range(5):
            await database["holds"].insert_one({"_id": number})
            await wait_until(kill_cursors)
        assert [each[1] for each in await take(changes, 5)] == list(range(5))


async def test_lost_changes_end_the_subscription(database: Database, hub: ChangeStreamHub) -> None:
    await database.raw.create_collection("holds")
    async with hub.subscribe("holds") as changes:
        await database.client.drop_database(database.name)
        with pytest.raises(Unavailable) as refused:
            await take(changes, 1)
        assert refused.value.reason == "CHANGES_LOST"
    async with hub.subscribe("holds") as changes:
        await database["holds"].insert_one({"_id": 1})
        assert [each[1] for each in await take(changes, 1)] == [1]


async def test_unwatched_collection_or_key_is_refused(hub: ChangeStreamHub) -> None:
    with pytest.raises(ValueError, match="stock is not watched"):
        async with hub.subscribe("holds", "stock"):
            pass
    with pytest.raises(ValueError, match="orders is not watched by keys"):
        async with hub.subscribe("orders", keys=[1]):
            pass
    with pytest.raises(ValueError, match="holds is already watched"):
        hub.add(HOLDS)


async def test_unopened_stream_refuses_subscriptions(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.kit.mongo.change_streams.OPEN_SECONDS_MAX", 0.05)
    with pytest.raises(Unavailable) as refused:
        async with ChangeStreamHub(database, [HOLDS]).subscribe("holds"):
            pass
    assert refused.value.reason == "WATCH_UNAVAILABLE"
