"""Change feed: streams the inserted and updated documents of a subject, starting after a cursor.

    async for items in feed.follow(context, after, "staff_id", staff_id): ...

Delivery is at least once, with the current state of each document. A cursor denotes what the client has received: all changes before its
`floor`, and of the later ones these versions. So any replica can resume it, however long the stream was interrupted. The floor lies REWIND
before the last change that was sent, since a change that is committed later may have an earlier time.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from hashlib import blake2b
from itertools import islice
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

from msgspec import Meta, Struct
from pymongo import ASCENDING, IndexModel

from services.kit import clock, ids
from services.kit.errors import Invalid
from services.kit.mongo import pagination
from services.kit.mongo.change_streams import ChangeStreamHub, Subscription, WatchedCollection
from services.kit.mongo.client import Document, MessageDocument
from services.kit.mongo.scoped_collection import CHANGED_AT, ScopedCollection
from services.kit.rpc.channel import CURSOR_KEY

S = TypeVar("S", bound=Struct)
IdsOf = Callable[[str], Awaitable[Iterable[str]]]
REWIND = timedelta(seconds=120)
"""A change may become visible this much later than its time: 60 s for the longest transaction, and 60 s for differing clocks."""
BATCH_MAX = 100
"""A batch has at most this many documents."""
CURSOR_VERSIONS_MAX = 48
"""A cursor names at most this many versions, those sent last; the others are sent again after an interruption."""
STREAM_VERSIONS_MAX = 1_000
"""A stream remembers at most this many sent versions."""


def feed_index(key: str, *, inserts_only: bool = False) -> IndexModel:
    """Returns the index that a feed needs for one of its keys. It is partial, so that the planner uses it only for queries by time."""
    if inserts_only:
        return IndexModel([(key, ASCENDING), ("_id", ASCENDING)], partialFilterExpression={"_id": {"$gt": ""}})
    order = [(CHANGED_AT, ASCENDING), ("_id", ASCENDING)]
    return IndexModel([(key, ASCENDING), *order], partialFilterExpression={CHANGED_AT: {"$exists": True}})


class Cursor(Struct, frozen=True, array_like=True):
    """What a client has received of a feed and subject: all changes before `floor`, and these later versions by digest of the id."""

    feed: str
    subject: str
    floor: Annotated[datetime, Meta(tz=True)]
    versions: dict[int, int] = {}


class FeedItem(NamedTuple):
    """The current state of a document, and the cursor after it."""

    document: MessageDocument
    cursor: str


class ResumePoint:
    """The position of one stream, from which its cursors are made."""

    def __init__(self, cursor: Cursor) -> None:
        self.feed, self.subject, self.floor = cursor.feed, cursor.subject, cursor.floor
        self._versions = {digest: (version, cursor.floor + REWIND) for digest, version in cursor.versions.items()}

    @property
    def token(self) -> str:
        """The cursor of this position."""
        latest = islice(reversed(self._versions.items()), CURSOR_VERSIONS_MAX)
        versions = {digest: version for digest, (version, _) in reversed(list(latest))}
        return pagination.encode_token(Cursor(self.feed, self.subject, self.floor, versions))

    def record(self, id: str, version: int, at: datetime) -> bool:
        """Records a version as sent; False if this version or a later one was sent before."""
        digest = int.from_bytes(blake2b(id.encode(), digest_size=8).digest())
        if digest in self._versions and self._versions[digest][0] >= version:
            return False
        self._versions.pop(digest, None)
        self._versions[digest] = (version, at)
        if len(self._versions) > STREAM_VERSIONS_MAX:
            del self._versions[next(iter(self._versions))]
        return True

    def raise_floor(self, floor: datetime) -> None:
        """Records that all changes before `floor` have been sent."""
        if floor > self.floor:
            self.floor = floor
            self._versions = {digest: (version, at) for digest, (version, at) in self._versions.items() if at >= floor}


class ChangeFeed(Generic[S]):
    """The change feed of a collection; `keys` are the fields that may name a subject.

    A document is sent when it is inserted and at each update; its collection has `records_change_time`. With `inserted_prefix`, the prefix
    of the ids, a document is sent only when it is inserted.

    A subject may have several ids: `ids_of` returns them, and `until` watches the collection where they are stored, by the same ids. A
    change there ends the streams of the subject without an error; the client calls again and is authorized again.
    """

    def __init__(
        self,
        change_streams: ChangeStreamHub,
        collection: ScopedCollection[S],
        *,
        keys: tuple[str, ...],
        inserted_prefix: str = "",
        ids_of: IdsOf | None = None,
        until: WatchedCollection | None = None,
    ) -> None:
        self.change_streams, self.collection, self.inserted_prefix, self.ids_of = change_streams, collection, inserted_prefix, ids_of
        kinds = ("insert",) if inserted_prefix else ("insert", "update", "replace")
        change_streams.add(WatchedCollection(collection.name, keys=keys, kinds=kinds))
        if until is not None:
            change_streams.add(until)
        self.collections = (collection.name,) if until is None else (collection.name, until.collection)
        self.order = [("_id", 1)] if inserted_prefix else [(CHANGED_AT, 1), ("_id", 1)]
        extra = {"_version": "$version", "_order": [f"${name}" for name, _ in self.order]}
        self.projection: Document = (collection.projection or {}) | extra

    async def follow(self, context: Any, after: str, field: str, subject: str) -> AsyncGenerator[Sequence[FeedItem], None]:
        """Yields batches of documents in the caller's scope whose `field` names the subject. It ends after a change in `until`.

        The cursor of the start is sent as initial metadata, before the first document. Raises the refusals of `Subscription`.
        """
        position = self._resume_point(after, subject, field)
        ids_of_subject = await self._ids(subject)
        where: Document = {field: {"$in": ids_of_subject}}
        async with self.change_streams.subscribe(*self.collections, keys=ids_of_subject) as changes:
            if self.ids_of and await self._ids(subject) != ids_of_subject:
                return
            async with aclosing(self._past_changes(position, where, changes)) as past:
                if not after:
                    async for _ in past:
                        pass
                await context.send_initial_metadata(((CURSOR_KEY, position.token),))
                async for items in past:
                    yield items
            async with aclosing(self._live_changes(position, where, changes)) as live:
                async for items in live:
                    yield items

    async def _ids(self, subject: str) -> list[str]:
        return sorted(await self.ids_of(subject)) if self.ids_of else [subject]

    def _resume_point(self, after: str, subject: str, field: str) -> ResumePoint:
        """Returns the position of a cursor, or the present; `Invalid` if the cursor is not of this feed and subject."""
        feed = f"{self.collection.name}:{field}"
        if not after:
            return ResumePoint(Cursor(feed, subject, clock.system_now() - REWIND))
        cursor = pagination.decode_token(after, Cursor)
        if cursor is None or (cursor.feed, cursor.subject) != (feed, subject) or cursor.floor > clock.system_now():
            raise Invalid("INVALID_CURSOR", "`after` is not a cursor of this stream. Start without a cursor.", field="after")
        return ResumePoint(cursor)

    async def _past_changes(
        self, position: ResumePoint, where: Document, changes: Subscription
    ) -> AsyncGenerator[Sequence[FeedItem], None]:
        """Yields the changes since the floor that were not sent, in order of time, up to now."""
        now = clock.system_now()
        since: Document = {
            self.order[0][0]: {"$gte": ids.lower_bound(self.inserted_prefix, position.floor) if self.inserted_prefix else position.floor}
        }
        while True:
            async with self.collection.database.session(after=changes.after) as session:
                documents = await self.collection.find(
                    {"$and": [where, since]},
                    sort=self.order,
                    # An index that starts with the subject: by time alone it would read the documents of all subjects.
                    hint=[(field, 1) for field in where] + self.order,
                    limit=BATCH_MAX,
                    session=session,
                    projection=self.projection,
                )
            more = len(documents) == BATCH_MAX and pagination.filter_after(self.order, documents[-1]["_order"])
            if items := self._new_items(position, documents, now, floor_max=now - REWIND):
                yield items
            if not more:
                return
            since = more

    async def _live_changes(
        self, position: ResumePoint, where: Document, changes: Subscription
    ) -> AsyncGenerator[Sequence[FeedItem], None]:
        """Yields the changes since the subscription started. Each batch is read from the collection, in the scope of the caller."""
        while True:
            batch = await changes.next_batch(BATCH_MAX)
            if any(change.collection != self.collection.name for change in batch):
                return
            # A change that is committed after the first of these has no earlier time than this.
            position.raise_floor(batch[0].at.as_datetime() - REWIND)
            changed = {change.id: position for position, change in enumerate(batch)}
            query = {"$and": [{"_id": {"$in": list(changed)}}, where]}
            async with self.collection.database.session(after=batch[-1].at) as session:
                documents = await self.collection.find(query, limit=BATCH_MAX, session=session, projection=self.projection)
            documents.sort(key=lambda document: changed[document["id"]])
            if items := self._new_items(position, documents, batch[-1].at.as_datetime()):
                yield items

    def _new_items(
        self, position: ResumePoint, documents: Sequence[Document], at: datetime, *, floor_max: datetime | None = None
    ) -> list[FeedItem]:
        """Returns the documents that were not sent, each with its cursor.

        With `floor_max` the documents are in order of time, and each raises the floor up to it.
        """
        items = []
        for document in documents:
            version, (key, *_) = document.pop("_version"), document.pop("_order")
            if floor_max is not None:
                position.raise_floor(min(floor_max, ids.created_at(key) if self.inserted_prefix else key))
            if position.record(document["id"], 0 if self.inserted_prefix else version, at):
                items.append(FeedItem(document, position.token))
        return items
