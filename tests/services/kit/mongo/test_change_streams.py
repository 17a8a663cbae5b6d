"""The watch: one stream, many subscribers, none of which can hold up another or miss a change without knowing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.kit.errors import Overloaded, Unavailable
from services.kit.mongo.change_streams import ChangeStreamHub, Subscription, WatchedCollection
from services.kit.mongo.client import Database
from tests.services.kit.hearing import until

ORDERS = WatchedCollection("orders", fields=("state",))
HOLDS = WatchedCollection("holds", kinds=("insert",), keys=("_id", "place"))


@asynccontextmanager
async def running(watch: ChangeStreamHub) -> AsyncIterator[ChangeStreamHub]:
    """The watch reads for the time of the block."""
    reading = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


@pytest.fixture
async def watch(database: Database) -> AsyncIterator[ChangeStreamHub]:
    async with running(ChangeStreamHub(database, [ORDERS, HOLDS])) as watch:
        yield watch


async def take(subscription: Subscription, number: int) -> list[tuple[str, Any, dict[str, Any]]]:
    async with asyncio.timeout(20):
        changes = [await anext(subscription) for _ in range(number)]
    return [(change.kind, change.id, change.document) for change in changes]


async def test_changes_arrive_in_order_with_the_fields_that_are_watched(database: Database, watch: ChangeStreamHub) -> None:
    async with watch.subscribe("orders") as changes:
        orders = database["orders"]
        await orders.insert_one({"_id": 1, "state": "OPEN", "secret": "x"})
        await orders.update_one({"_id": 1}, {"$set": {"state": "PAID"}})
        await orders.delete_one({"_id": 1})
        (first, second, third) = await take(changes, 3)
    assert first == ("insert", 1, {"state": "OPEN"})
    assert second[:2] == ("update", 1)
    assert "secret" not in second[2]
    assert third == ("delete", 1, {})


async def test_subscribers_get_their_collections_the_kinds_and_their_keys(database: Database, watch: ChangeStreamHub) -> None:
    holds, orders = database["holds"], database["orders"]
    async with (
        watch.subscribe("holds", keys=["even", 3]) as some,
        watch.subscribe("holds") as all_of_them,
        watch.subscribe("orders", "holds") as both,
    ):
        await orders.insert_one({"_id": 9, "place": "even"})
        for number in range(5):
            await holds.insert_one({"_id": number, "place": "odd" if number % 2 else "even"})
            await holds.delete_one({"_id": number})
        assert [each[1] for each in await take(some, 4)] == [0, 2, 3, 4]
        assert [each[:2] for each in await take(all_of_them, 5)] == [("insert", number) for number in range(5)]
        assert [each[1] for each in await take(both, 6)] == [9, 0, 1, 2, 3, 4]


async def test_an_update_comes_by_the_keys_the_document_has_now(database: Database) -> None:
    watch = ChangeStreamHub(database, [WatchedCollection("tasks", keys=("guide",))])
    async with running(watch), watch.subscribe("tasks", keys=["anna"]) as hers, watch.subscribe("tasks", keys=["bert"]) as his:
        await database["tasks"].insert_one({"_id": 1, "guide": "anna"})
        await take(hers, 1)
        await database["tasks"].update_one({"_id": 1}, {"$set": {"guide": "bert"}})
        assert await take(his, 1) == [("update", 1, {"guide": "bert"})]
        await database["tasks"].insert_one({"_id": 2, "guide": "anna"})
        assert await take(hers, 1) == [("insert", 2, {"guide": "anna"})]


async def test_what_waits_is_taken_together_and_time_never_goes_back(database: Database, watch: ChangeStreamHub) -> None:
    async with watch.subscribe("holds") as changes, watch.subscribe("holds") as other:
        assert changes.after is None
        await database["holds"].insert_many([{"_id": number} for number in range(5)])
        await take(other, 5)
        first = await changes.next_batch(3)
        rest = await changes.next_batch(9)
        assert [[change.id for change in batch] for batch in (first, rest)] == [[0, 1, 2], [3, 4]]
        times = [change.at for change in (*first, *rest)]
        assert times == sorted(times)
    async with watch.subscribe("holds") as later:
        assert later.after == times[-1]


async def test_nothing_is_left_of_who_went(watch: ChangeStreamHub) -> None:
    async with watch.subscribe("holds", keys=range(50)), watch.subscribe("orders"):
        assert len(watch._subscribers) == 51
    assert not watch._subscribers


async def test_a_change_of_a_transaction_arrives_once_it_is_committed(database: Database, watch: ChangeStreamHub) -> None:
    await database.raw.create_collection("holds")
    async with watch.subscribe("holds") as changes:

        async def body(session: Any) -> None:
            await database["holds"].insert_one({"_id": 1}, session=session)
            await database["holds"].insert_one({"_id": 2})

        await database.transact(body)
        assert [each[1] for each in await take(changes, 2)] == [2, 1]


async def test_a_slow_subscriber_is_dropped_with_the_reason_and_the_others_go_on(database: Database, watch: ChangeStreamHub) -> None:
    async with watch.subscribe("holds", unread_max=2) as slow, watch.subscribe("holds") as quick:
        await database["holds"].insert_many([{"_id": number} for number in range(5)])
        assert len(await take(quick, 5)) == 5
        with pytest.raises(Overloaded) as refused:
            await take(slow, 1)
        assert refused.value.reason == "SUBSCRIBER_TOO_SLOW"
        with pytest.raises(Overloaded):
            await take(slow, 1)


async def test_after_an_error_it_goes_on_where_it_was(database: Database, watch: ChangeStreamHub) -> None:
    async def cut() -> int:
        """Ends the stream's cursor on the server; how many there were."""
        stream = {"appName": database.name, "cursor.originatingCommand.pipeline.0.$changeStream": {"$exists": True}}
        pipeline = [{"$currentOp": {"idleCursors": True}}, {"$match": stream}]
        found = await database.client.admin.command({"aggregate": 1, "pipeline": pipeline, "cursor": {}})
        sessions = [{"id": each["lsid"]["id"]} for each in found["cursor"]["firstBatch"]]
        if sessions:
            await database.client.admin.command({"killSessions": sessions})
        return len(sessions)

    async with watch.subscribe("holds") as changes:
        for number in range(5):
            await database["holds"].insert_one({"_id": number})
            await until(cut)
        assert [each[1] for each in await take(changes, 5)] == list(range(5))


async def test_a_subscriber_hears_that_changes_were_lost(database: Database, watch: ChangeStreamHub) -> None:
    await database.raw.create_collection("holds")
    async with watch.subscribe("holds") as changes:
        await database.client.drop_database(database.name)
        with pytest.raises(Unavailable) as lost:
            await take(changes, 1)
        assert lost.value.reason == "CHANGES_LOST"
    async with watch.subscribe("holds") as changes:
        await database["holds"].insert_one({"_id": 1})
        assert [each[1] for each in await take(changes, 1)] == [1]


async def test_only_what_is_watched_can_be_subscribed(watch: ChangeStreamHub) -> None:
    with pytest.raises(ValueError, match="stock is not watched"):
        async with watch.subscribe("holds", "stock"):
            pass
    with pytest.raises(ValueError, match="orders is not watched by keys"):
        async with watch.subscribe("orders", keys=[1]):
            pass
    with pytest.raises(ValueError, match="holds is watched already"):
        watch.add(HOLDS)


async def test_a_stream_that_does_not_open_refuses(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.kit.mongo.change_streams.OPEN_SECONDS_MAX", 0.05)
    with pytest.raises(Unavailable) as refused:
        async with ChangeStreamHub(database, [HOLDS]).subscribe("holds"):
            pass
    assert refused.value.reason == "WATCH_UNAVAILABLE"
