"""A collection that adds the caller's scope to every query and write: a row outside it is not found, however its id was come by."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from google.protobuf.message import Message
from msgspec import Struct
from pymongo import IndexModel
from pymongo.collation import Collation
from pymongo.errors import DuplicateKeyError

from quanyu.common.v1.page_pb2 import PageInfo, PageRequest
from services.kit import clock, errors
from services.kit.enums import ScopeKind
from services.kit.mongo import codec, pagination
from services.kit.mongo.client import Database, Document, Session, Shaped, ensure
from services.kit.security.authorization import Reach, caller
from services.kit.values.event import Event

S = TypeVar("S", bound=Struct)
Page = tuple[list[Shaped], PageInfo]
"""Rows of a list, and what they say of themselves as its page."""
BATCH_MAX = 500
FIND_MAX = 10_000
NOTHING: Document = {"_id": {"$in": []}}
CHANGED_AT = "changed_at"
"""When a row of a stamped table was written last, by the machine's clock, whatever the caller's shows."""


class Transaction(Protocol):
    """What a write needs of its unit of work: the session, and a way to publish events."""

    @property
    def session(self) -> Session: ...

    def publish(self, *events: Event) -> None: ...


class ScopedCollection(Generic[S]):
    """Rows of one noun: `struct` is what rules know of it, `message` what reads answer with.

    `noun` names a row in reasons and messages: ORDER gives ORDER_NOT_FOUND and ORDER_EXISTS. `scopes` names, per kind of scope, the field
    (or fields) that hold the id a row belongs to. A row is in scope when one of them lies in the caller's reach. `public` rows are read
    by every caller and written within scope. `shard_key` is the key the collection shards by; hot queries carry it. Rows of a `stamped`
    table carry CHANGED_AT, by which a feed reads them.
    """

    def __init__(
        self,
        database: Database,
        name: str,
        *,
        noun: str,
        struct: type[S],
        message: type[Message] | None = None,
        scopes: Mapping[ScopeKind, str | tuple[str, ...]],
        public: bool = False,
        indexes: Sequence[IndexModel] = (),
        shard_key: str = "_id",
        stamped: bool = False,
        scoped: bool = True,
    ) -> None:
        self.database, self.name, self.noun, self.struct, self.message = database, name, noun, struct, message
        self.scopes = {kind: (paths,) if isinstance(paths, str) else paths for kind, paths in scopes.items()}
        self.public, self.indexes, self.shard_key, self.stamped, self.scoped = public, indexes, shard_key, stamped, scoped
        self.projection = codec.projection(message.DESCRIPTOR) if message else None

    @property
    def collection(self) -> Any:
        """The driver's collection, for aggregations; put `scope()` into their first stage."""
        return self.database[self.name]

    @property
    def unscoped(self) -> "ScopedCollection[S]":
        """The same table without the caller's scope: for effects of events and for rows that a rule has justified already."""
        return ScopedCollection(
            self.database, self.name, noun=self.noun, struct=self.struct, message=self.message, scopes=self.scopes, public=self.public,
            indexes=self.indexes, shard_key=self.shard_key, stamped=self.stamped, scoped=False,
        )  # fmt: skip

    async def prepare(self) -> None:
        """Creates the indexes that are missing."""
        await ensure(self.collection, *self.indexes)

    def reach(self) -> Reach:
        """What of `scopes` the caller reaches in these rows."""
        return caller().reach

    def scope(self, *, writing: bool = False) -> Document:
        """The filter that keeps the caller within their scope; empty for who reaches everything."""
        if not self.scoped or caller().everywhere or (self.public and not writing):
            return {}
        reach = self.reach()
        alternatives = [{path: {"$in": sorted(ids)}} for kind, paths in self.scopes.items() if (ids := reach.get(kind)) for path in paths]
        if not alternatives:
            return NOTHING
        return alternatives[0] if len(alternatives) == 1 else {"$or": alternatives}

    def within(self, query: Document, *, writing: bool = False) -> Document:
        """`query` and the caller's scope; what asks for one thing that the caller reaches is within it as it is."""
        scope = self.scope(writing=writing)
        return {"$and": [query, scope]} if scope and not self._reached(query) else query

    def _reached(self, query: Document) -> bool:
        reach = self.reach()
        named = [(kind, query[path]) for kind, paths in self.scopes.items() for path in paths if isinstance(query.get(path), str)]
        return any(id in reach.get(kind, frozenset()) for kind, id in named)

    # reading ---------------------------------------------------------------------------------------------------------

    async def get(self, id: str, *, session: Session = None) -> Shaped:
        """One row, shaped like the message; `NotFound` when there is none in scope."""
        row: Shaped = await self.collection.find_one(self.within({"_id": id}), self.projection, session=session)
        if row is None:
            raise self.missing(id)
        return row

    async def load(self, id: str, *, session: Session = None, writing: bool = False) -> S:
        """One row as the rules' struct; `NotFound` when there is none in scope."""
        row: Document | None = await self.collection.find_one(self.within({"_id": id}, writing=writing), session=session)
        if row is None:
            raise self.missing(id)
        return codec.as_struct(row, self.struct)

    async def batch(self, ids: Sequence[str], *, projection: Document | None = None) -> list[Shaped]:
        """Those rows of at most 500 ids that exist in scope, in no order."""
        if len(ids) > BATCH_MAX:
            raise errors.Invalid("BATCH_TOO_LARGE", f"ask for at most {BATCH_MAX} at a time", field="ids")
        return await self.find({"_id": {"$in": list(set(ids))}}, limit=BATCH_MAX, projection=projection)

    async def find(
        self,
        query: Document,
        *,
        sort: pagination.Order | None = None,
        hint: pagination.Order | None = None,
        collation: Collation | None = None,
        limit: int,
        session: Session = None,
        projection: Document | None = None,
    ) -> list[Shaped]:
        """At most `limit` rows in scope that match, read by the index `hint` if one is named, text compared by `collation`."""
        rows = self.collection.find(self.within(query), projection or self.projection, session=session).limit(min(limit, FIND_MAX))
        if sort:
            rows = rows.sort(list(sort))
        if hint:
            rows = rows.hint(list(hint))
        if collation:
            rows = rows.collation(collation)
        found: list[Shaped] = await rows.to_list(limit)
        return found

    async def page(self, query: Document, page: PageRequest, *, order: pagination.Order, collation: Collation | None = None) -> Page:
        """One keyset page in `order` (`_id` is appended) and what it says of itself.

        With a `collation` what comes after a row is what comes after it there; the index must have the same one.
        """
        first, order = pagination.size(page), [*order, ("_id", 1)]
        if page.after:
            query = {"$and": [query, pagination.after(order, pagination.values(self.name, order, page.after))]}
        rows = await self.find(query, sort=order, limit=first + 1, projection=self._with_cursor(order), collation=collation)
        return self._paged(rows, first)

    async def first_pages(
        self, queries: Mapping[str, Document], first: int, *, order: pagination.Order, collation: Collation | None = None
    ) -> dict[str, Page]:
        """For each key the first page of what its query finds, as `page` has it; where that is nothing there is no entry.

        One aggregation, each branch of which walks the index that its query alone would: it costs what is shown, not what there is.
        """
        first, order = pagination.size(PageRequest(first=first)), [*order] if ("_id", -1) in order else [*order, ("_id", 1)]
        branches: list[list[Document]] = [
            [
                {"$match": self.within(query)},
                {"$sort": dict(order)},
                {"$limit": first + 1},
                {"$group": {"_id": {"$literal": key}, "rows": {"$push": "$$ROOT"}}},  # branches come in no order, what a group has does
            ]
            for key, query in queries.items()
        ]
        if not branches:
            return {}
        shaped: list[Document] = [
            {"$unwind": "$rows"},
            {"$replaceWith": {"$mergeObjects": ["$rows", {"_key": "$_id"}]}},
            {"$project": self._with_cursor(order) | {"_key": 1}},
        ]
        found: dict[str, list[Shaped]] = {}
        async for row in await self.database.aggregate_each(self.name, branches, then=shaped, collation=collation):
            found.setdefault(row.pop("_key"), []).append(row)
        return {key: self._paged(rows, first) for key, rows in found.items()}

    def _with_cursor(self, order: pagination.Order) -> Document:
        return (self.projection or {}) | {"_cursor": [f"${field}" for field, _ in order]}

    def _paged(self, rows: list[Shaped], first: int) -> Page:
        """A page of the rows that were found, one more than it has when another follows."""
        cursors = [row.pop("_cursor") for row in rows]
        end = pagination.cursor(self.name, cursors[min(first, len(rows)) - 1]) if rows else ""
        return rows[:first], PageInfo(end_cursor=end, has_next_page=len(rows) > first)

    # writing ---------------------------------------------------------------------------------------------------------

    async def insert(self, uow: Transaction, value: S) -> Shaped:
        """A new row, answered like the message; `Denied` when it would lie outside the caller's scope."""
        document = codec.as_document(value)
        if not self.owns(document):
            raise errors.Denied("OUT_OF_SCOPE", "this would lie outside your scope; choose an owner within it")
        try:
            await self.collection.insert_one(document | self.stamp(), session=uow.session)
        except DuplicateKeyError:
            raise errors.Conflict(f"{self.noun}_EXISTS", f"this {self._shown} exists already; take another id") from None
        return self.answer(document)

    async def apply_rule(self, uow: Transaction, id: str, rule: Callable[..., tuple[S, Sequence[Event]]], **arguments: Any) -> Shaped:
        """Loads a row, lets `rule(row, **arguments)` decide, writes what changed and tells the events; answers like the message."""
        before = await self.load(id, session=uow.session, writing=True)
        after, events = rule(before, **arguments)
        uow.publish(*events)
        return await self.replace(uow, after, before=before)

    async def replace(self, uow: Transaction, value: S, *, before: S | None = None) -> Shaped:
        """Writes `value` over the row of its id and version; `Conflict` when that row changed meanwhile."""
        document = codec.as_document(value)
        if before is not None and (old := codec.as_document(before)) == document:
            return self.answer(old)
        if not self.owns(document):
            raise errors.Denied("OUT_OF_SCOPE", "this would lie outside your scope; choose an owner within it")
        where, update = self.change(value)
        written = await self.collection.update_one(self.within(where, writing=True), update, session=uow.session)
        if not written.matched_count:
            raise errors.Conflict("VERSION_CHANGED", "this has changed since you read it; read it again", id=where["_id"])
        return self.answer(document | {"version": where["version"] + 1})

    def change(self, value: S) -> tuple[Document, Document]:
        """The filter and the update that write `value` over the row of its id and version: what the group_commit takes as an update."""
        document = codec.as_document(value)
        where = {name: document.pop(name) for name in ("_id", "version")}
        names = {field.encode_name for field in msgspec.structs.fields(self.struct)} - {"id", "version"}
        update: Document = {"$set": document | self.stamp(), "$inc": {"version": 1}}
        if gone := names - document.keys():
            update["$unset"] = dict.fromkeys(gone, "")
        return where, update

    def stamp(self) -> Document:
        """What a write adds to the row: when it was, if the table is stamped."""
        return {CHANGED_AT: clock.real()} if self.stamped else {}

    def answer(self, document: Document) -> Shaped:
        """A stored document as a read would answer it."""
        return codec.shaped(document, self.message.DESCRIPTOR) if self.message else document

    def missing(self, id: str) -> errors.NotFound:
        """Returns the refusal for an id that is not in the caller's scope."""
        return errors.NotFound(f"{self.noun}_NOT_FOUND", f"this {self._shown} does not exist, or you may not see it; check its id", id=id)

    @property
    def _shown(self) -> str:
        return self.noun.lower().replace("_", " ")

    def owns(self, document: Document) -> bool:
        """Whether a row, as it is stored, lies within the caller's scope."""
        who = caller()
        if not self.scoped or who.everywhere:
            return True
        return any(_values(document, path) & who.reach.get(kind, frozenset()) for kind, paths in self.scopes.items() for path in paths)


def _values(document: Any, path: str) -> set[str]:
    """The ids at a dotted path, through lists, as Mongo would match them."""
    head, _, rest = path.partition(".")
    if isinstance(document, list | tuple):
        return {value for item in document for value in _values(item, path)}
    value = document.get(head) if isinstance(document, dict) else None
    if rest:
        return _values(value, rest) if value is not None else set()
    return set(value) if isinstance(value, list | tuple) else {value} if isinstance(value, str) else set()
