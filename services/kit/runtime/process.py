"""One process of the suite: settings, runtime, server, relay and background loops, from start to an orderly end."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import uvloop
from msgspec import Struct

from quanyu.events.v1 import events_pb2_grpc
from services.kit.errors import Unavailable
from services.kit.events import relay as relaying
from services.kit.events.backlog import EventOutbox
from services.kit.events.inbox import EventInbox
from services.kit.events.relay import Relay
from services.kit.observability import logs, telemetry
from services.kit.rpc.server import Register, Server
from services.kit.rpc.streams import StreamBounds
from services.kit.runtime.runtime import SERVICES, Runtime, ServiceDefinition
from services.kit.security import authorization
from services.kit.security.authorization import Authorizer
from services.kit.security.principals import Verifier
from services.kit.settings import Settings, SettingsError, load
from services.kit.transactions import idempotency

Define = Callable[[Runtime], ServiceDefinition]


class Running(Struct, frozen=True):
    """A service that answers at `address`."""

    runtime: Runtime
    definition: ServiceDefinition
    address: str
    relay: Relay
    background: tuple[asyncio.Task[None], ...] = ()


async def prepare(runtime: Runtime, definition: ServiceDefinition) -> None:
    """The collections and indexes a service needs; what is there already stays."""
    await runtime.database.ping()
    await idempotency.prepare(runtime.database)
    await runtime.outbox.prepare()
    await runtime.scopes.prepare()
    for table in definition.tables:
        await table.prepare()


@asynccontextmanager
async def running(name: str, settings: Settings, define: Define, *, listen: str) -> AsyncIterator[Running]:
    """Service `name` for the time of the block, in this process. ValueError when an rpc has no rule or is not built."""
    runtime = Runtime.build(name, settings)
    try:
        definition = define(runtime)
        sink = EventInbox(runtime.database, definition.events, runtime.outbox, runtime.clock)
        verifier = Verifier(name, settings.issuers, development=settings.env == "development")
        servicers: list[Register] = [
            *definition.servicers,
            (events_pb2_grpc.add_EventInboxServiceServicer_to_server, sink),
            (events_pb2_grpc.add_EventOutboxServiceServicer_to_server, EventOutbox(runtime.database)),
        ]
        bounds = StreamBounds(settings.streams_max, settings.streams_principal, settings.stream_seconds_max)
        server = Server(servicers, Authorizer(verifier, runtime.scopes), drain_seconds=settings.drain_seconds, bounds=bounds)
        await prepare(runtime, definition)
        await sink.prepare()
        runtime.change_streams.add(relaying.WATCHED)
        peers = {peer: getattr(runtime.channels, peer) for peer in SERVICES if peer != name}
        relay = Relay(runtime.database, peers, source=name, watch=runtime.change_streams, clock=runtime.clock)
        await relay.prepare()
        port = await server.start(listen)
        tasks = [
            asyncio.create_task(_as_system(loop), name=f"{name}-background")
            for loop in (runtime.change_streams.run, relay.run, *definition.background)
        ]
        try:
            yield Running(runtime, definition, f"{listen.rpartition(':')[0]}:{port}", relay, tuple(tasks))
        finally:
            await server.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        await runtime.close()


async def _as_system(loop: Callable[[], Awaitable[None]]) -> None:
    """Background work runs as the service itself."""
    authorization.current.set(authorization.SYSTEM)
    await loop()


async def serve(name: str, settings: Settings, define: Define) -> None:
    """Runs service `name` until SIGTERM or SIGINT. A background loop that ends by an exception ends the process with it."""
    logs.configure(settings, name)
    telemetry.serve_metrics(settings.metrics_listen)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    listen = settings.listen or getattr(settings, f"{name}_address")
    async with running(name, settings, define, listen=listen) as service:
        logs.logger().info("ready", address=service.address)
        waiting = asyncio.create_task(stopping.wait())
        ended, _ = await asyncio.wait([waiting, *service.background], return_when=asyncio.FIRST_COMPLETED)
        logs.logger().info("draining")
        for task in ended - {waiting}:
            raise RuntimeError(f"{task.get_name()} ended") from task.exception()


def main(name: str, define: Define) -> None:
    """The entry of `python -m services.<name>`: exit status 2 and one line when it cannot start."""
    try:
        settings = load(os.environ)
        uvloop.run(serve(name, settings, define))
    except (SettingsError, Unavailable, OSError) as error:
        sys.exit(_cannot_start(name, str(error)))


def _cannot_start(name: str, why: str) -> int:
    print(f"{name} cannot start: {why}", file=sys.stderr)  # noqa: T201 - for the person who started it
    return 2
