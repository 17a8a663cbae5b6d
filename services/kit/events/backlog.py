"""What waits in the outbox, for operators: counts, parked facts, and sending them again."""

from typing import Any

from quanyu.facts.v1 import facts_pb2, facts_pb2_grpc
from services.kit.events.parked import Parked
from services.kit.mongo.client import Database, Document
from services.kit.mongo.codec import builtins
from services.kit.transactions.outbox import DELIVERIES, PARKED


class FactOutbox(facts_pb2_grpc.FactOutboxServiceServicer):
    """Serves one service's outbox."""

    def __init__(self, database: Database) -> None:
        self.database, self.parked = database, Parked(database)

    async def GetBacklog(self, request: facts_pb2.GetBacklogRequest, context: Any) -> facts_pb2.GetBacklogResponse:
        parked = {"$sum": {"$cond": [{"$eq": ["$state", PARKED]}, 1, 0]}}
        grouped: list[Document] = [{"$group": {"_id": "$listener", "all": {"$sum": 1}, "parked": parked}}, {"$sort": {"_id": 1}}]
        rows = await (await self.database.aggregate(DELIVERIES, grouped)).to_list(None)
        backlogs = [facts_pb2.Backlog(listener=row["_id"], waiting=row["all"] - row["parked"], parked=row["parked"]) for row in rows]
        return facts_pb2.GetBacklogResponse(backlogs=backlogs)

    async def ListParkedFacts(self, request: facts_pb2.ListParkedFactsRequest, context: Any) -> facts_pb2.ListParkedFactsResponse:
        facts: Any = [builtins(fact) for fact in await self.parked.list(request.listener, after=request.after)]
        return facts_pb2.ListParkedFactsResponse(facts=facts)

    async def ReplayParkedFacts(self, request: facts_pb2.ReplayParkedFactsRequest, context: Any) -> facts_pb2.ReplayParkedFactsResponse:
        replayed = await self.parked.replay(list(request.ids) or None, request.listener)
        return facts_pb2.ReplayParkedFactsResponse(replayed=replayed)
