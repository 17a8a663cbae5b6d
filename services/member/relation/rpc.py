"""RelationService. Whatever is read is as of the caller's now: closeness cools and lapses fall due without any event."""

from collections.abc import Sequence
from typing import Any

from quanyu.common.v1.page_pb2 import PageInfo, PageRequest
from quanyu.member.v1 import relation_pb2, relation_pb2_grpc
from services.kit import ids, pages
from services.kit.documents import as_document, as_struct, fields, shaped
from services.kit.errors import Invalid, NotFound
from services.kit.house import House
from services.kit.mongo import Document, Shaped
from services.kit.table import BATCH_MAX
from services.kit.unit import Unit, write
from services.member.identity.store import Consumers, is_self
from services.member.relation import rules
from services.member.relation.rules import Interaction, Reason, Relation, Transition
from services.member.relation.store import Relations
from services.member.rows import whole
from services.member.stores import Stores

LISTS_MAX = 100
LATEST_FIRST = [("last_at", -1)]
MOVES_ORDER = [("number", -1)]


class RelationService(relation_pb2_grpc.RelationServiceServicer):
    def __init__(self, house: House, relations: Relations, consumers: Consumers, stores: Stores) -> None:
        self.units, self.clock = house.units, house.clock
        self.relations, self.consumers, self.stores = relations, consumers, stores

    @write
    async def RecordInteraction(
        self, request: relation_pb2.RecordInteractionRequest, unit: Unit
    ) -> relation_pb2.RecordInteractionResponse:  # fmt: skip
        await self.stores.require_brand(request.brand_id, request.store_id, unit.session)
        consumer = await self.consumers.known(request.consumer_id, request.brand_id, unit.session)
        interaction = as_struct({"at": unit.at, **fields(request), "id": ids.new("int")}, Interaction)
        if interaction.kind in rules.FROM_FACTS:
            raise Invalid(Reason.KIND_NOT_RECORDED, "orders, packs and outreach are recorded from facts only", field="kind")
        if interaction.at > unit.at + rules.AHEAD_MAX:
            raise Invalid(Reason.IN_THE_FUTURE, "this is dated ahead of now", field="at")
        touched = await self.relations.record(unit, [interaction])
        relation, _ = rules.as_of(touched[consumer.person_id, interaction.brand_id], unit.at)
        stage = relation_pb2.Stage.Value(relation.stage)
        return relation_pb2.RecordInteractionResponse(interaction_id=interaction.id, stage=stage)

    async def GetRelation(self, request: relation_pb2.GetRelationRequest, context: Any) -> relation_pb2.GetRelationResponse:
        found = await self._with_brand([request.consumer_id], request.brand_id)
        if request.consumer_id not in found:
            raise NotFound(Reason.RELATION_NOT_FOUND, "nothing is known between them", consumer_id=request.consumer_id)
        return relation_pb2.GetRelationResponse(relation=self._now(found[request.consumer_id]))

    async def BatchGetRelations(
        self, request: relation_pb2.BatchGetRelationsRequest, context: Any
    ) -> relation_pb2.BatchGetRelationsResponse:  # fmt: skip
        if len(request.consumer_ids) > BATCH_MAX:
            raise Invalid("BATCH_TOO_LARGE", f"ask for at most {BATCH_MAX} at a time", field="consumer_ids")
        found = await self._with_brand(request.consumer_ids, request.brand_id)
        rows = [{"consumer_id": id, "relation": self._now(relation)} for id, relation in found.items()]
        answer: dict[str, Any] = {"relations": rows}
        return relation_pb2.BatchGetRelationsResponse(**answer)

    async def _with_brand(self, asked: Sequence[str], brand_id: str) -> dict[str, Relation]:
        """The relations of these consumers' people with a brand that the caller may read, by the id asked for."""
        people = await self.consumers.people(asked)
        wanted = {id: rules.relation_id(people.person_of(id), brand_id) for id in asked}
        table, query = self.relations.relations, {"_id": {"$in": sorted(set(wanted.values()))}}
        served = await self.consumers.served_brands(asked)
        theirs = {wanted[id] for id in asked if brand_id in served.get(id, ()) or is_self(people.ids_of(id))}
        rows = await table.find(query, limit=BATCH_MAX)
        if missing := theirs - {row["id"] for row in rows}:
            rows += await table.unscoped.find({"_id": {"$in": sorted(missing)}}, limit=BATCH_MAX)
        found = {relation.id: relation for relation in await whole(table, rows)}
        return {id: found[relation_id] for id, relation_id in wanted.items() if relation_id in found}

    async def ListRelations(self, request: relation_pb2.ListRelationsRequest, context: Any) -> relation_pb2.ListRelationsResponse:
        if bool(request.consumer_id) == bool(request.brand_id):
            raise Invalid(Reason.CONSUMER_OR_BRAND, "give either a consumer or a brand", field="consumer_id")
        table, query = self.relations.relations, {"brand_id": request.brand_id}
        if request.consumer_id:
            people = await self.consumers.people([request.consumer_id])
            table, only = await self.consumers.readable(table, people.ids_of(request.consumer_id))
            query = {"consumer_id": people.person_of(request.consumer_id), **only}
        rows, info = await table.page(query, request.page, order=LATEST_FIRST)
        answer: dict[str, Any] = {"relations": [self._now(one) for one in await whole(table, rows)], "page": info}
        return relation_pb2.ListRelationsResponse(**answer)

    async def BatchListRelations(
        self, request: relation_pb2.BatchListRelationsRequest, context: Any
    ) -> relation_pb2.BatchListRelationsResponse:  # fmt: skip
        if len(request.consumer_ids) > LISTS_MAX:
            raise Invalid("BATCH_TOO_LARGE", f"ask for at most {LISTS_MAX} at a time", field="consumer_ids")
        first = pages.size(PageRequest(first=request.first))
        people = await self.consumers.people(request.consumer_ids)
        served = {people.person_of(id): brands for id, brands in (await self.consumers.served_brands(request.consumer_ids)).items()}
        found = await self.relations.first_of_each([people.person_of(id) for id in request.consumer_ids], first, served)
        lists = []
        for id in dict.fromkeys(request.consumer_ids):
            if relations := found.get(people.person_of(id)):
                shown = relations[:first]
                end = pages.cursor(self.relations.relations.name, [shown[-1].last_at, shown[-1].id])
                page = PageInfo(end_cursor=end, has_next_page=len(relations) > first)
                lists.append({"consumer_id": id, "relations": [self._now(one) for one in shown], "page": page})
        answer: dict[str, Any] = {"consumers": lists}
        return relation_pb2.BatchListRelationsResponse(**answer)

    async def ListTransitions(
        self, request: relation_pb2.ListTransitionsRequest, context: Any
    ) -> relation_pb2.ListTransitionsResponse:  # fmt: skip
        """Moves that are due as of now come before those that are written."""
        found = await self._with_brand([request.consumer_id], request.brand_id)
        if (relation := found.get(request.consumer_id)) is None:
            return relation_pb2.ListTransitionsResponse(page=PageInfo())
        table, (_, due) = self.relations.transitions.unscoped, rules.as_of(relation, self.clock())
        query = {"consumer_id": relation.consumer_id, "brand_id": relation.brand_id}
        rows, info = await table.page(query, request.page, order=MOVES_ORDER)
        if request.page.after:
            last, _ = pages.values(table.name, [*MOVES_ORDER, ("_id", 1)], request.page.after, kinds=(int, str))
            due = [move for move in due if move.number < last]
        moves = [*await whole(table, rows), *due]
        shown = sorted(moves, key=lambda move: -move.number)[: pages.size(request.page)]
        end = pages.cursor(table.name, [shown[-1].number, shown[-1].id]) if shown else ""
        page = PageInfo(end_cursor=end, has_next_page=info.has_next_page or len(moves) > len(shown))
        answer: dict[str, Any] = {"transitions": [_shaped(move) for move in shown], "page": page}
        return relation_pb2.ListTransitionsResponse(**answer)

    async def ListInteractions(
        self, request: relation_pb2.ListInteractionsRequest, context: Any
    ) -> relation_pb2.ListInteractionsResponse:  # fmt: skip
        members = (await self.consumers.people([request.consumer_id])).ids_of(request.consumer_id)
        table, only = await self.consumers.readable(self.relations.interactions, members)
        queries: list[Document] = [{"consumer_id": {"$in": members}}, {"brand_id": request.brand_id} if request.brand_id else {}, only]
        rows, info = await table.page({"$and": [query for query in queries if query]}, request.page, order=[("at", -1)])
        return relation_pb2.ListInteractionsResponse(interactions=rows, page=info)

    def _now(self, relation: Relation) -> Shaped:
        """A relation as of now, shaped like its message."""
        now, _ = rules.as_of(relation, self.clock())
        return shaped(as_document(now), relation_pb2.Relation.DESCRIPTOR)


def _shaped(move: Transition) -> Shaped:
    return shaped(as_document(move), relation_pb2.Transition.DESCRIPTOR)
