"""Person projection `link_view`: which consumer ids are one person, from the events ConsumerLinked and ConsumerUnlinked.

A service stores each document under the consumer id that it came with, and collects the documents of all ids of a person when it reads.
So linking and unlinking change no other document, and after an unlinking each id has its own documents again.

Each id that was ever part of a link has a document {_id, parent_id, at, person_id, version}. `person_id` is the end of the chain of
parents, so that a person is found by index. An event also increments the version of the persons' documents that it depends on. So of two
concurrent events about one person, one meets a write conflict and is applied again on the result of the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from msgspec import Struct
from pymongo import ASCENDING, IndexModel, UpdateOne

from quanyu.events.v1 import events_pb2
from services.kit.mongo.client import Database, Document, Session
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.projections import links
from services.kit.projections.links import Link
from services.kit.transactions.unit_of_work import UnitOfWork

IDS_MAX = 1_000
"""A person has at most this many documents. Member allows 50 ids; events in flight may join several persons for a moment."""


class LinkView(Struct, frozen=True):
    """The link of a consumer id and the person that it resolves to."""

    id: str
    person_id: str
    parent_id: str | None = None
    at: datetime = datetime.min.replace(tzinfo=UTC)
    version: int = 1


class Person(Struct, frozen=True):
    """A person: the person's own id, and all ids that resolve to it, including itself."""

    id: str
    ids: frozenset[str]


class PersonProjection:
    """Finds persons, and handles the events that link them."""

    def __init__(self, database: Database) -> None:
        self.links: ScopedCollection[LinkView] = ScopedCollection(
            database, "link_view", noun="LINK", struct=LinkView, scopes={}, indexes=[IndexModel([("person_id", ASCENDING)])], scoped=False
        )

    async def find(self, consumer_id: str, session: Session = None) -> Person:
        """Returns the person of a consumer id; an id that was never linked is its own person."""
        return (await self.find_many([consumer_id], session))[consumer_id]

    async def find_many(self, consumer_ids: Iterable[str], session: Session = None) -> dict[str, Person]:
        """Returns the persons of consumer ids, by these ids."""
        distinct_ids, collection = sorted(set(consumer_ids)), self.links.collection
        documents = collection.find({"_id": {"$in": distinct_ids}}, {"person_id": 1}, session=session)
        persons: dict[str, str] = {document["_id"]: document["person_id"] async for document in documents}
        ids = {person_id: {person_id} for person_id in persons.values()}
        if ids:
            async for document in collection.find({"person_id": {"$in": sorted(ids)}}, {"person_id": 1}, session=session):
                ids[document["person_id"]].add(document["_id"])
        found = {person_id: Person(person_id, frozenset(all_ids)) for person_id, all_ids in ids.items()}
        return {id: found[persons[id]] if id in persons else Person(id, frozenset({id})) for id in distinct_ids}

    async def build_filters(self, field_values: Sequence[Mapping[str, str]]) -> list[Document]:
        """Builds a filter for each mapping of fields to values; a `consumer_id` matches all ids of its person."""
        consumer_ids = [values["consumer_id"] for values in field_values if "consumer_id" in values]
        persons = await self.find_many(consumer_ids) if consumer_ids else {}
        return [
            {name: {"$in": sorted(persons[value].ids)} if name == "consumer_id" else value for name, value in values.items()}
            for values in field_values
        ]

    async def handle_consumer_linked(self, uow: UnitOfWork, event: events_pb2.Event) -> None:
        """Handles ConsumerLinked."""
        link = event.consumer_linked
        await self._save(uow, link.linked_consumer_id, link.consumer_id, is_link=True)

    async def handle_consumer_unlinked(self, uow: UnitOfWork, event: events_pb2.Event) -> None:
        """Handles ConsumerUnlinked."""
        link = event.consumer_unlinked
        await self._save(uow, link.linked_consumer_id, link.consumer_id, is_link=False)

    async def _save(self, uow: UnitOfWork, id: str, parent_id: str, *, is_link: bool) -> None:
        documents = await self._load_persons(id, parent_id, uow.session)
        parents = {document["_id"]: document["parent_id"] for document in documents.values() if document.get("parent_id")}
        own = documents.get(id, {})
        before = Link(id, own.get("parent_id"), own["at"]) if "at" in own else None
        after = links.relink(before, Link(id, parent_id, uow.at)) if is_link else links.unlink(before, parent_id, Link(id, None, uow.at))
        touched = {links.person_of(id, parents), links.person_of(parent_id, parents), id}
        if after.parent_id:
            parents[id] = after.parent_id
        else:
            parents.pop(id, None)
        touched |= {links.person_of(id, parents)}
        writes = []
        for each in documents.keys() | touched:
            values: Document = {"person_id": links.person_of(each, parents)}
            if each == id:
                values |= {"parent_id": after.parent_id, "at": after.at}
            if each in touched or documents[each]["person_id"] != values["person_id"]:
                writes.append(UpdateOne({"_id": each}, {"$set": values, "$inc": {"version": 1}}, upsert=True))
        await self.links.collection.bulk_write(writes, ordered=False, session=uow.session)

    async def _load_persons(self, id: str, parent_id: str, session: Session) -> dict[str, Document]:
        """Returns all documents of the one or two persons that these ids belong to."""
        own = await self.links.find({"_id": {"$in": [id, parent_id]}}, limit=2, session=session)
        persons = [id, parent_id, *(document["person_id"] for document in own)]
        documents = await self.links.find({"person_id": {"$in": persons}}, limit=2 * IDS_MAX, session=session)
        return {document["_id"]: document for document in [*own, *documents]}
