"""One change stream per process, over the collections it watches, handed out to bounded subscribers.

    async with watch.subscribe("orders") as changes:
        ... read what stands now ...
        async for change in changes: ...

What is committed after `subscribe` was entered arrives, or the subscription ends with its reason: then subscribe and read again.
What was committed shortly before may arrive as well.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from msgspec import Struct
from pymongo.errors import PyMongoError

from services.kit.backoff import Backoff
from services.kit.errors import Overloaded, Refusal, Unavailable
from services.kit.logs import logger
from services.kit.mongo import Database, Document

WAITING_MAX = 1000
"""Changes a subscriber may leave unread before it is dropped."""
OPEN_SECONDS_MAX = 10.0
REOPEN = Backoff(first_seconds=0.1, cap_seconds=10.0)
HISTORY_LOST = {"ChangeStreamHistoryLost", "ChangeStreamFatalError", "InvalidResumeToken"}


class Watched(Struct, frozen=True):
    """A collection to watch: which kinds of changes, which events of these (`where`), and which fields of the document come with them."""

    collection: str
    fields: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("insert", "update", "replace", "delete")
    where: Document = {}


class Change(Struct, frozen=True):
    """One committed change. `document` holds the watched fields of an inserted or replaced document, or of an updated one as it is now."""

    collection: str
    kind: str
    id: Any
    document: Document


class Subscription:
    """An iterator over changes; it raises `Overloaded` once the subscriber was too slow, `Unavailable` once changes were lost."""

    def __init__(self, wanted: Callable[[Change], bool], waiting_max: int) -> None:
        self.wanted, self.waiting_max = wanted, waiting_max
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

    def offer(self, change: Change) -> None:
        """Puts the change in line, if it is wanted; a full line ends the subscription."""
        if self.ended or not self.wanted(change):
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


class Watch:
    """The change stream of one database. `run` reads it; nothing arrives while that does not run."""

    def __init__(self, database: Database, watched: Sequence[Watched]) -> None:
        self.database = database
        self.watched = {each.collection: each for each in watched}
        self._subscribers: dict[str, set[Subscription]] = defaultdict(set)
        self._open = asyncio.Event()
        self._token: Any = None

    @asynccontextmanager
    async def subscribe(
        self, collection: str, wanted: Callable[[Change], bool] = lambda change: True, *, waiting_max: int = WAITING_MAX
    ) -> AsyncIterator[Subscription]:
        """The changes of a watched collection from now on. `Unavailable` when the stream does not open."""
        if collection not in self.watched:
            raise ValueError(f"{collection} is not watched")
        subscription = Subscription(wanted, waiting_max)
        self._subscribers[collection].add(subscription)
        try:
            await self._opened()
            yield subscription
        finally:
            self._subscribers[collection].discard(subscription)

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
                yield Change(collection, kind, event["documentKey"]["_id"], event.get("fullDocument") or {})

    def pipeline(self) -> list[Document]:
        """What the server sends: the watched kinds of the watched collections, with the watched fields only."""
        alternatives: list[Document] = [
            {"ns.coll": each.collection, "operationType": {"$in": list(each.kinds)}, **each.where} for each in self.watched.values()
        ]
        fields = {f"fullDocument.{field}": 1 for each in self.watched.values() for field in each.fields}
        shown = {"operationType": 1, "ns": 1, "documentKey": 1, **fields}
        return [{"$match": {"$or": [*alternatives, {"operationType": "invalidate"}]}}, {"$project": shown}]

    @property
    def _full_document(self) -> str | None:
        looked_up = any(each.fields and "update" in each.kinds for each in self.watched.values())
        return "updateLookup" if looked_up else None

    def _hand_out(self, change: Change) -> None:
        for subscription in tuple(self._subscribers[change.collection]):
            subscription.offer(change)

    def _lost(self, why: str) -> None:
        """Begins anew from now; who subscribed must know that changes are missing."""
        self._token = None
        self._open.clear()
        for subscription in [each for several in self._subscribers.values() for each in several]:
            subscription.end(Unavailable("CHANGES_LOST", f"{why}; subscribe and read again"))
