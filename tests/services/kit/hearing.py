"""A service that tells events and services that hear them, whole and in this process: real servers, real collections, real relay."""

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
QUICK = Backoff(first_seconds=0.02, cap_seconds=0.1)
WAIT_SECONDS_MAX = 30.0
POLL_SECONDS = 0.01


def visit(key: str, number: int, source: str = SOURCE) -> events_pb2.Event:
    """The event `number` of a key, not yet in sequence."""
    started = events_pb2.VisitStarted(visit_id=str(number), consumer_id=key)
    envelope: dict[str, Any] = {"id": ids.new("evt"), "key": key, "at": AT, "source": source, "visit_started": started}
    return events_pb2.Event(**envelope)


def sequenced(events: Sequence[events_pb2.Event]) -> list[events_pb2.Event]:
    """The events numbered 1, 2, 3 … in each key."""
    counters: dict[str, Any] = {}
    for event in events:
        event.sequence = next(counters.setdefault(event.key, itertools.count(1)))
    return list(events)


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """What the condition answers as soon as it is true."""
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while not (answer := await condition()):  # noqa: ASYNC110 - the condition lies in the database
            await asyncio.sleep(POLL_SECONDS)
        return answer


class Trusting(EventInbox):
    """Takes a batch as signed by whom it names: there is no gate before it that knows who signed."""

    async def Deliver(self, request: events_pb2.DeliverRequest, context: Any) -> events_pb2.DeliverResponse:
        caller_context.set(Caller(f"service:{request.source}", issuer=request.source))
        return await super().Deliver(request, context)


@dataclass
class Listener:
    """Hears visits: writes each effect with the place it came in. Visits whose number is in `refused` fail."""

    database: Database
    address: str = ""
    refused: set[tuple[str, str]] = field(default_factory=set)
    handlers: dict[str, Handler] = field(default_factory=dict)
    server: grpc.aio.Server | None = None

    async def effect(self, uow: UnitOfWork, event: events_pb2.Event) -> None:
        number = event.visit_started.visit_id
        await self.database["effects"].insert_one({"key": event.key, "number": int(number)}, session=uow.session)
        if (event.key, number) in self.refused:
            raise ValueError("this text must not cross")

    async def applied(self) -> dict[str, list[int]]:
        """The numbers that took effect, in order, by key."""
        by_key: dict[str, list[int]] = {}
        async for effect in self.database["effects"].find().sort("_id", 1):
            by_key.setdefault(effect["key"], []).append(effect["number"])
        return by_key

    async def start(self) -> None:
        """Listens, at the same address as before."""
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handlers = {"visit_started": self.effect, **self.handlers}
        sink = Trusting(self.database, handlers, Outbox(self.database, "subscriber"))
        await sink.prepare()
        events_pb2_grpc.add_EventInboxServiceServicer_to_server(sink, self.server)
        port = self.server.add_insecure_port(self.address or "127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        await self.server.start()

    async def stop(self) -> None:
        """Answers nobody any more."""
        if self.server is not None:
            await self.server.stop(None)


@dataclass
class Sender:
    """Tells visits to the subscribers and relays them."""

    database: Database
    subscribers: Sequence[str]

    def __post_init__(self) -> None:
        self.outbox = Outbox(self.database, SOURCE, subscribers={"visit_started": self.subscribers})
        self.parked = ParkedEvents(self.database)

    async def tell(self, *events: events_pb2.Event) -> None:
        """Tells events in one transaction."""
        await self.database.transact(lambda session: self.outbox.write(session, events))

    async def rows(self, **query: object) -> list[dict[str, Any]]:
        """The rows that wait."""
        found: list[dict[str, Any]] = await self.database[DELIVERIES].find(query).sort("_id", 1).to_list(None)
        return found

    async def nothing_left(self) -> bool:
        return await self.database[DELIVERIES].find_one({}, {"_id": 1}) is None

    @asynccontextmanager
    async def relaying(self, addresses: Mapping[str, str], **options: Any) -> AsyncIterator[Relay]:
        """Relays for the time of the block."""
        await self.outbox.prepare()
        channels = {name: grpc.aio.insecure_channel(address) for name, address in addresses.items()}
        watch = ChangeStreamHub(self.database, [WATCHED_DELIVERIES])
        relay = Relay(self.database, channels, source=SOURCE, change_streams=watch, retry=QUICK, **({"lease_seconds": 2.0} | options))
        tasks = [asyncio.create_task(watch.run()), asyncio.create_task(relay.run())]
        try:
            yield relay
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for channel in channels.values():
                await channel.close()
