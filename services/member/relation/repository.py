"""Interactions as they happened, and the relations and transitions that follow from them, in the same write."""

from collections.abc import Container, Iterable, Mapping, Sequence

from pymongo import ASCENDING, DESCENDING, DeleteMany, DeleteOne, IndexModel, ReplaceOne

from quanyu.member.v1 import relation_pb2
from services.kit.enums import ScopeKind
from services.kit.mongo.client import Document
from services.kit.mongo.codec import as_documents, as_struct
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.runtime.runtime import Runtime
from services.kit.transactions.unit_of_work import UnitOfWork
from services.member.identity.repository import ConsumerRepository, People
from services.member.relation import rules
from services.member.relation.rules import Interaction, Relation, Transition

Place = tuple[str, str]
"""A person and a brand."""
SCOPES: dict[ScopeKind, str | tuple[str, ...]] = {ScopeKind.CONSUMER: "consumer_id", ScopeKind.BRAND: "brand_id"}


class RelationRepository:
    """What happened between people and brands, and what follows."""

    def __init__(self, runtime: Runtime, consumers: ConsumerRepository) -> None:
        self.consumers = consumers
        self.interactions = ScopedCollection(
            runtime.database,
            "interactions",
            noun="INTERACTION",
            struct=Interaction,
            message=relation_pb2.Interaction,
            scopes=SCOPES,
            indexes=[
                # One index, since every order writes here: the brand at its end is looked at without fetching other brands' rows.
                IndexModel([("consumer_id", ASCENDING), ("at", DESCENDING), ("_id", ASCENDING), ("brand_id", ASCENDING)]),
            ],
            shard_key="consumer_id",
        )
        self.relations = ScopedCollection(
            runtime.database,
            "relations",
            noun="RELATION",
            struct=Relation,
            message=relation_pb2.Relation,
            scopes=SCOPES,
            indexes=[
                IndexModel([("consumer_id", ASCENDING), ("last_at", DESCENDING), ("_id", ASCENDING)]),
                IndexModel([("brand_id", ASCENDING), ("last_at", DESCENDING), ("_id", ASCENDING)]),
            ],
            shard_key="consumer_id",
        )
        self.transitions = ScopedCollection(
            runtime.database,
            "transitions",
            noun="TRANSITION",
            struct=Transition,
            message=relation_pb2.Transition,
            scopes=SCOPES,
            indexes=[IndexModel([("consumer_id", ASCENDING), ("brand_id", ASCENDING), ("number", DESCENDING), ("_id", ASCENDING)])],
            shard_key="consumer_id",
        )

    async def record(self, uow: UnitOfWork, happened: Sequence[Interaction]) -> dict[Place, Relation]:
        """Records interactions (one that is recorded already changes nothing) and answers the relations they touched.

        What comes in time goes on from the relation as it stands; where something comes late, the relation is counted anew.
        """
        new = await self._new(uow, happened)
        if not new:
            return {}
        people = await self.consumers.people({one.consumer_id for one in new}, uow.session)
        by_place: dict[Place, list[Interaction]] = {}
        for one in sorted(new, key=rules.order):
            by_place.setdefault((people.person_of(one.consumer_id), one.brand_id), []).append(one)
        standing = await self._standing(uow, by_place)
        late = {place for place, ones in by_place.items() if rules.is_late(standing.get(place), ones[0])}
        earlier = await self._happened(uow, late, people)
        await self.interactions.collection.insert_many(as_documents(new), ordered=False, session=uow.session)
        folded: dict[Place, rules.Folded] = {}
        for (person, brand), ones in by_place.items():
            if (person, brand) in late:
                folded[person, brand] = rules.recount(person, brand, [*earlier[person, brand], *ones])
            else:
                folded[person, brand] = rules.advance(standing.get((person, brand)), person, brand, ones)
        await self._write(uow, folded, standing, late)
        await self._meet(uow, new, standing, people)
        return {place: relation for place, (relation, _) in folded.items() if relation}

    async def moved(self, uow: UnitOfWork, people: Mapping[str, list[str]]) -> None:
        """Counts the relations of people anew after their consumers were linked or unlinked: `people` is person -> consumer ids."""
        persons = {id: person for person, members in people.items() for id in members}
        rows = self.interactions.collection.find({"consumer_id": {"$in": sorted(persons)}}, session=uow.session)
        by_place: dict[Place, list[Interaction]] = {}
        async for row in rows:
            by_place.setdefault((persons[row["consumer_id"]], row["brand_id"]), []).append(as_struct(row, Interaction))
        before = self.relations.collection.find(
            {"consumer_id": {"$in": sorted(persons)}}, {"brand_id": 1, "consumer_id": 1}, session=uow.session
        )
        gone: dict[Place, rules.Folded] = {(row["consumer_id"], row["brand_id"]): (None, []) async for row in before}
        folded = gone | {(person, brand): rules.recount(person, brand, ones) for (person, brand), ones in by_place.items()}
        await self._write(uow, folded, gone, folded.keys())

    # inside a write --------------------------------------------------------------------------------------------------

    async def _new(self, uow: UnitOfWork, happened: Sequence[Interaction]) -> list[Interaction]:
        by_id = {one.id: one for one in happened}
        rows = self.interactions.collection.find({"_id": {"$in": list(by_id)}}, {"_id": 1}, session=uow.session)
        known = {row["_id"] for row in await rows.to_list(None)}
        return [one for id, one in by_id.items() if id not in known]

    async def _standing(self, uow: UnitOfWork, places: Iterable[Place]) -> dict[Place, Relation]:
        ids = [rules.relation_id(person, brand) for person, brand in places]
        rows = self.relations.collection.find({"_id": {"$in": ids}}, session=uow.session)
        return {(row["consumer_id"], row["brand_id"]): as_struct(row, Relation) for row in await rows.to_list(None)}

    async def _happened(self, uow: UnitOfWork, places: Iterable[Place], people: People) -> dict[Place, list[Interaction]]:
        """Everything that is recorded of these people and brands."""
        found: dict[Place, list[Interaction]] = {place: [] for place in places}
        if not found:
            return found
        members = sorted({id for person, _ in found for id in people.ids_of(person)})
        query = {"consumer_id": {"$in": members}, "brand_id": {"$in": sorted({brand for _, brand in found})}}
        async for row in self.interactions.collection.find(query, session=uow.session):
            place = (people.person_of(row["consumer_id"]), row["brand_id"])
            if place in found:
                found[place].append(as_struct(row, Interaction))
        return found

    async def _write(
        self, uow: UnitOfWork, folded: Mapping[Place, rules.Folded], standing: Container[Place], anew: Iterable[Place]
    ) -> None:
        """Relations as they stand now and their new moves. `standing`: where there is one; `anew`: where moves replace all earlier ones.

        The fold keeps the bounds of what it folds.
        """
        if not folded:
            return
        changed: list[ReplaceOne[Document] | DeleteOne] = [
            DeleteOne({"_id": rules.relation_id(*place)}) for place, (relation, _) in folded.items() if relation is None
        ]
        after = as_documents([relation for place, (relation, _) in folded.items() if relation and place in standing])
        changed += [ReplaceOne({"_id": document["_id"]}, document) for document in after]
        born = as_documents([relation for place, (relation, _) in folded.items() if relation and place not in standing])
        gone = [DeleteMany({"consumer_id": person, "brand_id": brand}) for person, brand in anew]
        moves = as_documents([move for _, moves in folded.values() for move in moves])
        for table, operations in ((self.relations, changed), (self.transitions, gone)):
            if operations:
                await table.collection.bulk_write(operations, ordered=False, session=uow.session)
        for table, rows in ((self.relations, born), (self.transitions, moves)):
            if rows:
                await table.collection.insert_many(rows, ordered=False, session=uow.session)

    async def _meet(self, uow: UnitOfWork, new: Sequence[Interaction], standing: Mapping[Place, Relation], people: People) -> None:
        """Brands know a consumer from the first interaction on. Of a person with several ids each meets the brand for itself."""
        met: dict[str, set[str]] = {}
        for one in new:
            if (people.person_of(one.consumer_id), one.brand_id) not in standing or len(people.ids_of(one.consumer_id)) > 1:
                met.setdefault(one.consumer_id, set()).add(one.brand_id)
        await self.consumers.meet(uow, met, people)

    # reading ---------------------------------------------------------------------------------------------------------

    async def places(self, ids: Iterable[str]) -> dict[str, Place]:
        """Of which person and brand each of these relations is, whatever the caller reaches."""
        rows = self.relations.collection.find({"_id": {"$in": list(ids)}}, {"consumer_id": 1, "brand_id": 1})
        return {row["_id"]: (row["consumer_id"], row["brand_id"]) async for row in rows}
