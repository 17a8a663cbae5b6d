"""A publisher and subscribers of events in one process, with real servers, collections and relay."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc

from quanyu.events.v1 import events_pb2, events_pb2_grpc
from services.kit import ids
from services.kit.backoff import Backoff
from services.kit.events.inbox import EventInbox, Handler
from services.kit.events.parked import ParkedEvents
from services.kit.events.relay import WATCHED_DELIVERIES, Relay
from services.kit.mongo.change_streams import ChangeStreamHub
from services.kit.mongo.client import Database
from services.kit.security.caller import Caller, caller_context
from services.kit.transactions.outbox import DELIVERIES, Outbox
from services.kit.transactions.unit_of_work import UnitOfWork

SOURCE = "district"
AT = datetime(2026, 3, 1, 13, 40, tzinfo=UTC)
SHORT_BACKOFF = Backoff(first_seconds=0.02, cap_seconds=0.1)
WAIT_SECONDS_MAX = 30.0
POLL_SECONDS = 0.01


def visit_event(key: str, number: int, source: str = SOURCE) -> events_pb2.Event:
    """Builds the event `number` of a key, without a sequence."""
    started = events_pb2.VisitStarted(visit_id=str(number), consumer_id=key)
    envelope: dict[str, Any] = {"id": ids.new("evt"), "key": key, "at": AT, "source": source, "visit_started": started}
    return events_pb2.Event(**envelope)


def number_events(events: Sequence[events_pb2.Event]) -> list[events_pb2.Event]:
    """Numbers the events of each key 1, 2, 3 …"""
    counters: dict[str, Any] = {}
    for event in events:
        event.sequence = next(counters.setdefault(event.key, itertools.count(1)))
    return list(events)


async def wait_until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """Waits until the condition returns a true value, and returns it."""
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while not (result := await condition()):  # noqa: ASYNC110 - the condition depends on the database
            await asyncio.sleep(POLL_SECONDS)
        return result


class UnauthenticatedInbox(EventInbox):
    """An inbox without authorization: it trusts the source that a batch names."""

    async def Deliver(self, request: events_pb2.DeliverRequest, context: Any) -> events_pb2.DeliverResponse:
        caller_context.set(Caller(f"service:{request.source}", issuer=request.source))
        return await super().Deliver(request, context)


@dataclass
class Subscriber:
    """A subscriber to visits that records the order of their effects. A visit whose key and number are in `failing` fails."""

    database: Database
    address: str = ""
    failing: set[tuple[str, str]] = field(default_factory=set)
    handlers: dict[str, Handler] = field(default_factory=dict)
    server: grpc.aio.Server | None = None

    async def effect(self, uow: UnitOfWork, event: events_pb2.Event) -> None:
        number = event.visit_started.visit_id
        await self.database["effects"].insert_one({"key": event.key, "number": int(number)}, session=uow.session)
        if (event.key, number) in self.failing:
            raise ValueError("this text must not leave the process")

    async def applied_numbers(self) -> dict[str, list[int]]:
        """Returns the numbers of the applied events by key, in order."""
        by_key: dict[str, list[int]] = {}
        async for effect in self.database["effects"].find().sort("_id", 1):
            by_key.setdefault(effect["key"], []).append(effect["number"])
        return by_key

    async def start(self) -> None:
        """Starts the server, at the same address as before."""
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handlers = {"visit_started": self.effect, **self.handlers}
        inbox = UnauthenticatedInbox(self.database, handlers, Outbox(self.database, "subscriber"))
        await inbox.prepare()
        events_pb2_grpc.add_EventInboxServiceServicer_to_server(inbox, self.server)
        port = self.server.add_insecure_port(self.address or "127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        await self.server.start()

    async def stop(self) -> None:
        """Stops the server."""
        if self.server is not None:
            await self.server.stop(None)


@dataclass
class Publisher:
    """A publisher of visits and its relay."""

    database: Database
    subscribers: Sequence[str]

    def __post_init__(self) -> None:
        self.outbox = Outbox(self.database, SOURCE, subscribers={"visit_started": self.subscribers})
        self.parked_events = ParkedEvents(self.database)

    async def publish(self, *events: events_pb2.Event) -> None:
        """Publishes events in one transaction."""
        await self.database.transact(lambda session: self.outbox.write(session, events))

    async def deliveries(self, **query: object) -> list[dict[str, Any]]:
        """Returns the deliveries that are not yet applied."""
        found: list[dict[str, Any]] = await self.database[DELIVERIES].find(query).sort("_id", 1).to_list(None)
        return found

    async def has_no_deliveries(self) -> bool:
        return await self.database[DELIVERIES].find_one({}, {"_id": 1}) is None

    @asynccontextmanager
    async def run_relay(self, addresses: Mapping[str, str], **options: Any) -> AsyncIterator[Relay]:
        """Runs the relay for the time of the block."""
        await self.outbox.prepare()
        channels = {name: grpc.aio.insecure_channel(address) for name, address in addresses.items()}
        change_streams = ChangeStreamHub(self.database, [WATCHED_DELIVERIES])
        relay = Relay(
            self.database, channels, source=SOURCE, change_streams=change_streams, retry=SHORT_BACKOFF, **({"lease_seconds": 2.0} | options)
        )
        tasks = [asyncio.create_task(change_streams.run()), asyncio.create_task(relay.run())]
        try:
            yield relay
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for channel in channels.values():
                await channel.close()
