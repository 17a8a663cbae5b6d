"""A feed: the rows of one table, told to whoever follows a subject when they are born or change, from a cursor on and as it happens.

    async for several in feed.follow(context, after, "staff_id", staff_id): ...

At least once, and the newest state. A cursor denotes a state, so that any replica goes on from it however long the stream was broken:
all that changed before its `floor` was told, and of what changed since, these versions. The floor lies REWIND behind the last change
that was told, since one that is committed later may carry an earlier time.
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
from services.kit.mongo.client import Document, Shaped
from services.kit.mongo.scoped_collection import CHANGED_AT, ScopedCollection
from services.kit.rpc.channel import CURSOR_KEY

S = TypeVar("S", bound=Struct)
IdsOf = Callable[[str], Awaitable[Iterable[str]]]
REWIND = timedelta(seconds=120)
"""How much later than its time a change may be seen: the 60 s that a transaction may live, and as much for clocks that differ."""
BATCH_MAX = 100
KNOWN_MAX = 48
"""Versions that a cursor names, those told last; others are told again after a break."""
REMEMBERED_MAX = 1_000
"""Versions that a stream remembers while it lasts."""


def feed_index(key: str, *, births: bool = False) -> IndexModel:
    """The index a feed reads by, for one of its keys. Being partial it tempts no query that does not ask for a time."""
    if births:
        return IndexModel([(key, ASCENDING), ("_id", ASCENDING)], partialFilterExpression={"_id": {"$gt": ""}})
    order = [(CHANGED_AT, ASCENDING), ("_id", ASCENDING)]
    return IndexModel([(key, ASCENDING), *order], partialFilterExpression={CHANGED_AT: {"$exists": True}})


class Cursor(Struct, frozen=True, array_like=True):
    """What a client was told: of which feed and subject, all that changed before `floor`, and these versions by the ids' digests."""

    feed: str
    subject: str
    floor: Annotated[datetime, Meta(tz=True)]
    known: dict[int, int] = {}


class FeedItem(NamedTuple):
    """A row as it is now, and the cursor to go on from."""

    row: Shaped
    cursor: str


class ResumePoint:
    """Where one stream stands: its cursor, as it moves on."""

    def __init__(self, cursor: Cursor) -> None:
        self.feed, self.subject, self.floor = cursor.feed, cursor.subject, cursor.floor
        self._known = {digest: (version, cursor.floor + REWIND) for digest, version in cursor.known.items()}

    @property
    def token(self) -> str:
        """The cursor of this place."""
        named = islice(reversed(self._known.items()), KNOWN_MAX)
        known = {digest: version for digest, (version, _) in reversed(list(named))}
        return pagination.token(Cursor(self.feed, self.subject, self.floor, known))

    def note(self, id: str, version: int, at: datetime) -> bool:
        """Notes that this version of a row is told; False when it, or a later one, was already."""
        digest = int.from_bytes(blake2b(id.encode(), digest_size=8).digest())
        if digest in self._known and self._known[digest][0] >= version:
            return False
        self._known.pop(digest, None)
        self._known[digest] = (version, at)
        if len(self._known) > REMEMBERED_MAX:
            del self._known[next(iter(self._known))]
        return True

    def rise(self, floor: datetime) -> None:
        """All that changed before this was told."""
        if floor > self.floor:
            self.floor = floor
            self._known = {digest: (version, at) for digest, (version, at) in self._known.items() if at >= floor}


class ChangeFeed(Generic[S]):
    """The feed of a table over the process's watch; `keys` are the fields that may name a subject.

    Rows are told when they are born and when they change; their table is stamped. With `born_as`, the prefix of their ids, they are told
    once, when they are born.

    A subject may be one thing under several ids: `ids_of` says which, and `until` watches where that is written, by the same ids. Such a
    change ends its streams without a refusal: whoever comes again is asked anew who they are and what they may see.
    """

    def __init__(
        self,
        watch: ChangeStreamHub,
        table: ScopedCollection[S],
        *,
        keys: tuple[str, ...],
        born_as: str = "",
        ids_of: IdsOf | None = None,
        until: WatchedCollection | None = None,
    ) -> None:
        self.watch, self.table, self.born_as, self.ids_of = watch, table, born_as, ids_of
        watch.add(WatchedCollection(table.name, keys=keys, kinds=("insert",) if born_as else ("insert", "update", "replace")))
        if until is not None:
            watch.add(until)
        self.collections = (table.name,) if until is None else (table.name, until.collection)
        self.order = [("_id", 1)] if born_as else [(CHANGED_AT, 1), ("_id", 1)]
        shown = {"_version": "$version", "_order": [f"${name}" for name, _ in self.order]}
        self.projection: Document = (table.projection or {}) | shown

    async def follow(self, context: Any, after: str, field: str, subject: str) -> AsyncGenerator[Sequence[FeedItem], None]:
        """The rows in the caller's scope whose `field` names the subject, a few at a time; it ends only by `until` or a refusal.

        The cursor to go on from before the first of them goes ahead, as the stream's initial metadata.
        """
        place = self._begin(after, subject, field)
        values = await self._ids(subject)
        where: Document = {field: {"$in": values}}
        async with self.watch.subscribe(*self.collections, keys=values) as changes:
            if self.ids_of and await self._ids(subject) != values:
                return
            async with aclosing(self._earlier(place, where, changes)) as earlier:
                if not after:
                    async for _ in earlier:
                        pass
                await context.send_initial_metadata(((CURSOR_KEY, place.token),))
                async for told in earlier:
                    yield told
            async with aclosing(self._live(place, where, changes)) as live:
                async for told in live:
                    yield told

    async def _ids(self, subject: str) -> list[str]:
        return sorted(await self.ids_of(subject)) if self.ids_of else [subject]

    def _begin(self, after: str, subject: str, field: str) -> ResumePoint:
        """The place a cursor denotes, or now; `Invalid` for a cursor that is not of this feed and subject."""
        feed = f"{self.table.name}:{field}"
        if not after:
            return ResumePoint(Cursor(feed, subject, clock.real() - REWIND))
        cursor = pagination.opened(after, Cursor)
        if cursor is None or (cursor.feed, cursor.subject) != (feed, subject) or cursor.floor > clock.real():
            raise Invalid("INVALID_CURSOR", "this cursor is not one of this stream; begin without one", field="after")
        return ResumePoint(cursor)

    async def _earlier(self, place: ResumePoint, where: Document, changes: Subscription) -> AsyncGenerator[Sequence[FeedItem], None]:
        """What changed since the place's floor and is not known, in that order; what is seen later than now is still to come."""
        now = clock.real()
        since: Document = {self.order[0][0]: {"$gte": ids.least(self.born_as, place.floor) if self.born_as else place.floor}}
        while True:
            async with self.table.database.session(after=changes.after) as session:
                rows = await self.table.find(
                    {"$and": [where, since]},
                    sort=self.order,
                    # By the subject: by the time alone it would read everybody's.
                    hint=[(field, 1) for field in where] + self.order,
                    limit=BATCH_MAX,
                    session=session,
                    projection=self.projection,
                )
            more = len(rows) == BATCH_MAX and pagination.after(self.order, rows[-1]["_order"])
            if told := self._told(place, rows, now, floor_max=now - REWIND):
                yield told
            if not more:
                return
            since = more

    async def _live(self, place: ResumePoint, where: Document, changes: Subscription) -> AsyncGenerator[Sequence[FeedItem], None]:
        """What changes from the subscription on, each batch of it read anew as the caller may see it."""
        while True:
            batch = await changes.some(BATCH_MAX)
            if any(change.collection != self.table.name for change in batch):
                return
            # Whatever is committed later than the first of these carries no earlier time.
            place.rise(batch[0].at.as_datetime() - REWIND)
            changed = {change.id: position for position, change in enumerate(batch)}
            query = {"$and": [{"_id": {"$in": list(changed)}}, where]}
            async with self.table.database.session(after=batch[-1].at) as session:
                rows = await self.table.find(query, limit=BATCH_MAX, session=session, projection=self.projection)
            rows.sort(key=lambda row: changed[row["id"]])
            if told := self._told(place, rows, batch[-1].at.as_datetime()):
                yield told

    def _told(self, place: ResumePoint, rows: Sequence[Document], at: datetime, *, floor_max: datetime | None = None) -> list[FeedItem]:
        """Those of the rows that are news to the client, each with its cursor. `floor_max`: they come in order, and the floor with them."""
        told = []
        for row in rows:
            version, (key, *_) = row.pop("_version"), row.pop("_order")
            if floor_max is not None:
                place.rise(min(floor_max, ids.made_at(key) if self.born_as else key))
            if place.note(row["id"], 0 if self.born_as else version, at):
                told.append(FeedItem(row, place.token))
        return told
