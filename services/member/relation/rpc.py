"""RelationService: records interactions and shows relations. Relations are evaluated at the time of the call.

Closeness falls and stages lapse with time alone, without any event.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from quanyu.common.v1.page_pb2 import PageInfo, PageRequest
from quanyu.member.v1 import relation_pb2, relation_pb2_grpc
from services.kit import ids
from services.kit.errors import Invalid, NotFound
from services.kit.mongo import pagination
from services.kit.mongo.client import Document, MessageDocument
from services.kit.mongo.codec import project, request_fields, to_document, to_struct
from services.kit.mongo.scoped_collection import BATCH_MAX, Page
from services.kit.rpc import batch_lists
from services.kit.runtime.runtime import Runtime
from services.kit.transactions.unit_of_work import UnitOfWork, transactional
from services.member.full_documents import find_full, find_full_pages
from services.member.identity.repository import ConsumerRepository, is_self
from services.member.relation import rules
from services.member.relation.enums import Reason
from services.member.relation.repository import RelationKey, RelationRepository
from services.member.relation.rules import Interaction, Relation, Transition
from services.member.store_projection import StoreProjection

LATEST_RELATION_FIRST = [("last_at", -1)]
LATEST_TRANSITION_FIRST = [("number", -1)]
LATEST_INTERACTION_FIRST = [("at", -1)]


class RelationServicer(relation_pb2_grpc.RelationServiceServicer):
    def __init__(self, runtime: Runtime, relations: RelationRepository, consumers: ConsumerRepository, stores: StoreProjection) -> None:
        self.transactions, self.clock = runtime.transactions, runtime.clock
        self.relations, self.consumers, self.stores = relations, consumers, stores

    @transactional
    async def RecordInteraction(
        self, request: relation_pb2.RecordInteractionRequest, uow: UnitOfWork
    ) -> relation_pb2.RecordInteractionResponse:  # fmt: skip
        await self.stores.require_brand(request.brand_id, request.store_id, uow.session)
        consumer = await self.consumers.get_known(request.consumer_id, request.brand_id, uow.session)
        interaction = to_struct({"at": uow.at, **request_fields(request), "id": ids.new("int")}, Interaction)
        if interaction.kind in rules.RECORDED_FROM_EVENTS:
            message = "Orders, packs and outreach are recorded from events only. Give another `kind`."
            raise Invalid(Reason.KIND_NOT_RECORDED, message, field="kind")
        if interaction.at > uow.at + rules.FUTURE_MAX:
            message = "`at` is in the future. Give the time of the interaction, or leave it out for now."
            raise Invalid(Reason.IN_THE_FUTURE, message, field="at")
        if interaction.at < rules.EARLIEST:
            message = f"`at` must not be before {rules.EARLIEST:%Y}. Give the time of the interaction."
            raise Invalid(Reason.INVALID_FIELD, message, field="at")
        changed = await self.relations.record(uow, [interaction])
        relation, _ = rules.evaluate(changed[consumer.person_id, interaction.brand_id], uow.at)
        stage = relation_pb2.Stage.Value(relation.stage)
        return relation_pb2.RecordInteractionResponse(interaction_id=interaction.id, stage=stage)

    async def GetRelation(self, request: relation_pb2.GetRelationRequest, context: Any) -> relation_pb2.GetRelationResponse:
        found = await self._find_readable({request.consumer_id: (request.consumer_id, request.brand_id)})
        if request.consumer_id not in found:
            message = "No relation between this consumer and this brand, or you may not see it. Check both ids."
            raise NotFound(Reason.RELATION_NOT_FOUND, message, consumer_id=request.consumer_id)
        return relation_pb2.GetRelationResponse(relation=self._evaluate(found[request.consumer_id]))

    async def BatchGetRelations(
        self, request: relation_pb2.BatchGetRelationsRequest, context: Any
    ) -> relation_pb2.BatchGetRelationsResponse:  # fmt: skip
        if len(request.consumer_ids) > BATCH_MAX:
            message = f"`consumerIds` must contain at most {BATCH_MAX} ids. Split the request."
            raise Invalid("BATCH_TOO_LARGE", message, field="consumer_ids")
        found = await self._find_readable({id: (id, request.brand_id) for id in request.consumer_ids})
        values: dict[str, Any] = {
            "relations": [{"consumer_id": id, "relation": self._evaluate(relation)} for id, relation in found.items()]
        }
        return relation_pb2.BatchGetRelationsResponse(**values)

    async def _find_readable(self, keys: Mapping[str, RelationKey]) -> dict[str, Relation]:
        """Returns the relations of consumers' people with brands that the caller may read, under the given keys."""
        consumer_ids = {consumer_id for consumer_id, _ in keys.values()}
        people = await self.consumers.find_people(consumer_ids)
        ids = {key: rules.relation_id(people.find_person(consumer_id), brand_id) for key, (consumer_id, brand_id) in keys.items()}
        collection, query = self.relations.relations, {"_id": {"$in": sorted(set(ids.values()))}}
        served = await self.consumers.find_served_brands(consumer_ids)
        own_ids = {
            ids[key]
            for key, (consumer_id, brand_id) in keys.items()
            if brand_id in served.get(consumer_id, ()) or is_self(people.list_consumer_ids(consumer_id))
        }
        in_scope = await collection.find(query, limit=BATCH_MAX)
        if missing := own_ids - {relation["id"] for relation in in_scope}:
            in_scope += await collection.unscoped.find({"_id": {"$in": sorted(missing)}}, limit=BATCH_MAX)
        found = {relation.id: relation for relation in await find_full(collection, in_scope)}
        return {key: found[id] for key, id in ids.items() if id in found}

    async def ListRelations(self, request: relation_pb2.ListRelationsRequest, context: Any) -> relation_pb2.ListRelationsResponse:
        if bool(request.consumer_id) == bool(request.brand_id):
            message = "Give either `consumerId` or `brandId`."
            raise Invalid(Reason.CONSUMER_OR_BRAND, message, field="consumer_id")
        name = "consumer_id" if request.consumer_id else "brand_id"
        (query,) = (await self._build_relation_queries(name, [getattr(request, name)])).values()
        collection = self.relations.relations.unscoped
        found, info = await collection.page(query, request.page, order=LATEST_RELATION_FIRST)
        values: dict[str, Any] = {"relations": [self._evaluate(one) for one in await find_full(collection, found)], "page": info}
        return relation_pb2.ListRelationsResponse(**values)

    async def BatchListRelations(
        self, request: relation_pb2.BatchListRelationsRequest, context: Any
    ) -> relation_pb2.BatchListRelationsResponse:  # fmt: skip
        name, ids = batch_lists.selected_ids(request, "consumer_ids", "brand_ids")
        collection, queries = self.relations.relations.unscoped, await self._build_relation_queries(name, ids)
        found = await find_full_pages(collection, await collection.first_pages(queries, request.first, order=LATEST_RELATION_FIRST))
        evaluated = {id: ([self._evaluate(one) for one in relations], page) for id, (relations, page) in found.items()}
        values = {"consumers" if name == "consumer_id" else "brands": batch_lists.to_lists(name, "relations", evaluated)}
        return relation_pb2.BatchListRelationsResponse(**values)

    async def _build_relation_queries(self, name: str, ids: Sequence[str]) -> dict[str, Document]:
        """Returns the restricted query for the relations of each of these consumers or brands, for the collection `unscoped`."""
        collection = self.relations.relations
        if name == "brand_id":
            return {id: collection.restrict({name: id}) for id in ids}
        people = await self.consumers.find_people(ids)
        queries = {id: {name: people.find_person(id)} for id in ids}
        return await self.consumers.restrict_to_readable(collection, queries, {id: people.list_consumer_ids(id) for id in ids})

    async def ListTransitions(
        self, request: relation_pb2.ListTransitionsRequest, context: Any
    ) -> relation_pb2.ListTransitionsResponse:  # fmt: skip
        """Returns lapses that are due now before the stored transitions."""
        found = await self._find_readable({request.consumer_id: (request.consumer_id, request.brand_id)})
        if (relation := found.get(request.consumer_id)) is None:
            return relation_pb2.ListTransitionsResponse(page=PageInfo())
        collection, (_, due) = self.relations.transitions.unscoped, rules.evaluate(relation, self.clock())
        stored, info = await collection.page(_build_transition_query(relation), request.page, order=LATEST_TRANSITION_FIRST)
        if request.page.after:
            last, _ = pagination.decode_cursor(
                collection.name, [*LATEST_TRANSITION_FIRST, ("_id", 1)], request.page.after, kinds=(int, str)
            )
            due = [lapse for lapse in due if lapse.number < last]
        transitions, page = self._merge_due(await find_full(collection, stored), info, due, pagination.page_size(request.page))
        return relation_pb2.ListTransitionsResponse(transitions=transitions, page=page)

    async def BatchListTransitions(
        self, request: relation_pb2.BatchListTransitionsRequest, context: Any
    ) -> relation_pb2.BatchListTransitionsResponse:  # fmt: skip
        name, relation_ids = batch_lists.selected_ids(request, "relation_ids")
        relations, now = await self._find_readable(await self.relations.find_keys(relation_ids)), self.clock()
        collection, first = self.relations.transitions.unscoped, pagination.page_size(PageRequest(first=request.first))
        queries = {id: _build_transition_query(relation) for id, relation in relations.items()}
        stored = await find_full_pages(collection, await collection.first_pages(queries, first, order=LATEST_TRANSITION_FIRST))
        pages = {
            id: self._merge_due(*stored.get(id, ([], PageInfo())), rules.evaluate(relation, now)[1], first)
            for id, relation in relations.items()
        }
        found = {id: (transitions, page) for id, (transitions, page) in pages.items() if transitions}
        return relation_pb2.BatchListTransitionsResponse(relations=batch_lists.to_lists(name, "transitions", found))

    def _merge_due(self, stored: Sequence[Transition], info: PageInfo, due: Sequence[Transition], first: int) -> Page:
        """Returns a page of stored transitions merged with the lapses that are due."""
        transitions = sorted([*stored, *due], key=lambda transition: -transition.number)
        shown = transitions[:first]
        end = pagination.encode_cursor(self.relations.transitions.name, [shown[-1].number, shown[-1].id]) if shown else ""
        page = PageInfo(end_cursor=end, has_next_page=info.has_next_page or len(transitions) > first)
        return [project(to_document(transition), relation_pb2.Transition.DESCRIPTOR) for transition in shown], page

    async def ListInteractions(
        self, request: relation_pb2.ListInteractionsRequest, context: Any
    ) -> relation_pb2.ListInteractionsResponse:  # fmt: skip
        (query,) = (await self._build_interaction_queries({request.consumer_id: (request.consumer_id, request.brand_id)})).values()
        interactions, info = await self.relations.interactions.unscoped.page(query, request.page, order=LATEST_INTERACTION_FIRST)
        return relation_pb2.ListInteractionsResponse(interactions=interactions, page=info)

    async def BatchListInteractions(
        self, request: relation_pb2.BatchListInteractionsRequest, context: Any
    ) -> relation_pb2.BatchListInteractionsResponse:  # fmt: skip
        name, relation_ids = batch_lists.selected_ids(request, "relation_ids")
        queries = await self._build_interaction_queries(await self.relations.find_keys(relation_ids))
        found = await self.relations.interactions.unscoped.first_pages(queries, request.first, order=LATEST_INTERACTION_FIRST)
        return relation_pb2.BatchListInteractionsResponse(relations=batch_lists.to_lists(name, "interactions", found))

    async def _build_interaction_queries(self, keys: Mapping[str, RelationKey]) -> dict[str, Document]:
        """Returns the restricted queries for interactions of consumers' people with brands, for the collection `unscoped`.

        An empty brand id means all brands. The queries have the keys of `keys`.
        """
        people = await self.consumers.find_people({consumer_id for consumer_id, _ in keys.values()})
        members = {key: people.list_consumer_ids(consumer_id) for key, (consumer_id, _) in keys.items()}
        queries: dict[str, Document] = {
            key: {"consumer_id": {"$in": members[key]}} | ({"brand_id": brand_id} if brand_id else {})
            for key, (_, brand_id) in keys.items()
        }
        return await self.consumers.restrict_to_readable(self.relations.interactions, queries, members)

    def _evaluate(self, relation: Relation) -> MessageDocument:
        """Returns a relation as of now, shaped like its message."""
        current, _ = rules.evaluate(relation, self.clock())
        return project(to_document(current), relation_pb2.Relation.DESCRIPTOR)


def _build_transition_query(relation: Relation) -> Document:
    return {"consumer_id": relation.consumer_id, "brand_id": relation.brand_id}
