"""Consumers, identities and links as they are kept. Rows of one person share what `rules.arranged` derives, written together."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from pymongo import ASCENDING, DESCENDING, IndexModel, ReplaceOne, UpdateMany, UpdateOne

from quanyu.member.v1 import identity_pb2
from services.kit import ids
from services.kit.enums import ScopeKind
from services.kit.errors import Refusal, under
from services.kit.mongo.change_streams import WatchedCollection
from services.kit.mongo.client import Document, Session
from services.kit.mongo.codec import as_document, as_struct
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.runtime.runtime import Runtime
from services.kit.security.authorization import caller
from services.kit.security.encryption import FieldEncryption
from services.kit.transactions.unit_of_work import UnitOfWork
from services.member.identity import rules
from services.member.identity.enums import IdentityKind
from services.member.identity.registration import Book, Entered, Entry, Given
from services.member.identity.rules import Consumer, Identity, Link, NewIdentity, Registration, Served

LINKS_SHOWN_MAX = 100


class People(Struct, frozen=True):
    """Who is who among some consumers. An id nobody registered stands for itself."""

    persons: Mapping[str, str]
    members: Mapping[str, list[str]]

    def person_of(self, id: str) -> str:
        return self.persons.get(id, id)

    def ids_of(self, id: str) -> list[str]:
        """All consumer ids of the person `id` belongs to."""
        return self.members.get(self.person_of(id), [id])


class ConsumerRepository:
    """The people of this installation."""

    def __init__(self, runtime: Runtime) -> None:
        self.encryption: FieldEncryption = runtime.encryption
        self.table = ScopedCollection(
            runtime.database,
            "consumers",
            noun="CONSUMER",
            struct=Consumer,
            scopes={
                ScopeKind.CONSUMER: "_id",
                ScopeKind.BRAND: "known_to",
                ScopeKind.STORE: "served.store_id",
                ScopeKind.STAFF: "served.staff_id",
            },
            indexes=[IndexModel([("person_id", ASCENDING)])],
        )
        self.identities = ScopedCollection(
            runtime.database,
            "identities",
            noun="IDENTITY",
            struct=Identity,
            message=identity_pb2.Identity,
            scopes={ScopeKind.CONSUMER: "consumer_id", ScopeKind.BRAND: "brand_ids"},
            indexes=[
                IndexModel([("hash", ASCENDING)], unique=True, partialFilterExpression={"stands": True}),
                IndexModel([("consumer_id", ASCENDING), ("created_at", ASCENDING)]),
            ],
        )
        # Who is one person changes with a link that is made or undone, and with nothing else.
        self.relinked = WatchedCollection("links", keys=("consumer_id", "linked_consumer_id"), kinds=("insert", "update"))
        self.links = ScopedCollection(
            runtime.database,
            "links",
            noun="LINK",
            struct=Link,
            message=identity_pb2.Link,
            scopes={ScopeKind.CONSUMER: ("consumer_id", "linked_consumer_id")},
            indexes=[
                IndexModel([("consumer_id", ASCENDING), ("linked_at", DESCENDING)]),
                IndexModel([("linked_consumer_id", ASCENDING), ("linked_at", DESCENDING)]),
            ],
        )

    # who is who ------------------------------------------------------------------------------------------------------

    async def people(self, consumer_ids: Iterable[str], session: Session = None) -> People:
        """The people behind these consumers, whatever the caller reaches."""
        query = {"_id": {"$in": sorted(set(consumer_ids))}}
        rows = self.table.collection.find(query, {"person_id": 1}, session=session)
        persons = {row["_id"]: row["person_id"] async for row in rows}
        members: dict[str, list[str]] = {}
        query = {"person_id": {"$in": sorted(set(persons.values()))}}
        async for row in self.table.collection.find(query, {"person_id": 1}, session=session):
            members.setdefault(row["person_id"], []).append(row["_id"])
            persons[row["_id"]] = row["person_id"]
        return People(persons, members)

    async def ids_of(self, consumer_id: str) -> list[str]:
        """All consumer ids of the person one belongs to, whatever the caller reaches."""
        return (await self.people([consumer_id])).ids_of(consumer_id)

    async def rows(self, person_ids: Iterable[str], session: Session = None) -> list[Consumer]:
        """All rows of these people, whatever the caller reaches."""
        found = self.table.collection.find({"person_id": {"$in": sorted(set(person_ids))}}, session=session)
        return [as_struct(row, Consumer) async for row in found]

    async def known(self, id: str, brand_id: str, session: Session = None) -> Consumer:
        """A consumer the brand knows, or the caller's own; CONSUMER_NOT_FOUND otherwise."""
        found = await self.all_known([id], brand_id, session)
        if id not in found:
            raise rules.missing(id)
        return found[id]

    async def all_known(self, ids: Iterable[str], brand_id: str, session: Session = None) -> dict[str, Consumer]:
        """Those of these consumers whom the brand knows or who are the caller; an operator or service may name anybody."""
        rows = self.table.collection.find({"_id": {"$in": sorted(set(ids))}}, session=session)
        found = [as_struct(row, Consumer) async for row in rows]
        return {row.id: row for row in found if brand_id in row.known_to or caller().reaches(ScopeKind.CONSUMER, row.id)}

    async def persons_within_reach(self, ids: Iterable[str]) -> dict[str, str]:
        """Those of these consumers whom the caller reaches, with the person each belongs to."""
        query = self.table.within({"_id": {"$in": sorted(set(ids))}})
        return {row["_id"]: row["person_id"] async for row in self.table.collection.find(query, {"person_id": 1})}

    async def reached(self, id: str, session: Session = None) -> Consumer:
        """A consumer within the caller's scope; CONSUMER_NOT_FOUND otherwise."""
        row = await self.table.collection.find_one(self.table.within({"_id": id}), session=session)
        if row is None:
            raise rules.missing(id)
        return as_struct(row, Consumer)

    async def served_brands(self, consumer_ids: Iterable[str]) -> dict[str, set[str]]:
        """Per consumer the brands for which the caller, or the caller's store, looks after them."""
        who = caller()
        if who.everywhere or not (who.reach.get(ScopeKind.STORE) or who.reach.get(ScopeKind.STAFF)):
            return {}
        query = self.table.within({"_id": {"$in": sorted(set(consumer_ids))}})
        brands: dict[str, set[str]] = {}
        async for row in self.table.collection.find(query, {"served": 1}):
            for one in row.get("served", []):
                if who.reaches(ScopeKind.STORE, one["store_id"]) or who.reaches(ScopeKind.STAFF, one["staff_id"]):
                    brands.setdefault(row["_id"], set()).add(one["brand_id"])
        return brands

    async def readable(
        self, table: ScopedCollection[Any], queries: Mapping[str, Document], members: Mapping[str, Sequence[str]]
    ) -> dict[str, Document]:
        """Queries for rows of one person each (by the same key all ids of that person) in a table that is scoped by brand and consumer,
        narrowed to what the caller may read: they are put to the table `unscoped`.

        The person reads all of their own rows, staff what belongs to the brands for which they, or their store, look after the
        person; everybody else keeps the scope.
        """
        served = await self.served_brands({id for ids in members.values() for id in ids})
        own = caller().reach.get(ScopeKind.BRAND, frozenset())
        found = {}
        for key, query in queries.items():
            theirs = [served[id] for id in members[key] if id in served]
            if is_self(members[key]):
                found[key] = query
            elif theirs:
                found[key] = {"$and": [query, {"brand_id": {"$in": sorted(own.union(*theirs))}}]}
            else:
                found[key] = table.within(query)
        return found

    # registering -----------------------------------------------------------------------------------------------------

    def entry(self, registration: Registration, brand_id: str) -> Entry:
        """A registration with its personal values hashed and encrypted; `Invalid` when one cannot be."""
        name = self.encryption.encrypt(registration.display_name) if registration.display_name else None
        given: list[Given] = []
        for place, identity in enumerate(registration.identities):
            with under(f"identities[{place}]"):
                given.append(self.given(identity, brand_id))
        return Entry(registration, given, name)

    def given(self, identity: NewIdentity, brand_id: str) -> Given:
        """An identity with its look-up hashes and its ciphertext; a refusal when it cannot be, or not by this caller."""
        rules.may_give(identity.kind, everywhere=caller().everywhere)
        claim = rules.claim(identity, brand_id)
        return Given(claim, self.encryption.hashes(claim.kind, claim.hashed), self.encryption.encrypt(claim.value))

    async def register(self, uow: UnitOfWork, entries: Sequence[Entry], brand_id: str, *, linking: bool = False) -> list[Entered | Refusal]:
        """Enters registrations one after the other: each sees the ones before it. What cannot be is answered, not raised.

        `linking`: see `Book.enter`.
        """
        named = [entry.registration.consumer_id for entry in entries if entry.registration.consumer_id]
        book = await self._book(uow, [given for entry in entries for given in entry.given], named)
        answers: list[Entered | Refusal] = []
        for entry in entries:
            try:
                everywhere = uow.caller.everywhere
                answers.append(book.enter(entry, brand_id, uow.at, everywhere=everywhere, new_id=ids.new, linking=linking))
            except Refusal as refusal:
                answers.append(refusal)
        await self._save(uow, book)
        return answers

    async def sign_up(self, uow: UnitOfWork, entry: Entry, brand_id: str) -> Entered:
        """Enters what staff of a store give: somebody their brand knows, who stays as they are, or else somebody new.

        Whether others know them shows in nothing: not in the answer, nor in what is kept.
        """
        sought = [replace(given, claim=replace(given.claim, stands=True)) for given in entry.given]
        book = await self._book(uow, sought, [])
        if found := book.known(sought, brand_id):
            return Entered(found.person_id, found.id, False, [])
        given = [replace(given, claim=rules.unproved(given.claim)) for given in entry.given]
        entered = book.enter(replace(entry, given=given), brand_id, uow.at, everywhere=False, new_id=ids.new)
        await self._save(uow, book)
        return entered

    async def add(self, uow: UnitOfWork, consumer_id: str, given: Given, brand_id: str) -> tuple[str, bool]:
        """Adds an identity to a consumer; its id and whether it is new."""
        book = await self._book(uow, [given], [consumer_id])
        answer = book.add(consumer_id, given, brand_id, uow.at, ids.new)
        await self._save(uow, book)
        return answer

    async def _book(self, uow: UnitOfWork, all_given: Sequence[Given], named: Sequence[str]) -> Book:
        """Everybody these identities and ids may mean, whole."""
        hashes = sorted({hash for given in all_given if given.claim.stands for hash in given.hashes})
        standing = self.identities.collection.find({"hash": {"$in": hashes}, "stands": True}, {"consumer_id": 1}, session=uow.session)
        touched = {row["consumer_id"] async for row in standing} | set(named)
        persons = self.table.collection.find({"_id": {"$in": sorted(touched)}}, {"person_id": 1}, session=uow.session)
        rows = await self.rows([row["person_id"] async for row in persons], uow.session)
        held = self.identities.collection.find({"consumer_id": {"$in": sorted(row.id for row in rows)}}, session=uow.session)
        return Book(rows, [as_struct(row, Identity) async for row in held])

    async def _save(self, uow: UnitOfWork, book: Book) -> None:
        consumers, identities = book.changed()
        for table, rows in ((self.table, consumers), (self.identities, identities)):
            if rows:
                await table.collection.bulk_write([_written(as_document(row)) for row in rows], ordered=False, session=uow.session)

    # people change ---------------------------------------------------------------------------------------------------

    async def rearrange(self, uow: UnitOfWork, rows: Sequence[Consumer], parents: rules.Parents | None = None) -> list[Consumer]:
        """Writes the rows of whole people as they follow from `parents` and from what each owns; every row, so that writers meet."""
        after = rules.arranged(rows, parents)
        await self.table.collection.bulk_write([_written(as_document(row)) for row in after], ordered=False, session=uow.session)
        return after

    async def meet(self, uow: UnitOfWork, met: Mapping[str, set[str]], people: People) -> None:
        """Notes that consumers had their first interaction with brands, which know them from now on."""
        operations: list[UpdateOne | UpdateMany] = []
        for id, brands in met.items():
            each = {"$each": sorted(brands)}
            operations.append(UpdateOne({"_id": id}, {"$addToSet": {"met_ids": each, "known_to": each}, "$inc": {"version": 1}}))
            if len(people.ids_of(id)) > 1:
                operations.append(UpdateMany({"person_id": people.person_of(id)}, {"$addToSet": {"known_to": each}}))
        if operations:
            await self.table.collection.bulk_write(operations, session=uow.session)

    async def serve(self, uow: UnitOfWork, bound: Mapping[str, Sequence[Served]], brand_id: str) -> None:
        """Notes who looks after consumers for a brand from now on (nobody: an empty sequence)."""
        people = await self.people(bound, uow.session)
        rows = await self.rows({people.person_of(id) for id in bound}, uow.session)
        if rows:
            await self.rearrange(uow, [rules.served_by(row, brand_id, bound[row.id]) if row.id in bound else row for row in rows])

    # looking up ------------------------------------------------------------------------------------------------------

    async def by_identity(self, identity: NewIdentity) -> str | None:
        """The consumer an identity that joins people stands for."""
        claim = rules.claim(identity, "")
        query = {"hash": {"$in": self.encryption.hashes(claim.kind, claim.hashed)}, "stands": True}
        row: Document | None = await self.identities.collection.find_one(query, {"consumer_id": 1})
        return row["consumer_id"] if row else None

    async def links_of(self, people: Mapping[str, Sequence[str]]) -> dict[str, list[Document]]:
        """The latest links of each of these people (all consumer ids of a person by whom it is), whatever the caller reaches."""
        queries: dict[str, Document] = {
            person: {"$or": [{"consumer_id": {"$in": ids}}, {"linked_consumer_id": {"$in": ids}}]} for person, ids in people.items()
        }
        found = await self.links.unscoped.first_pages(queries, LINKS_SHOWN_MAX, order=[("linked_at", -1), ("_id", -1)])
        return {person: links for person, (links, _) in found.items()}

    async def identities_of(self, consumer_ids: Iterable[str], kind: IdentityKind | None = None) -> list[Identity]:
        """Identities of these consumers, oldest first, whatever the caller reaches."""
        ids = sorted(set(consumer_ids))
        query: dict[str, Any] = {"consumer_id": {"$in": ids}}
        if kind is not None:
            query["kind"] = kind
        found = self.identities.collection.find(query).sort([("created_at", 1), ("_id", 1)]).limit(len(ids) * rules.IDENTITIES_MAX)
        return [as_struct(row, Identity) async for row in found]


def is_self(consumer_ids: Iterable[str]) -> bool:
    """Whether the caller is the person with these ids. A person who was linked reaches all of them through any."""
    return not caller().reach.get(ScopeKind.CONSUMER, frozenset()).isdisjoint(consumer_ids)


def _written(document: Document) -> ReplaceOne[Document]:
    """The row in its next version, so that even a row that stays as it is conflicts with whoever writes it meanwhile."""
    return ReplaceOne({"_id": document["_id"]}, document | {"version": document["version"] + 1}, upsert=True)
