"""Collections of interactions, relations and transitions; interactions and what follows from them are written in one transaction."""

from collections.abc import Container, Iterable, Mapping, Sequence

from pymongo import ASCENDING, DESCENDING, DeleteMany, DeleteOne, IndexModel, ReplaceOne

from quanyu.member.v1 import relation_pb2
from services.kit.enums import ScopeKind
from services.kit.mongo.client import Document
from services.kit.mongo.codec import to_documents, to_struct
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.runtime.runtime import Runtime
from services.kit.transactions.unit_of_work import UnitOfWork
from services.member.identity.repository import ConsumerRepository, People
from services.member.relation import rules
from services.member.relation.rules import Interaction, Relation, Transition

RelationKey = tuple[str, str]
"""The person id and the brand id of a relation."""
SCOPES: dict[ScopeKind, str | tuple[str, ...]] = {ScopeKind.CONSUMER: "consumer_id", ScopeKind.BRAND: "brand_id"}


class RelationRepository:
    """The interactions, relations and transitions of people and brands."""

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
                # One index, since every order writes here: with the brand at its end, other brands' documents are not fetched.
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

    async def record(self, uow: UnitOfWork, interactions: Sequence[Interaction]) -> dict[RelationKey, Relation]:
        """Records new interactions and returns the relations that changed; an interaction that is recorded already changes nothing.

        The stored relation is continued, unless an interaction is late: then the relation is folded again from the start.
        """
        new = await self._find_new(uow, interactions)
        if not new:
            return {}
        people = await self.consumers.find_people({one.consumer_id for one in new}, uow.session)
        by_key: dict[RelationKey, list[Interaction]] = {}
        for interaction in sorted(new, key=rules.fold_key):
            by_key.setdefault((people.find_person(interaction.consumer_id), interaction.brand_id), []).append(interaction)
        relations = await self._find_relations(uow, by_key)
        late = {key for key, group in by_key.items() if rules.is_late(relations.get(key), group[0])}
        earlier = await self._find_interactions(uow, late, people)
        await self.interactions.collection.insert_many(to_documents(new), ordered=False, session=uow.session)
        folded: dict[RelationKey, rules.FoldResult] = {}
        for (person, brand), group in by_key.items():
            if (person, brand) in late:
                folded[person, brand] = rules.recount(person, brand, [*earlier[person, brand], *group])
            else:
                folded[person, brand] = rules.advance(relations.get((person, brand)), person, brand, group)
        await self._save(uow, folded, relations, late)
        await self._record_first_interactions(uow, new, relations, people)
        return {key: relation for key, (relation, _) in folded.items() if relation}

    async def recount(self, uow: UnitOfWork, people: Mapping[str, list[str]]) -> None:
        """Folds the relations of people again after a link or unlink; `people` has the consumer ids of each person."""
        persons = {id: person for person, members in people.items() for id in members}
        cursor = self.interactions.collection.find({"consumer_id": {"$in": sorted(persons)}}, session=uow.session)
        by_key: dict[RelationKey, list[Interaction]] = {}
        async for document in cursor:
            key = (persons[document["consumer_id"]], document["brand_id"])
            by_key.setdefault(key, []).append(to_struct(document, Interaction))
        before = self.relations.collection.find(
            {"consumer_id": {"$in": sorted(persons)}}, {"brand_id": 1, "consumer_id": 1}, session=uow.session
        )
        deleted: dict[RelationKey, rules.FoldResult] = {
            (document["consumer_id"], document["brand_id"]): (None, []) async for document in before
        }
        folded = deleted | {(person, brand): rules.recount(person, brand, group) for (person, brand), group in by_key.items()}
        await self._save(uow, folded, deleted, folded.keys())

    # steps of a write ------------------------------------------------------------------------------------------------

    async def _find_new(self, uow: UnitOfWork, interactions: Sequence[Interaction]) -> list[Interaction]:
        """Returns those of these interactions that are not recorded yet."""
        by_id = {interaction.id: interaction for interaction in interactions}
        cursor = self.interactions.collection.find({"_id": {"$in": list(by_id)}}, {"_id": 1}, session=uow.session)
        recorded = {document["_id"] for document in await cursor.to_list(None)}
        return [interaction for id, interaction in by_id.items() if id not in recorded]

    async def _find_relations(self, uow: UnitOfWork, keys: Iterable[RelationKey]) -> dict[RelationKey, Relation]:
        ids = [rules.relation_id(person, brand) for person, brand in keys]
        cursor = self.relations.collection.find({"_id": {"$in": ids}}, session=uow.session)
        documents = await cursor.to_list(None)
        return {(document["consumer_id"], document["brand_id"]): to_struct(document, Relation) for document in documents}

    async def _find_interactions(
        self, uow: UnitOfWork, keys: Iterable[RelationKey], people: People
    ) -> dict[RelationKey, list[Interaction]]:
        """Returns all recorded interactions of these people and brands."""
        found: dict[RelationKey, list[Interaction]] = {key: [] for key in keys}
        if not found:
            return found
        members = sorted({id for person, _ in found for id in people.list_consumer_ids(person)})
        query = {"consumer_id": {"$in": members}, "brand_id": {"$in": sorted({brand for _, brand in found})}}
        async for document in self.interactions.collection.find(query, session=uow.session):
            key = (people.find_person(document["consumer_id"]), document["brand_id"])
            if key in found:
                found[key].append(to_struct(document, Interaction))
        return found

    async def _save(
        self,
        uow: UnitOfWork,
        folded: Mapping[RelationKey, rules.FoldResult],
        existing: Container[RelationKey],
        recounted: Iterable[RelationKey],
    ) -> None:
        """Saves folded relations and their transitions; deletes a relation without interactions.

        `existing` has the keys of stored relations, `recounted` those whose transitions replace all earlier ones.
        """
        if not folded:
            return
        changes: list[ReplaceOne[Document] | DeleteOne] = [
            DeleteOne({"_id": rules.relation_id(*key)}) for key, (relation, _) in folded.items() if relation is None
        ]
        changed = to_documents([relation for key, (relation, _) in folded.items() if relation and key in existing])
        changes += [ReplaceOne({"_id": document["_id"]}, document) for document in changed]
        new = to_documents([relation for key, (relation, _) in folded.items() if relation and key not in existing])
        deletions = [DeleteMany({"consumer_id": person, "brand_id": brand}) for person, brand in recounted]
        transitions = to_documents([transition for _, transitions in folded.values() for transition in transitions])
        for collection, operations in ((self.relations, changes), (self.transitions, deletions)):
            if operations:
                await collection.collection.bulk_write(operations, ordered=False, session=uow.session)
        for collection, documents in ((self.relations, new), (self.transitions, transitions)):
            if documents:
                await collection.collection.insert_many(documents, ordered=False, session=uow.session)

    async def _record_first_interactions(
        self, uow: UnitOfWork, new: Sequence[Interaction], relations: Mapping[RelationKey, Relation], people: People
    ) -> None:
        """Records which brands know a consumer from now on; each consumer id of a person has its own first interaction."""
        brand_ids: dict[str, set[str]] = {}
        for interaction in new:
            id, brand_id = interaction.consumer_id, interaction.brand_id
            if (people.find_person(id), brand_id) not in relations or len(people.list_consumer_ids(id)) > 1:
                brand_ids.setdefault(id, set()).add(brand_id)
        await self.consumers.record_first_interactions(uow, brand_ids, people)

    # look-up ---------------------------------------------------------------------------------------------------------

    async def find_keys(self, relation_ids: Iterable[str]) -> dict[str, RelationKey]:
        """Returns the person and the brand of each of these relations, regardless of the caller's scope."""
        cursor = self.relations.collection.find({"_id": {"$in": list(relation_ids)}}, {"consumer_id": 1, "brand_id": 1})
        return {document["_id"]: (document["consumer_id"], document["brand_id"]) async for document in cursor}
