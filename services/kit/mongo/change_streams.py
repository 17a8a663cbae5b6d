"""Change stream hub: one MongoDB change stream per process, dispatched to bounded subscriptions.

    async with hub.subscribe("orders", keys=[order_id]) as changes:
        ... read the current documents ...
        async for change in changes: ...

A subscription receives each change that is committed after `subscribe` was entered, and perhaps some from shortly before. If it cannot,
it raises the reason; then subscribe and read again.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Hashable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from bson import Timestamp
from msgspec import Struct
from pymongo.errors import PyMongoError

from services.kit.backoff import Backoff
from services.kit.errors import Overloaded, Refusal, Unavailable
from services.kit.mongo.client import Database, Document
from services.kit.observability.logs import logger

UNREAD_MAX = 1000
"""A subscription with more unread changes than this is ended."""
OPEN_SECONDS_MAX = 10.0
"""A new subscription waits at most this long until the stream is open."""
REOPEN = Backoff(first_seconds=0.1, cap_seconds=10.0)
"""The wait before a failed stream is opened again."""
HISTORY_LOST = {"ChangeStreamHistoryLost", "ChangeStreamFatalError", "InvalidResumeToken"}
"""The error code names of a stream that cannot be resumed."""
ALL_KEYS = object()
"""The key of subscriptions to all documents of a collection."""


class WatchedCollection(Struct, frozen=True):
    """A collection to watch: the kinds of changes, a filter on their events (`where`), and the fields of the document to include.

    `keys` are the fields whose values a subscription may name. The server looks the fields of an updated document up, which costs a read
    per change; `_id` costs nothing.
    """

    collection: str
    fields: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("insert", "update", "replace", "delete")
    where: Document = {}
    keys: tuple[str, ...] = ()

    @property
    def included_fields(self) -> set[str]:
        """The fields of the document that a change includes."""
        return {*self.fields, *self.keys} - {"_id"}


class Change(Struct, frozen=True):
    """One committed change. `document` has the watched fields of an inserted or replaced document, or the current ones of an updated one.

    `at` is the cluster time of the commit; it never decreases from one change to the next.
    """

    collection: str
    kind: str
    id: Any
    document: Document
    at: Timestamp


class Subscription:
    """An iterator over changes. It raises `Overloaded` after more than `unread_max` unread changes, `Unavailable` after lost ones."""

    def __init__(self, unread_max: int) -> None:
        self.unread_max = unread_max
        self.after: Timestamp | None = None
        """The cluster time of the last change before the subscription. Read the current documents in a session `after` it."""
        self.end_reason: Refusal | None = None
        self._unread: asyncio.Queue[Change | None] = asyncio.Queue()

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Change:
        change = None if self.end_reason else await self._unread.get()
        if change is None:
            assert self.end_reason is not None
            raise self.end_reason
        return change

    async def next_batch(self, size_max: int) -> list[Change]:
        """Waits for a change and returns it with the other unread ones, in order, at most `size_max`."""
        changes = [await anext(self)]
        while len(changes) < size_max and not self.end_reason and not self._unread.empty():
            change = self._unread.get_nowait()
            assert change is not None
            changes.append(change)
        return changes

    def offer(self, change: Change) -> None:
        """Queues the change; a full queue ends the subscription."""
        if self.end_reason:
            return
        if self._unread.qsize() >= self.unread_max:
            self.end(
                Overloaded("SUBSCRIBER_TOO_SLOW", "Changes arrive faster than you read them. Subscribe again.", unread_max=self.unread_max)
            )
        else:
            self._unread.put_nowait(change)

    def end(self, reason: Refusal) -> None:
        """Ends the subscription and discards the unread changes."""
        self.end_reason = reason
        self._unread.put_nowait(None)


class ChangeStreamHub:
    """The change stream of one database. Changes arrive only while `run` is running.

    Subscriptions are indexed by collection and key, so that dispatching a change costs only the subscriptions that receive it.
    """

    def __init__(self, database: Database, watched: Sequence[WatchedCollection] = ()) -> None:
        self.database = database
        self.watched: dict[str, WatchedCollection] = {}
        self.add(*watched)
        self._subscribers: dict[Hashable, set[Subscription]] = defaultdict(set)
        self._open = asyncio.Event()
        self._token: Any = None
        self._at: Timestamp | None = None

    def add(self, *watched: WatchedCollection) -> None:
        """Adds collections to watch; call it before `run`."""
        for each in watched:
            if each.collection in self.watched:
                raise ValueError(f"{each.collection} is already watched. Add a collection once.")
            self.watched[each.collection] = each

    @asynccontextmanager
    async def subscribe(
        self, *collections: str, keys: Iterable[Hashable] = (ALL_KEYS,), unread_max: int = UNREAD_MAX
    ) -> AsyncIterator[Subscription]:
        """Subscribes to the changes of watched collections: all of them, or those of documents with one of these keys.

        `Unavailable` if the stream does not open within OPEN_SECONDS_MAX.
        """
        keys = tuple(keys)
        for collection in collections:
            if collection not in self.watched or (keys != (ALL_KEYS,) and not self.watched[collection].keys):
                raise ValueError(f"{collection} is not watched{' by keys' if collection in self.watched else ''}. Add it to the hub.")
        subscription = Subscription(unread_max)
        topics = {(collection, key) for collection in collections for key in keys}
        for topic in topics:
            self._subscribers[topic].add(subscription)
        try:
            await self._wait_until_open()
            subscription.after = self._at
            yield subscription
        finally:
            for topic in topics:
                self._unsubscribe(topic, subscription)

    def _unsubscribe(self, topic: Hashable, subscription: Subscription) -> None:
        self._subscribers[topic].discard(subscription)
        if not self._subscribers[topic]:
            del self._subscribers[topic]

    async def _wait_until_open(self) -> None:
        try:
            async with asyncio.timeout(OPEN_SECONDS_MAX):
                await self._open.wait()
        except TimeoutError:
            raise Unavailable("WATCH_UNAVAILABLE", "Changes cannot be watched at the moment. Try again.") from None

    async def run(self) -> None:
        """Reads the stream until cancelled. After an error it resumes after the last change that was read."""
        failures = 0
        while True:
            try:
                async for change in self._changes():
                    failures = 0
                    self._dispatch(change)
                self._restart("The change stream ended with its database.")
            except PyMongoError as error:
                failures += 1
                logger().warning("change stream interrupted", error=type(error).__name__, failures=failures)
                if (getattr(error, "details", None) or {}).get("codeName") in HISTORY_LOST:
                    self._restart("The server no longer has the changes since the last one.")
                await asyncio.sleep(REOPEN.seconds(failures))

    async def _changes(self) -> AsyncIterator[Change]:
        async with await self.database.watch(self.pipeline(), resume_after=self._token, full_document=self._full_document) as stream:
            self._token = stream.resume_token
            self._open.set()
            async for event in stream:
                self._token = stream.resume_token
                if event["operationType"] == "invalidate":
                    return
                collection, kind = event["ns"]["coll"], event["operationType"]
                self._at = event["clusterTime"]
                yield Change(collection, kind, event["documentKey"]["_id"], event.get("fullDocument") or {}, self._at)

    def pipeline(self) -> list[Document]:
        """Returns the stages that let the server send the watched changes only, with the watched fields only."""
        alternatives: list[Document] = [
            {"ns.coll": each.collection, "operationType": {"$in": list(each.kinds)}, **each.where} for each in self.watched.values()
        ]
        fields = {f"fullDocument.{field}": 1 for each in self.watched.values() for field in sorted(each.included_fields)}
        projection = {"operationType": 1, "ns": 1, "documentKey": 1, "clusterTime": 1, **fields}
        return [{"$match": {"$or": [*alternatives, {"operationType": "invalidate"}]}}, {"$project": projection}]

    @property
    def _full_document(self) -> str | None:
        needs_lookup = any(each.included_fields and "update" in each.kinds for each in self.watched.values())
        return "updateLookup" if needs_lookup else None

    def _dispatch(self, change: Change) -> None:
        for subscription in {each for topic in self._topics_of(change) for each in self._subscribers.get(topic, ())}:
            subscription.offer(change)

    def _topics_of(self, change: Change) -> Iterator[Hashable]:
        yield change.collection, ALL_KEYS
        for name in self.watched[change.collection].keys:
            value = change.id if name == "_id" else change.document.get(name)
            if isinstance(value, Hashable):
                yield change.collection, value

    def _restart(self, reason: str) -> None:
        """Starts a new stream from now on and ends all subscriptions, since they miss changes."""
        self._token = None
        self._open.clear()
        for subscription in set[Subscription]().union(*self._subscribers.values()):
            subscription.end(Unavailable("CHANGES_LOST", f"{reason} Subscribe and read again."))
