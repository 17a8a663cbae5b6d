"""Process of a service: starts settings, runtime, server, relay and background loops, and stops them in order."""

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
from services.kit.events import relay as event_relay
from services.kit.events.backlog import EventOutbox
from services.kit.events.inbox import EventInbox
from services.kit.events.relay import Relay
from services.kit.observability import logs, telemetry
from services.kit.rpc.server import Register, Server
from services.kit.rpc.streams import StreamBounds
from services.kit.runtime.runtime import SERVICES, Runtime, ServiceDefinition
from services.kit.security.authorization import Authorizer
from services.kit.security.caller import SYSTEM, caller_context
from services.kit.security.principals import Verifier
from services.kit.settings import Settings, SettingsError, load
from services.kit.transactions import idempotency

Define = Callable[[Runtime], ServiceDefinition]


class RunningService(Struct, frozen=True):
    """A running service and its address."""

    runtime: Runtime
    definition: ServiceDefinition
    address: str
    relay: Relay
    background: tuple[asyncio.Task[None], ...] = ()


async def prepare(runtime: Runtime, definition: ServiceDefinition) -> None:
    """Creates the missing collections and indexes of a service."""
    await runtime.database.ping()
    await idempotency.prepare(runtime.database)
    await runtime.outbox.prepare()
    await runtime.scopes.prepare()
    for collection in definition.collections:
        await collection.prepare()


@asynccontextmanager
async def run_service(name: str, settings: Settings, define: Define, *, listen: str) -> AsyncIterator[RunningService]:
    """Runs service `name` in this process for the time of the block. ValueError if an rpc has no rule or is not implemented."""
    runtime = Runtime.build(name, settings)
    try:
        definition = define(runtime)
        inbox = EventInbox(runtime.database, definition.events, runtime.outbox, runtime.clock)
        verifier = Verifier(name, settings.issuers, development=settings.env == "development")
        servicers: list[Register] = [
            *definition.servicers,
            (events_pb2_grpc.add_EventInboxServiceServicer_to_server, inbox),
            (events_pb2_grpc.add_EventOutboxServiceServicer_to_server, EventOutbox(runtime.database)),
        ]
        bounds = StreamBounds(settings.streams_max, settings.streams_principal, settings.stream_seconds_max)
        server = Server(servicers, Authorizer(verifier, runtime.scopes), drain_seconds=settings.drain_seconds, bounds=bounds)
        await prepare(runtime, definition)
        await inbox.prepare()
        runtime.change_streams.add(event_relay.WATCHED_DELIVERIES)
        peers = {peer: getattr(runtime.channels, peer) for peer in SERVICES if peer != name}
        relay = Relay(runtime.database, peers, source=name, change_streams=runtime.change_streams, clock=runtime.clock)
        await relay.prepare()
        port = await server.start(listen)
        tasks = [
            asyncio.create_task(_as_system(loop), name=f"{name}-background")
            for loop in (runtime.change_streams.run, relay.run, *definition.background)
        ]
        try:
            yield RunningService(runtime, definition, f"{listen.rpartition(':')[0]}:{port}", relay, tuple(tasks))
        finally:
            await server.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        await runtime.close()


async def _as_system(loop: Callable[[], Awaitable[None]]) -> None:
    """Runs background work as the service itself."""
    caller_context.set(SYSTEM)
    await loop()


async def serve(name: str, settings: Settings, define: Define) -> None:
    """Runs service `name` until SIGTERM or SIGINT. A background loop that ends by an exception ends the process with it."""
    logs.configure(settings, name)
    telemetry.serve_metrics(settings.metrics_listen)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    listen = settings.listen or getattr(settings, f"{name}_address")
    async with run_service(name, settings, define, listen=listen) as service:
        logs.logger().info("ready", address=service.address)
        waiting = asyncio.create_task(stopping.wait())
        ended, _ = await asyncio.wait([waiting, *service.background], return_when=asyncio.FIRST_COMPLETED)
        logs.logger().info("draining")
        for task in ended - {waiting}:
            raise RuntimeError(f"The background loop {task.get_name()} has ended. Restart the process.") from task.exception()


def main(name: str, define: Define) -> None:
    """Runs `python -m services.<name>`; if it cannot start, prints one line and exits with status 2."""
    try:
        settings = load(os.environ)
        uvloop.run(serve(name, settings, define))
    except (SettingsError, Unavailable, OSError) as error:
        sys.exit(_report_start_error(name, str(error)))


def _report_start_error(name: str, reason: str) -> int:
    print(f"{name} cannot start: {reason}", file=sys.stderr)  # noqa: T201 - for the operator
    return 2
