"""One change stream per process, over the collections it watches, handed out to bounded subscribers.

    async with watch.subscribe("orders", keys=[order_id]) as changes:
        ... read what stands now ...
        async for change in changes: ...

What is committed after `subscribe` was entered arrives, or the subscription ends with its reason: then subscribe and read again.
What was committed shortly before may arrive as well.
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

WAITING_MAX = 1000
"""Changes a subscriber may leave unread before it is dropped."""
OPEN_SECONDS_MAX = 10.0
REOPEN = Backoff(first_seconds=0.1, cap_seconds=10.0)
HISTORY_LOST = {"ChangeStreamHistoryLost", "ChangeStreamFatalError", "InvalidResumeToken"}
ALL = object()
"""What those subscribe to who name no key."""


class WatchedCollection(Struct, frozen=True):
    """A collection to watch: which kinds of changes, which events of these (`where`), and which fields of the document come with them.

    `keys` are the fields (or `_id`) by whose values one may subscribe. Fields of updated documents are looked up by the server, at
    some cost; an `_id` is free.
    """

    collection: str
    fields: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("insert", "update", "replace", "delete")
    where: Document = {}
    keys: tuple[str, ...] = ()

    @property
    def shown(self) -> set[str]:
        """The fields that come with a change."""
        return {*self.fields, *self.keys} - {"_id"}


class Change(Struct, frozen=True):
    """One committed change. `document` holds the watched fields of an inserted or replaced document, or of an updated one as it is now.

    `at` is when it was committed: it never goes back from one change to the next.
    """

    collection: str
    kind: str
    id: Any
    document: Document
    at: Timestamp


class Subscription:
    """An iterator over changes; it raises `Overloaded` once the subscriber was too slow, `Unavailable` once changes were lost."""

    def __init__(self, waiting_max: int) -> None:
        self.waiting_max = waiting_max
        self.after: Timestamp | None = None
        """When the last change before the subscription was committed; what stands is read in a session `after` it."""
        self.ended: Refusal | None = None
        self._waiting: asyncio.Queue[Change | None] = asyncio.Queue()

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Change:
        change = None if self.ended else await self._waiting.get()
        if change is None:
            assert self.ended is not None
            raise self.ended
        return change

    async def some(self, most: int) -> list[Change]:
        """The changes that wait, in order, at most so many; waits for one."""
        changes = [await anext(self)]
        while len(changes) < most and not self.ended and not self._waiting.empty():
            change = self._waiting.get_nowait()
            assert change is not None
            changes.append(change)
        return changes

    def offer(self, change: Change) -> None:
        """Puts the change in line; a full line ends the subscription."""
        if self.ended:
            return
        if self._waiting.qsize() >= self.waiting_max:
            self.end(
                Overloaded("SUBSCRIBER_TOO_SLOW", "changes came faster than they were read; subscribe again", waiting_max=self.waiting_max)
            )
        else:
            self._waiting.put_nowait(change)

    def end(self, reason: Refusal) -> None:
        """Ends it: what waits unread is thrown away."""
        self.ended = reason
        self._waiting.put_nowait(None)


class ChangeStreamHub:
    """The change stream of one database. `run` reads it; nothing arrives while that does not run.

    A change costs as much as it has subscribers, not as many as there are: they are kept by collection and key.
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
        """Watches these too; before `run`."""
        for each in watched:
            if each.collection in self.watched:
                raise ValueError(f"{each.collection} is watched already")
            self.watched[each.collection] = each

    @asynccontextmanager
    async def subscribe(
        self, *collections: str, keys: Iterable[Hashable] = (ALL,), waiting_max: int = WAITING_MAX
    ) -> AsyncIterator[Subscription]:
        """The changes of watched collections from now on, all or those of documents with one of these keys.

        `Unavailable` when the stream does not open.
        """
        keys = tuple(keys)
        for collection in collections:
            if collection not in self.watched or (keys != (ALL,) and not self.watched[collection].keys):
                raise ValueError(f"{collection} is not watched{' by keys' if collection in self.watched else ''}")
        subscription = Subscription(waiting_max)
        places = {(collection, key) for collection in collections for key in keys}
        for place in places:
            self._subscribers[place].add(subscription)
        try:
            await self._opened()
            subscription.after = self._at
            yield subscription
        finally:
            for place in places:
                self._leave(place, subscription)

    def _leave(self, place: Hashable, subscription: Subscription) -> None:
        self._subscribers[place].discard(subscription)
        if not self._subscribers[place]:
            del self._subscribers[place]

    async def _opened(self) -> None:
        try:
            async with asyncio.timeout(OPEN_SECONDS_MAX):
                await self._open.wait()
        except TimeoutError:
            raise Unavailable("WATCH_UNAVAILABLE", "changes cannot be watched now; try again") from None

    async def run(self) -> None:
        """Reads the stream until cancelled. After an error it goes on behind the last change that was read."""
        failures = 0
        while True:
            try:
                async for change in self._changes():
                    failures = 0
                    self._hand_out(change)
                self._lost("the stream ended with its database")
            except PyMongoError as error:
                failures += 1
                logger().warning("watch interrupted", error=type(error).__name__, failures=failures)
                if (getattr(error, "details", None) or {}).get("codeName") in HISTORY_LOST:
                    self._lost("the server no longer has the changes since the last one")
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
        """What the server sends: the watched kinds of the watched collections, with the watched fields only."""
        alternatives: list[Document] = [
            {"ns.coll": each.collection, "operationType": {"$in": list(each.kinds)}, **each.where} for each in self.watched.values()
        ]
        fields = {f"fullDocument.{field}": 1 for each in self.watched.values() for field in sorted(each.shown)}
        shown = {"operationType": 1, "ns": 1, "documentKey": 1, "clusterTime": 1, **fields}
        return [{"$match": {"$or": [*alternatives, {"operationType": "invalidate"}]}}, {"$project": shown}]

    @property
    def _full_document(self) -> str | None:
        looked_up = any(each.shown and "update" in each.kinds for each in self.watched.values())
        return "updateLookup" if looked_up else None

    def _hand_out(self, change: Change) -> None:
        for subscription in {each for place in self._places(change) for each in self._subscribers.get(place, ())}:
            subscription.offer(change)

    def _places(self, change: Change) -> Iterator[Hashable]:
        yield change.collection, ALL
        for name in self.watched[change.collection].keys:
            value = change.id if name == "_id" else change.document.get(name)
            if isinstance(value, Hashable):
                yield change.collection, value

    def _lost(self, why: str) -> None:
        """Begins anew from now; who subscribed must know that changes are missing."""
        self._token = None
        self._open.clear()
        for subscription in {each for several in self._subscribers.values() for each in several}:
            subscription.end(Unavailable("CHANGES_LOST", f"{why}; subscribe and read again"))
