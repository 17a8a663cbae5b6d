"""Scoped collection: a MongoDB collection that adds the caller's scope to every query and write.

A document outside of the scope is `NotFound`, even for a caller who knows its id.
"""

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
from services.kit.mongo.client import Database, Document, MessageDocument, Session, ensure_indexes
from services.kit.security.caller import Reach, current_caller
from services.kit.values.event import Event

S = TypeVar("S", bound=Struct)
Page = tuple[list[MessageDocument], PageInfo]
"""The documents of a page, and its page info."""
BATCH_MAX = 500
"""A batch read takes at most this many ids."""
FIND_MAX = 10_000
"""A query returns at most this many documents."""
NOTHING: Document = {"_id": {"$in": []}}
"""The filter that matches no document."""
CHANGED_AT = "changed_at"
"""The field with the time of the last write, by the machine's clock. A caller's clock offset does not move it."""


class Transaction(Protocol):
    """What a write needs of its unit of work: the session, and a method to publish events."""

    @property
    def session(self) -> Session: ...

    def publish(self, *events: Event) -> None: ...


class ScopedCollection(Generic[S]):
    """The documents of one noun: `struct` is their type in rules, `message` their type in responses.

    - `noun` names a document in reasons and messages: ORDER gives ORDER_NOT_FOUND and ORDER_EXISTS.
    - `scopes` names, for each kind of scope, the fields with the id that a document belongs to. A document is in scope if one of these
      ids is in the caller's reach.
    - `public` documents are readable by every caller and writable within scope.
    - `shard_key` is the key that the collection is sharded by; hot queries carry it.
    - `records_change_time` adds the field CHANGED_AT to each write; a change feed reads by it.
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
        records_change_time: bool = False,
        scoped: bool = True,
    ) -> None:
        self.database, self.name, self.noun, self.struct, self.message = database, name, noun, struct, message
        self.scopes = {kind: (paths,) if isinstance(paths, str) else paths for kind, paths in scopes.items()}
        self.public, self.indexes, self.shard_key, self.scoped = public, indexes, shard_key, scoped
        self.records_change_time = records_change_time
        self.projection = codec.projection(message.DESCRIPTOR) if message else None

    @property
    def collection(self) -> Any:
        """The driver's collection, for aggregations. Their first stage must contain `scope()`."""
        return self.database[self.name]

    @property
    def unscoped(self) -> "ScopedCollection[S]":
        """The same collection without the caller's scope, for effects of events and for documents that a rule has already permitted."""
        return ScopedCollection(
            self.database, self.name, noun=self.noun, struct=self.struct, message=self.message, scopes=self.scopes, public=self.public,
            indexes=self.indexes, shard_key=self.shard_key, records_change_time=self.records_change_time, scoped=False,
        )  # fmt: skip

    async def prepare(self) -> None:
        """Creates the collection and its missing indexes."""
        await ensure_indexes(self.collection, *self.indexes)

    def caller_reach(self) -> Reach:
        """Returns the ids that the caller reaches in this collection; a subclass may narrow it."""
        return current_caller().reach

    def scope(self, *, writing: bool = False) -> Document:
        """Returns the filter for the documents in the caller's scope; empty for an unrestricted caller."""
        if not self.scoped or current_caller().is_unrestricted or (self.public and not writing):
            return {}
        reach = self.caller_reach()
        alternatives = [{path: {"$in": sorted(ids)}} for kind, paths in self.scopes.items() if (ids := reach.get(kind)) for path in paths]
        if not alternatives:
            return NOTHING
        return alternatives[0] if len(alternatives) == 1 else {"$or": alternatives}

    def restrict(self, query: Document, *, writing: bool = False) -> Document:
        """Returns `query` with the caller's scope added. A query for one id in the caller's reach needs no addition."""
        scope = self.scope(writing=writing)
        return {"$and": [query, scope]} if scope and not self._names_reachable_id(query) else query

    def _names_reachable_id(self, query: Document) -> bool:
        reach = self.caller_reach()
        named = [(kind, query[path]) for kind, paths in self.scopes.items() for path in paths if isinstance(query.get(path), str)]
        return any(id in reach.get(kind, frozenset()) for kind, id in named)

    # reading ---------------------------------------------------------------------------------------------------------

    async def get(self, id: str, *, session: Session = None) -> MessageDocument:
        """Returns one document, shaped like the message; `NotFound` if it does not exist in scope."""
        document: MessageDocument = await self.collection.find_one(self.restrict({"_id": id}), self.projection, session=session)
        if document is None:
            raise self.not_found(id)
        return document

    async def load(self, id: str, *, session: Session = None, writing: bool = False) -> S:
        """Returns one document as the struct of the rules; `NotFound` if it does not exist in scope."""
        document: Document | None = await self.collection.find_one(self.restrict({"_id": id}, writing=writing), session=session)
        if document is None:
            raise self.not_found(id)
        return codec.to_struct(document, self.struct)

    async def batch(self, ids: Sequence[str], *, projection: Document | None = None) -> list[MessageDocument]:
        """Returns the documents with these ids (at most BATCH_MAX) that exist in scope, in any order."""
        if len(ids) > BATCH_MAX:
            raise errors.Invalid(
                "BATCH_TOO_LARGE", f"`ids` has more than {BATCH_MAX} entries. Split it into several requests.", field="ids"
            )
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
    ) -> list[MessageDocument]:
        """Returns at most `limit` matching documents in scope. `hint` names the index to use; `collation` compares text."""
        cursor = self.collection.find(self.restrict(query), projection or self.projection, session=session).limit(min(limit, FIND_MAX))
        if sort:
            cursor = cursor.sort(list(sort))
        if hint:
            cursor = cursor.hint(list(hint))
        if collation:
            cursor = cursor.collation(collation)
        documents: list[MessageDocument] = await cursor.to_list(limit)
        return documents

    async def page(self, query: Document, page: PageRequest, *, order: pagination.Order, collation: Collation | None = None) -> Page:
        """Returns one keyset page in `order`, to which `_id` is appended.

        A `collation` also decides what comes after the cursor; the index must have the same collation.
        """
        first, order = pagination.page_size(page), [*order, ("_id", 1)]
        if page.after:
            query = {"$and": [query, pagination.filter_after(order, pagination.decode_cursor(self.name, order, page.after))]}
        documents = await self.find(query, sort=order, limit=first + 1, projection=self._with_cursor(order), collation=collation)
        return self._to_page(documents, first)

    async def first_pages(
        self, queries: Mapping[str, Document], first: int, *, order: pagination.Order, collation: Collation | None = None
    ) -> dict[str, Page]:
        """Returns the first page of each query by its key, as `page` does; an empty page has no entry.

        One aggregation reads all pages. Each branch uses the index that its query alone would use, so the cost is that of the returned
        documents.
        """
        first, order = pagination.page_size(PageRequest(first=first)), [*order] if ("_id", -1) in order else [*order, ("_id", 1)]
        branches: list[list[Document]] = [
            [
                {"$match": self.restrict(query)},
                {"$sort": dict(order)},
                {"$limit": first + 1},
                # Branches come in no order; the members of a group keep theirs.
                {"$group": {"_id": {"$literal": key}, "documents": {"$push": "$$ROOT"}}},
            ]
            for key, query in queries.items()
        ]
        if not branches:
            return {}
        project: list[Document] = [
            {"$unwind": "$documents"},
            {"$replaceWith": {"$mergeObjects": ["$documents", {"_key": "$_id"}]}},
            {"$project": self._with_cursor(order) | {"_key": 1}},
        ]
        found: dict[str, list[MessageDocument]] = {}
        async for document in await self.database.aggregate_union(self.name, branches, then=project, collation=collation):
            found.setdefault(document.pop("_key"), []).append(document)
        return {key: self._to_page(documents, first) for key, documents in found.items()}

    def _with_cursor(self, order: pagination.Order) -> Document:
        return (self.projection or {}) | {"_cursor": [f"${field}" for field, _ in order]}

    def _to_page(self, documents: list[MessageDocument], first: int) -> Page:
        """Builds a page; one document more than the page holds proves that another page follows."""
        cursors = [document.pop("_cursor") for document in documents]
        end = pagination.encode_cursor(self.name, cursors[min(first, len(documents)) - 1]) if documents else ""
        return documents[:first], PageInfo(end_cursor=end, has_next_page=len(documents) > first)

    # writing ---------------------------------------------------------------------------------------------------------

    async def insert(self, uow: Transaction, value: S) -> MessageDocument:
        """Inserts a document and returns it shaped like the message; `Denied` if it is not in the caller's scope."""
        document = codec.to_document(value)
        self._check_scope(document)
        try:
            await self.collection.insert_one(document | self._change_time(), session=uow.session)
        except DuplicateKeyError:
            raise errors.Conflict(f"{self.noun}_EXISTS", f"This {self._label} already exists. Choose another id.") from None
        return self.project(document)

    async def apply_rule(
        self, uow: Transaction, id: str, rule: Callable[..., tuple[S, Sequence[Event]]], **arguments: Any
    ) -> MessageDocument:
        """Loads a document, calls `rule(value, **arguments)`, writes the changed value and publishes the events."""
        before = await self.load(id, session=uow.session, writing=True)
        after, events = rule(before, **arguments)
        uow.publish(*events)
        return await self.replace(uow, after, before=before)

    async def replace(self, uow: Transaction, value: S, *, before: S | None = None) -> MessageDocument:
        """Writes `value` over the document with its id and version; `Conflict` if another write came first.

        Nothing is written if `value` equals `before`.
        """
        document = codec.to_document(value)
        if before is not None and (old := codec.to_document(before)) == document:
            return self.project(old)
        self._check_scope(document)
        where, update = self.build_update(value)
        written = await self.collection.update_one(self.restrict(where, writing=True), update, session=uow.session)
        if not written.matched_count:
            raise errors.Conflict("VERSION_CHANGED", f"This {self._label} has changed since you read it. Read it again.", id=where["_id"])
        return self.project(document | {"version": where["version"] + 1})

    def build_update(self, value: S) -> tuple[Document, Document]:
        """Returns the filter and the update that write `value` over the document with its id and version.

        A group commit takes the pair as one of the `updates` of a `ChangeSet`.
        """
        document = codec.to_document(value)
        where = {name: document.pop(name) for name in ("_id", "version")}
        names = {field.encode_name for field in msgspec.structs.fields(self.struct)} - {"id", "version"}
        update: Document = {"$set": document | self._change_time(), "$inc": {"version": 1}}
        if absent := names - document.keys():
            update["$unset"] = dict.fromkeys(absent, "")
        return where, update

    def _change_time(self) -> Document:
        return {CHANGED_AT: clock.system_now()} if self.records_change_time else {}

    def project(self, document: Document) -> MessageDocument:
        """Returns a stored document as a read returns it."""
        return codec.project(document, self.message.DESCRIPTOR) if self.message else document

    def not_found(self, id: str) -> errors.NotFound:
        """Returns the refusal for an id that is not in the caller's scope."""
        return errors.NotFound(f"{self.noun}_NOT_FOUND", f"No such {self._label}, or you may not see it. Check the id.", id=id)

    @property
    def _label(self) -> str:
        return self.noun.lower().replace("_", " ")

    def _check_scope(self, document: Document) -> None:
        if not self.is_in_scope(document):
            raise errors.Denied("OUT_OF_SCOPE", f"This {self._label} is outside of your scope. Choose an owner within your scope.")

    def is_in_scope(self, document: Document) -> bool:
        """True if a stored document lies within the caller's scope."""
        caller = current_caller()
        if not self.scoped or caller.is_unrestricted:
            return True
        return any(_ids_at(document, path) & caller.reach.get(kind, frozenset()) for kind, paths in self.scopes.items() for path in paths)


def _ids_at(document: Any, path: str) -> set[str]:
    """Returns the ids at a dotted path, through lists, as MongoDB matches them."""
    head, _, rest = path.partition(".")
    if isinstance(document, list | tuple):
        return {value for item in document for value in _ids_at(item, path)}
    value = document.get(head) if isinstance(document, dict) else None
    if rest:
        return _ids_at(value, rest) if value is not None else set()
    return set(value) if isinstance(value, list | tuple) else {value} if isinstance(value, str) else set()
