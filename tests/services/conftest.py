"""Fixtures of the real services in this process, on free ports and a real MongoDB: `member`, `commerce`, `district`, `organization`."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module

import grpc
import msgspec
import pytest

from quanyu.events.v1 import events_pb2, events_pb2_grpc
from services.kit import clock
from services.kit.mongo.client import Database
from services.kit.rpc.channel import open_channel
from services.kit.runtime.process import RunningService, run_service
from services.kit.runtime.runtime import SERVICES
from services.kit.security.principals import INSTALLATION, SERVICE, Grant, Principal, Signer
from services.kit.settings import Settings
from services.kit.transactions.outbox import DELIVERIES, Outbox
from services.kit.values.event import Event
from services.local.keys import Keys, new_keys
from services.local.mongod import free_port

DEADLINE_SECONDS = 20.0
OPERATOR = Grant("ROLE_OPERATOR", INSTALLATION)


class ServiceHarness:
    """A running service, and its clients in a test."""

    def __init__(self, service: RunningService, keys: Keys) -> None:
        self.runtime, self.definition, self.address, self.relay = service.runtime, service.definition, service.address, service.relay
        self.database = service.runtime.database
        self.keys = keys
        self.channels: list[grpc.aio.Channel] = []
        self.gateway = Signer("gateway", keys.signing_setting("gateway"))

    def channel_as(self, *grants: Grant, subject: str = "tester", offset: float = 0.0) -> grpc.aio.Channel:
        """Opens a channel as a principal with these grants; its calls raise the refusals of `kit.errors`."""
        principal = Principal(id=subject, grants=grants, clock_offset=offset)
        channel = open_channel(self.address, lambda: self.gateway.sign(self.runtime.name, principal), DEADLINE_SECONDS)
        self.channels.append(channel)
        return channel

    def anonymous(self) -> grpc.aio.Channel:
        """Opens a channel without a principal; refused calls raise `grpc.aio.AioRpcError`."""
        channel = grpc.aio.insecure_channel(self.address)
        self.channels.append(channel)
        return channel

    async def deliver(self, *items: Event | events_pb2.Event, source: str, signed_by: str = "") -> list[events_pb2.Delivery]:
        """Delivers events of `source` through the real rpc, with the next sequences of their keys.

        `source` signs the call, unless `signed_by` names another issuer.
        """
        outbox = Outbox(self.database, source)
        events = [item if isinstance(item, events_pb2.Event) else outbox.to_message(item, clock.now()) for item in items]
        sequences: dict[str, int] = {}
        for event in events:
            if not event.sequence:
                if event.key not in sequences:
                    last = await self.database["inbox"].find_one({"_id": f"{source}:{event.key}"})
                    sequences[event.key] = last["sequence"] if last else 0
                sequences[event.key] += 1
                event.sequence = sequences[event.key]
        issuer = signed_by or source
        signer = Signer(issuer, self.keys.signing_setting(issuer))
        principal = Principal(id=f"service:{source}", grants=(Grant(SERVICE, INSTALLATION),))
        channel = open_channel(self.address, lambda: signer.sign(self.runtime.name, principal), DEADLINE_SECONDS)
        async with channel:
            response = await events_pb2_grpc.EventInboxServiceStub(channel).Deliver(events_pb2.DeliverRequest(source=source, events=events))
        return list(response.deliveries)

    async def published_events(self) -> list[events_pb2.Event]:
        """Returns the events in the outbox, each once, in order for each key."""
        deliveries = await self.database[DELIVERIES].find().to_list(None)
        events = [events_pb2.Event.FromString(delivery["event"]) for delivery in deliveries]
        return sorted({event.id: event for event in events}.values(), key=lambda event: (event.key, event.sequence))

    async def close(self) -> None:
        for channel in self.channels:
            await channel.close()


Start = Callable[..., Awaitable[dict[str, ServiceHarness]]]


@pytest.fixture(scope="session")
def keys() -> Keys:
    return new_keys()


@asynccontextmanager
async def run_services(settings: Settings, keys: Keys) -> AsyncIterator[Start]:
    """Yields `start`: `await start("member", "district")` runs these services with each other's addresses; the others are unreachable."""
    shared = msgspec.structs.replace(
        settings,
        issuers=keys.issuers_setting(),
        token_keys=keys.tokens_setting(),
        secret_keys=keys.secret_key,
        hash_keys=keys.hash_key,
        **{f"{name}_address": f"127.0.0.1:{free_port()}" for name in SERVICES},
    )
    async with AsyncExitStack() as stack:

        async def start_services(*names: str) -> dict[str, ServiceHarness]:
            services = {}
            for name in names:
                own = msgspec.structs.replace(shared, signing_key=keys.signing_setting(name))
                define = import_module(f"services.{name}.__main__").define
                service = await stack.enter_async_context(run_service(name, own, define, listen=getattr(own, f"{name}_address")))
                services[name] = ServiceHarness(service, keys)
                stack.push_async_callback(services[name].close)
            return services

        yield start_services
    for name in SERVICES:
        database = Database(settings, f"{settings.database_prefix}_{name}")
        await database.release_orphans(0)
        await database.client.drop_database(database.name)
        await database.close()


@pytest.fixture
async def start(settings: Settings, keys: Keys) -> AsyncIterator[Start]:
    """See `run_services`."""
    async with run_services(settings, keys) as start_services:
        yield start_services


def _service_fixture(name: str) -> Callable[[Start], Awaitable[ServiceHarness]]:
    @pytest.fixture(name=name)
    async def service(start: Start) -> ServiceHarness:
        """Runs this service alone; the others are unreachable."""
        return (await start(name))[name]

    return service  # type: ignore[return-value]


member = _service_fixture("member")
commerce = _service_fixture("commerce")
district = _service_fixture("district")
organization = _service_fixture("organization")
