"""RelationService. Whatever is read is as of the caller's now: closeness cools and lapses fall due without any event."""

from collections.abc import Mapping, Sequence
from typing import Any

from quanyu.common.v1.page_pb2 import PageInfo, PageRequest
from quanyu.member.v1 import relation_pb2, relation_pb2_grpc
from services.kit import ids
from services.kit.errors import Invalid, NotFound
from services.kit.mongo import pagination
from services.kit.mongo.client import Document, Shaped
from services.kit.mongo.codec import as_document, as_struct, fields, shaped
from services.kit.mongo.scoped_collection import BATCH_MAX, Page
from services.kit.rpc import batch_lists
from services.kit.runtime.runtime import Runtime
from services.kit.transactions.unit_of_work import UnitOfWork, transactional
from services.member.full_documents import whole, whole_pages
from services.member.identity.repository import ConsumerRepository, is_self
from services.member.relation import rules
from services.member.relation.enums import Reason
from services.member.relation.repository import Place, RelationRepository
from services.member.relation.rules import Interaction, Relation, Transition
from services.member.store_projection import StoreProjection

LATEST_FIRST = [("last_at", -1)]
MOVES_ORDER = [("number", -1)]
TIMELINE_ORDER = [("at", -1)]


class RelationServicer(relation_pb2_grpc.RelationServiceServicer):
    def __init__(self, runtime: Runtime, relations: RelationRepository, consumers: ConsumerRepository, stores: StoreProjection) -> None:
        self.transactions, self.clock = runtime.transactions, runtime.clock
        self.relations, self.consumers, self.stores = relations, consumers, stores

    @transactional
    async def RecordInteraction(
        self, request: relation_pb2.RecordInteractionRequest, uow: UnitOfWork
    ) -> relation_pb2.RecordInteractionResponse:  # fmt: skip
        await self.stores.require_brand(request.brand_id, request.store_id, uow.session)
        consumer = await self.consumers.known(request.consumer_id, request.brand_id, uow.session)
        interaction = as_struct({"at": uow.at, **fields(request), "id": ids.new("int")}, Interaction)
        if interaction.kind in rules.FROM_EVENTS:
            raise Invalid(Reason.KIND_NOT_RECORDED, "orders, packs and outreach are recorded from events only", field="kind")
        if interaction.at > uow.at + rules.AHEAD_MAX:
            raise Invalid(Reason.IN_THE_FUTURE, "this is dated ahead of now", field="at")
        if interaction.at < rules.EARLIEST:
            raise Invalid(Reason.INVALID_FIELD, f"not before {rules.EARLIEST:%Y}", field="at")
        touched = await self.relations.record(uow, [interaction])
        relation, _ = rules.as_of(touched[consumer.person_id, interaction.brand_id], uow.at)
        stage = relation_pb2.Stage.Value(relation.stage)
        return relation_pb2.RecordInteractionResponse(interaction_id=interaction.id, stage=stage)

    async def GetRelation(self, request: relation_pb2.GetRelationRequest, context: Any) -> relation_pb2.GetRelationResponse:
        found = await self._readable({request.consumer_id: (request.consumer_id, request.brand_id)})
        if request.consumer_id not in found:
            raise NotFound(Reason.RELATION_NOT_FOUND, "nothing is known between them", consumer_id=request.consumer_id)
        return relation_pb2.GetRelationResponse(relation=self._now(found[request.consumer_id]))

    async def BatchGetRelations(
        self, request: relation_pb2.BatchGetRelationsRequest, context: Any
    ) -> relation_pb2.BatchGetRelationsResponse:  # fmt: skip
        if len(request.consumer_ids) > BATCH_MAX:
            raise Invalid("BATCH_TOO_LARGE", f"ask for at most {BATCH_MAX} at a time", field="consumer_ids")
        found = await self._readable({id: (id, request.brand_id) for id in request.consumer_ids})
        rows = [{"consumer_id": id, "relation": self._now(relation)} for id, relation in found.items()]
        answer: dict[str, Any] = {"relations": rows}
        return relation_pb2.BatchGetRelationsResponse(**answer)

    async def _readable(self, asked: Mapping[str, Place]) -> dict[str, Relation]:
        """The relations of these consumers' people with these brands that the caller may read, by the key of each."""
        consumer_ids = {consumer_id for consumer_id, _ in asked.values()}
        people = await self.consumers.people(consumer_ids)
        wanted = {key: rules.relation_id(people.person_of(consumer_id), brand_id) for key, (consumer_id, brand_id) in asked.items()}
        table, query = self.relations.relations, {"_id": {"$in": sorted(set(wanted.values()))}}
        served = await self.consumers.served_brands(consumer_ids)
        theirs = {
            wanted[key]
            for key, (consumer_id, brand_id) in asked.items()
            if brand_id in served.get(consumer_id, ()) or is_self(people.ids_of(consumer_id))
        }
        rows = await table.find(query, limit=BATCH_MAX)
        if missing := theirs - {row["id"] for row in rows}:
            rows += await table.unscoped.find({"_id": {"$in": sorted(missing)}}, limit=BATCH_MAX)
        found = {relation.id: relation for relation in await whole(table, rows)}
        return {key: found[id] for key, id in wanted.items() if id in found}

    async def ListRelations(self, request: relation_pb2.ListRelationsRequest, context: Any) -> relation_pb2.ListRelationsResponse:
        if bool(request.consumer_id) == bool(request.brand_id):
            raise Invalid(Reason.CONSUMER_OR_BRAND, "give either a consumer or a brand", field="consumer_id")
        name = "consumer_id" if request.consumer_id else "brand_id"
        (query,) = (await self._relations_of(name, [getattr(request, name)])).values()
        table = self.relations.relations.unscoped
        rows, info = await table.page(query, request.page, order=LATEST_FIRST)
        answer: dict[str, Any] = {"relations": [self._now(one) for one in await whole(table, rows)], "page": info}
        return relation_pb2.ListRelationsResponse(**answer)

    async def BatchListRelations(
        self, request: relation_pb2.BatchListRelationsRequest, context: Any
    ) -> relation_pb2.BatchListRelationsResponse:  # fmt: skip
        name, ids = batch_lists.asked(request, "consumer_ids", "brand_ids")
        table, queries = self.relations.relations.unscoped, await self._relations_of(name, ids)
        found = await whole_pages(table, await table.first_pages(queries, request.first, order=LATEST_FIRST))
        shown = {id: ([self._now(one) for one in relations], page) for id, (relations, page) in found.items()}
        answer = {"consumers" if name == "consumer_id" else "brands": batch_lists.answered(name, "relations", shown)}
        return relation_pb2.BatchListRelationsResponse(**answer)

    async def _relations_of(self, name: str, ids: Sequence[str]) -> dict[str, Document]:
        """How to read the relations of each of these consumers' people, or brands: for the table `unscoped`."""
        table = self.relations.relations
        if name == "brand_id":
            return {id: table.within({name: id}) for id in ids}
        people = await self.consumers.people(ids)
        queries = {id: {name: people.person_of(id)} for id in ids}
        return await self.consumers.readable(table, queries, {id: people.ids_of(id) for id in ids})

    async def ListTransitions(
        self, request: relation_pb2.ListTransitionsRequest, context: Any
    ) -> relation_pb2.ListTransitionsResponse:  # fmt: skip
        """Moves that are due as of now come before those that are written."""
        found = await self._readable({request.consumer_id: (request.consumer_id, request.brand_id)})
        if (relation := found.get(request.consumer_id)) is None:
            return relation_pb2.ListTransitionsResponse(page=PageInfo())
        table, (_, due) = self.relations.transitions.unscoped, rules.as_of(relation, self.clock())
        rows, info = await table.page(_moves_of(relation), request.page, order=MOVES_ORDER)
        if request.page.after:
            last, _ = pagination.values(table.name, [*MOVES_ORDER, ("_id", 1)], request.page.after, kinds=(int, str))
            due = [move for move in due if move.number < last]
        moves, page = self._with_due(await whole(table, rows), info, due, pagination.size(request.page))
        return relation_pb2.ListTransitionsResponse(transitions=moves, page=page)

    async def BatchListTransitions(
        self, request: relation_pb2.BatchListTransitionsRequest, context: Any
    ) -> relation_pb2.BatchListTransitionsResponse:  # fmt: skip
        name, asked = batch_lists.asked(request, "relation_ids")
        relations, now = await self._readable(await self.relations.places(asked)), self.clock()
        table, first = self.relations.transitions.unscoped, pagination.size(PageRequest(first=request.first))
        queries = {id: _moves_of(relation) for id, relation in relations.items()}
        written = await whole_pages(table, await table.first_pages(queries, first, order=MOVES_ORDER))
        shown = {
            id: self._with_due(*written.get(id, ([], PageInfo())), rules.as_of(relation, now)[1], first)
            for id, relation in relations.items()
        }
        found = {id: (moves, page) for id, (moves, page) in shown.items() if moves}
        return relation_pb2.BatchListTransitionsResponse(relations=batch_lists.answered(name, "transitions", found))

    def _with_due(self, written: Sequence[Transition], info: PageInfo, due: Sequence[Transition], first: int) -> Page:
        """A page of the moves that are written with those that are due."""
        moves = sorted([*written, *due], key=lambda move: -move.number)
        shown = moves[:first]
        end = pagination.cursor(self.relations.transitions.name, [shown[-1].number, shown[-1].id]) if shown else ""
        page = PageInfo(end_cursor=end, has_next_page=info.has_next_page or len(moves) > first)
        return [shaped(as_document(move), relation_pb2.Transition.DESCRIPTOR) for move in shown], page

    async def ListInteractions(
        self, request: relation_pb2.ListInteractionsRequest, context: Any
    ) -> relation_pb2.ListInteractionsResponse:  # fmt: skip
        (query,) = (await self._interactions_of({request.consumer_id: (request.consumer_id, request.brand_id)})).values()
        rows, info = await self.relations.interactions.unscoped.page(query, request.page, order=TIMELINE_ORDER)
        return relation_pb2.ListInteractionsResponse(interactions=rows, page=info)

    async def BatchListInteractions(
        self, request: relation_pb2.BatchListInteractionsRequest, context: Any
    ) -> relation_pb2.BatchListInteractionsResponse:  # fmt: skip
        name, asked = batch_lists.asked(request, "relation_ids")
        queries = await self._interactions_of(await self.relations.places(asked))
        found = await self.relations.interactions.unscoped.first_pages(queries, request.first, order=TIMELINE_ORDER)
        return relation_pb2.BatchListInteractionsResponse(relations=batch_lists.answered(name, "interactions", found))

    async def _interactions_of(self, asked: Mapping[str, Place]) -> dict[str, Document]:
        """How to read what happened between each of these consumers' people and a brand (or any, when it is empty), by the key of each:
        for the table `unscoped`."""
        people = await self.consumers.people({consumer_id for consumer_id, _ in asked.values()})
        members = {key: people.ids_of(consumer_id) for key, (consumer_id, _) in asked.items()}
        queries: dict[str, Document] = {
            key: {"consumer_id": {"$in": members[key]}} | ({"brand_id": brand_id} if brand_id else {})
            for key, (_, brand_id) in asked.items()
        }
        return await self.consumers.readable(self.relations.interactions, queries, members)

    def _now(self, relation: Relation) -> Shaped:
        """A relation as of now, shaped like its message."""
        now, _ = rules.as_of(relation, self.clock())
        return shaped(as_document(now), relation_pb2.Relation.DESCRIPTOR)


def _moves_of(relation: Relation) -> Document:
    return {"consumer_id": relation.consumer_id, "brand_id": relation.brand_id}
