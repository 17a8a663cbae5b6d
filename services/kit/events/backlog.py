"""What waits in the outbox, for operators: counts, parked events, and sending them again."""

from typing import Any

from quanyu.events.v1 import events_pb2, events_pb2_grpc
from services.kit.events.parked import Parked
from services.kit.mongo.client import Database, Document
from services.kit.mongo.codec import builtins
from services.kit.transactions.outbox import DELIVERIES, PARKED


class EventOutbox(events_pb2_grpc.EventOutboxServiceServicer):
    """Serves one service's outbox."""

    def __init__(self, database: Database) -> None:
        self.database, self.parked = database, Parked(database)

    async def GetBacklog(self, request: events_pb2.GetBacklogRequest, context: Any) -> events_pb2.GetBacklogResponse:
        parked = {"$sum": {"$cond": [{"$eq": ["$state", PARKED]}, 1, 0]}}
        grouped: list[Document] = [{"$group": {"_id": "$subscriber", "all": {"$sum": 1}, "parked": parked}}, {"$sort": {"_id": 1}}]
        rows = await (await self.database.aggregate(DELIVERIES, grouped)).to_list(None)
        backlogs = [events_pb2.Backlog(subscriber=row["_id"], waiting=row["all"] - row["parked"], parked=row["parked"]) for row in rows]
        return events_pb2.GetBacklogResponse(backlogs=backlogs)

    async def ListParkedEvents(self, request: events_pb2.ListParkedEventsRequest, context: Any) -> events_pb2.ListParkedEventsResponse:
        events: Any = [builtins(event) for event in await self.parked.list(request.subscriber, after=request.after)]
        return events_pb2.ListParkedEventsResponse(events=events)

    async def ReplayParkedEvents(
        self, request: events_pb2.ReplayParkedEventsRequest, context: Any
    ) -> events_pb2.ReplayParkedEventsResponse:
        replayed = await self.parked.replay(list(request.ids) or None, request.subscriber)
        return events_pb2.ReplayParkedEventsResponse(replayed=replayed)
