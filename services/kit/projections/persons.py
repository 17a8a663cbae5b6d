"""`link_view`: which consumer ids are one person, kept by the events ConsumerLinked and ConsumerUnlinked.

Whatever a service keeps stands under the id it was told with and is gathered over a person's ids when it is asked for: linking and
unlinking move nothing else, and an undone link leaves each id what it had.

A row per id that was ever linked or linked to: {_id, parent_id, at, person_id, version}. `person_id` is what following the parents
comes to, so that a person is found by index. Each event also raises the version of the persons' own rows it reasons about: of two events
about one person applied at once, one meets a write conflict and is applied anew on what the other left.
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
"""Rows of one person; member lets a person be 50 consumers, and events that are under way may join two such for a moment."""


class LinkView(Struct, frozen=True):
    """What is known of an id's place."""

    id: str
    person_id: str
    parent_id: str | None = None
    at: datetime = datetime.min.replace(tzinfo=UTC)
    version: int = 1


class Person(Struct, frozen=True):
    """A person: the id that stands for them, and all ids that resolve to it (itself included)."""

    id: str
    ids: frozenset[str]


class PersonProjection:
    """Looks persons up, and keeps what events say of them."""

    def __init__(self, database: Database) -> None:
        self.table: ScopedCollection[LinkView] = ScopedCollection(
            database, "link_view", noun="LINK", struct=LinkView, scopes={}, indexes=[IndexModel([("person_id", ASCENDING)])], scoped=False
        )

    async def of(self, consumer_id: str, session: Session = None) -> Person:
        """The person behind a consumer id; an id that was never linked is its own person."""
        return (await self.behind([consumer_id], session))[consumer_id]

    async def behind(self, consumer_ids: Iterable[str], session: Session = None) -> dict[str, Person]:
        """The persons behind consumer ids, by these ids."""
        asked, collection = sorted(set(consumer_ids)), self.table.collection
        rows = collection.find({"_id": {"$in": asked}}, {"person_id": 1}, session=session)
        persons: dict[str, str] = {row["_id"]: row["person_id"] async for row in rows}
        ids = {person_id: {person_id} for person_id in persons.values()}
        if ids:
            async for row in collection.find({"person_id": {"$in": sorted(ids)}}, {"person_id": 1}, session=session):
                ids[row["person_id"]].add(row["_id"])
        found = {person_id: Person(person_id, frozenset(all_ids)) for person_id, all_ids in ids.items()}
        return {id: found[persons[id]] if id in persons else Person(id, frozenset({id})) for id in asked}

    async def filters(self, asked: Sequence[Mapping[str, str]]) -> list[Document]:
        """A filter for the rows of all that each names by a field's value: those of a `consumer_id` stand under any id of the person."""
        consumer_ids = [named["consumer_id"] for named in asked if "consumer_id" in named]
        persons = await self.behind(consumer_ids) if consumer_ids else {}
        return [
            {name: {"$in": sorted(persons[value].ids)} if name == "consumer_id" else value for name, value in named.items()}
            for named in asked
        ]

    async def linked(self, uow: UnitOfWork, event: events_pb2.Event) -> None:
        """The handler of ConsumerLinked."""
        told = event.consumer_linked
        await self._keep(uow, told.linked_consumer_id, told.consumer_id, linking=True)

    async def unlinked(self, uow: UnitOfWork, event: events_pb2.Event) -> None:
        """The handler of ConsumerUnlinked."""
        told = event.consumer_unlinked
        await self._keep(uow, told.linked_consumer_id, told.consumer_id, linking=False)

    async def _keep(self, uow: UnitOfWork, id: str, parent_id: str, *, linking: bool) -> None:
        rows = await self._around(id, parent_id, uow.session)
        parents = {row["_id"]: row["parent_id"] for row in rows.values() if row.get("parent_id")}
        before = Link(id, rows[id].get("parent_id"), rows[id]["at"]) if id in rows and "at" in rows[id] else None
        after = links.relink(before, Link(id, parent_id, uow.at)) if linking else links.unlink(before, parent_id, Link(id, None, uow.at))
        touched = {links.person_of(id, parents), links.person_of(parent_id, parents), id}
        if after.parent_id:
            parents[id] = after.parent_id
        else:
            parents.pop(id, None)
        touched |= {links.person_of(id, parents)}
        writes = []
        for each in rows.keys() | touched:
            values: Document = {"person_id": links.person_of(each, parents)}
            if each == id:
                values |= {"parent_id": after.parent_id, "at": after.at}
            if each in touched or rows[each]["person_id"] != values["person_id"]:
                writes.append(UpdateOne({"_id": each}, {"$set": values, "$inc": {"version": 1}}, upsert=True))
        await self.table.collection.bulk_write(writes, ordered=False, session=uow.session)

    async def _around(self, id: str, parent_id: str, session: Session) -> dict[str, Document]:
        """All rows of the one or two persons that these ids belong to."""
        own = await self.table.find({"_id": {"$in": [id, parent_id]}}, limit=2, session=session)
        persons = [id, parent_id, *(row["person_id"] for row in own)]
        rows = await self.table.find({"person_id": {"$in": persons}}, limit=2 * IDS_MAX, session=session)
        return {row["_id"]: row for row in [*own, *rows]}
