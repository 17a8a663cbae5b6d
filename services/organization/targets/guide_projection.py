"""Guide projection: the bindings of consumers and the last messages of guides, from member's events, as evidence for attribution.

`binding_view` and `outreach_view` keep each document under the consumer id of its event: {_id: "<consumer>:<brand>", …} and
{_id: "<consumer>:<brand>:<staff>", …}. A read covers all ids of a person.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC
from typing import TypeVar

from msgspec import Struct
from pymongo import UpdateOne

from quanyu.events.v1 import events_pb2
from services.kit.mongo import codec
from services.kit.mongo.client import Database, Document, Session
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.projections.persons import Person
from services.kit.transactions.unit_of_work import UnitOfWork
from services.organization.targets.rules import Binding, LastOutreach

S = TypeVar("S", bound=Struct)


class GuideProjection:
    """The guides that consumers are bound to, and the last message of each guide."""

    def __init__(self, database: Database) -> None:
        self.bindings = ScopedCollection(database, "binding_view", noun="BINDING", struct=Binding, scopes={})
        self.outreach = ScopedCollection(database, "outreach_view", noun="OUTREACH", struct=LastOutreach, scopes={})

    async def save_binding(self, uow: UnitOfWork, bound: events_pb2.ConsumerBound) -> None:
        """Saves the guide of a consumer for a brand (none, if the event names none), and ends the bindings of other ids that it names.

        Events are in order for one consumer id only, so a later event wins over what another id's event says about a binding.
        """
        since = bound.bound_at.ToDatetime(tzinfo=UTC) if bound.HasField("bound_at") else uow.at
        writes = []
        for consumer_id in (bound.consumer_id, *bound.ended_consumer_ids):
            document = {"_id": f"{consumer_id}:{bound.brand_id}", "consumer_id": consumer_id, "brand_id": bound.brand_id, "told_at": uow.at}
            if consumer_id == bound.consumer_id and bound.staff_id:
                document |= {"staff_id": bound.staff_id, "store_id": bound.store_id, "bound_at": since}
            newest = {"$cond": [{"$gt": ["$told_at", uow.at]}, "$$ROOT", {"$literal": document}]}
            writes.append(UpdateOne({"_id": document["_id"]}, [{"$replaceWith": newest}], upsert=True))
        await self.bindings.collection.bulk_write(writes, session=uow.session)

    async def save_outreach(self, uow: UnitOfWork, sent: events_pb2.OutreachSent) -> None:
        """Saves the last message of a guide to a consumer for a brand."""
        document = {
            "consumer_id": sent.consumer_id,
            "brand_id": sent.brand_id,
            "staff_id": sent.staff_id,
            "outreach_id": sent.outreach_id,
            "at": uow.at,
        }
        id = f"{sent.consumer_id}:{sent.brand_id}:{sent.staff_id}"
        await self.outreach.collection.replace_one({"_id": id}, document, upsert=True, session=uow.session)

    async def find_contacts(self, consumer_ids: Collection[str], staff_ids: Collection[str]) -> set[str]:
        """Returns those of the staff who are guides of one of these consumers, or wrote to one."""
        # The ids of both views begin with "<consumer>:", and ";" is the character after ":".
        prefixes = [{"_id": {"$gte": f"{id}:", "$lt": f"{id};"}} for id in consumer_ids]
        query: Document = {"$or": prefixes, "staff_id": {"$in": sorted(staff_ids)}}
        return {
            found["staff_id"] for view in (self.bindings, self.outreach) async for found in view.collection.find(query, {"staff_id": 1})
        }

    async def load_bindings(self, brands: Mapping[Person, Collection[str]], session: Session) -> dict[Person, list[Binding]]:
        """Returns the bindings of each person for these brands, under all ids of the person."""
        owners = {f"{id}:{brand_id}": person for person, brand_ids in brands.items() for id in person.ids for brand_id in brand_ids}
        return await self._load_view(self.bindings, owners, brands, session)

    async def load_outreach(self, bindings: Mapping[Person, Sequence[Binding]], session: Session) -> dict[Person, list[LastOutreach]]:
        """Returns the last messages that each person has, under any id, from the guides of these bindings."""
        owners = {
            f"{id}:{binding.brand_id}:{binding.staff_id}": person
            for person, bindings_of_person in bindings.items()
            for binding in bindings_of_person
            for id in person.ids
        }
        return await self._load_view(self.outreach, owners, bindings, session)

    @staticmethod
    async def _load_view(
        view: ScopedCollection[S], owners: Mapping[str, Person], persons: Iterable[Person], session: Session
    ) -> dict[Person, list[S]]:
        """Returns the documents of each person. Ended bindings, which have no guide, are left out."""
        found: dict[Person, list[S]] = {person: [] for person in persons}
        if owners:
            query = {"_id": {"$in": list(owners)}, "staff_id": {"$exists": True}}
            async for document in view.collection.find(query, session=session):
                found[owners[document["_id"]]].append(codec.to_struct(document, view.struct))
        return found
