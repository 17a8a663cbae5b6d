"""Outbox service for operators: counts of waiting events, the list of parked events, and their replay."""

from typing import Any

from quanyu.events.v1 import events_pb2, events_pb2_grpc
from services.kit.events.parked import ParkedEvents
from services.kit.mongo.client import Database, Document
from services.kit.mongo.codec import to_builtins
from services.kit.transactions.outbox import DELIVERIES, PARKED


class EventOutbox(events_pb2_grpc.EventOutboxServiceServicer):
    """Serves the outbox of one service."""

    def __init__(self, database: Database) -> None:
        self.database, self.parked_events = database, ParkedEvents(database)

    async def GetBacklog(self, request: events_pb2.GetBacklogRequest, context: Any) -> events_pb2.GetBacklogResponse:
        parked = {"$sum": {"$cond": [{"$eq": ["$state", PARKED]}, 1, 0]}}
        grouped: list[Document] = [{"$group": {"_id": "$subscriber", "all": {"$sum": 1}, "parked": parked}}, {"$sort": {"_id": 1}}]
        documents = await (await self.database.aggregate(DELIVERIES, grouped)).to_list(None)
        backlogs = [
            events_pb2.Backlog(subscriber=document["_id"], waiting=document["all"] - document["parked"], parked=document["parked"])
            for document in documents
        ]
        return events_pb2.GetBacklogResponse(backlogs=backlogs)

    async def ListParkedEvents(self, request: events_pb2.ListParkedEventsRequest, context: Any) -> events_pb2.ListParkedEventsResponse:
        events: Any = [to_builtins(event) for event in await self.parked_events.list(request.subscriber, after=request.after)]
        return events_pb2.ListParkedEventsResponse(events=events)

    async def ReplayParkedEvents(
        self, request: events_pb2.ReplayParkedEventsRequest, context: Any
    ) -> events_pb2.ReplayParkedEventsResponse:
        replayed = await self.parked_events.replay(list(request.ids) or None, request.subscriber)
        return events_pb2.ReplayParkedEventsResponse(replayed=replayed)
