"""Collections of districts, venues and visits."""

from collections.abc import Sequence
from datetime import datetime

from pymongo import ASCENDING, IndexModel, UpdateOne
from pymongo.collation import Collation

from quanyu.district.v1 import places_pb2
from services.district.places import rules
from services.district.places.enums import Reason
from services.district.places.rules import District, Venue, Visit
from services.kit import ids
from services.kit.enums import ScopeKind, Touchpoint
from services.kit.errors import Conflict
from services.kit.mongo.client import Database, Document, MessageDocument, Session
from services.kit.mongo.codec import to_document
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.projections.persons import Person
from services.kit.transactions.unit_of_work import UnitOfWork
from services.kit.values.opening_hours import local_day

BY_NAME = [("name", ASCENDING)]
"""The order of districts and venues in lists."""
IN_CHINESE = Collation(locale="zh")
"""Chinese names are sorted by pinyin; names in other scripts come after them.

A character has one position for all its readings: MongoDB sorts 拾 (shí or shè) at the end of shì, after 示.
"""


def build_district_collection(database: Database) -> ScopedCollection[District]:
    """Returns the collection of districts."""
    return ScopedCollection(
        database, "districts", noun="DISTRICT", struct=District, message=places_pb2.District, scopes={}, public=True,
        indexes=[IndexModel([*BY_NAME, ("_id", ASCENDING)], name="by_name", collation=IN_CHINESE)],
    )  # fmt: skip


class VenueRepository(ScopedCollection[Venue]):
    """The venues of districts."""

    def __init__(self, database: Database) -> None:
        super().__init__(
            database, "venues", noun="VENUE", struct=Venue, message=places_pb2.Venue,
            scopes={ScopeKind.DISTRICT: "district_id"}, public=True,
            indexes=[
                IndexModel([("district_id", ASCENDING), *BY_NAME, ("_id", ASCENDING)], name="by_name", collation=IN_CHINESE),
                IndexModel([("store_id", ASCENDING), ("district_id", ASCENDING)]),
            ],
            shard_key="district_id",
        )  # fmt: skip

    async def find_districts(self, store_id: str, session: Session = None) -> frozenset[str]:
        """Returns the districts in which a store is a venue."""
        return frozenset(await self.collection.distinct("district_id", {"store_id": store_id}, session=session))

    async def import_venues(self, uow: UnitOfWork, district_id: str, venues: Sequence[Venue]) -> tuple[int, int]:
        """Adds or replaces venues of one district; returns the numbers of new and of replaced ones.

        Raises `Conflict` (VENUE_EXISTS) for a venue id of another district.
        """
        query = {"_id": {"$in": [venue.id for venue in venues]}}
        existing = await self.find(query, limit=len(venues), session=uow.session, projection={"district_id": 1})
        for document in existing:
            if document["district_id"] != district_id:
                message = "Another district has a venue with this id. Choose another id."
                raise Conflict(Reason.VENUE_EXISTS, message, venue_id=document["_id"])
        operations = []
        for venue in venues:
            document = to_document(venue)
            key = {"_id": document.pop("_id"), "district_id": document.pop("district_id")}
            del document["version"]
            operations.append(UpdateOne(key, {"$set": document, "$inc": {"version": 1}}, upsert=True))
        await self.collection.bulk_write(operations, ordered=False, session=uow.session)
        return len(venues) - len(existing), len(existing)


class VisitRepository(ScopedCollection[Visit]):
    """The visits of consumers to districts."""

    def __init__(self, database: Database) -> None:
        super().__init__(
            database, "visits", noun="VISIT", struct=Visit, message=places_pb2.Visit,
            scopes={ScopeKind.CONSUMER: "consumer_id", ScopeKind.DISTRICT: "district_id"},
            indexes=[IndexModel("open_key", unique=True, partialFilterExpression={"open_key": {"$exists": True}})],
        )  # fmt: skip

    async def enter(
        self, uow: UnitOfWork, district: District, person: Person, consumer_id: str, touchpoint: Touchpoint, at: datetime
    ) -> MessageDocument:
        """Returns the person's open visit of the day, or a new one whose start is published."""
        day = local_day(at, district.zone)
        # The person may have entered under another consumer id, outside the caller's scope.
        open_visit: Document | None = await self.collection.find_one(
            {"open_key": rules.open_key(person.id, district.id, day)}, session=uow.session
        )
        if open_visit is not None:
            return self.project(open_visit)
        visit = rules.enter(ids.new("vis"), consumer_id, person.id, district, day, touchpoint, at)
        uow.publish(rules.build_visit_started(visit))
        return await self.insert(uow, visit)
