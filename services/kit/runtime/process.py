"""One process of the suite: settings, house, server, relay and background loops, from start to an orderly end."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import uvloop
from msgspec import Struct

from quanyu.facts.v1 import facts_pb2_grpc
from services.kit.errors import Unavailable
from services.kit.events import relay as relaying
from services.kit.events.backlog import FactOutbox
from services.kit.events.inbox import FactSink
from services.kit.events.relay import Relay
from services.kit.observability import logs, telemetry
from services.kit.rpc.server import Register, Server
from services.kit.rpc.streams import StreamBounds
from services.kit.runtime.runtime import SERVICES, House, Wiring
from services.kit.security import authorization
from services.kit.security.authorization import Gate
from services.kit.security.principals import Verifier
from services.kit.settings import Settings, SettingsError, load
from services.kit.transactions import idempotency

Wire = Callable[[House], Wiring]


class Running(Struct, frozen=True):
    """A service that answers at `address`."""

    house: House
    wiring: Wiring
    address: str
    relay: Relay
    background: tuple[asyncio.Task[None], ...] = ()


async def prepare(house: House, wiring: Wiring) -> None:
    """The collections and indexes a service needs; what is there already stays."""
    await house.database.ping()
    await idempotency.prepare(house.database)
    await house.outbox.prepare()
    await house.scopes.prepare()
    for table in wiring.tables:
        await table.prepare()


@asynccontextmanager
async def running(name: str, settings: Settings, wire: Wire, *, listen: str) -> AsyncIterator[Running]:
    """Service `name` for the time of the block, in this process. ValueError when an rpc has no rule or is not built."""
    house = House.build(name, settings)
    try:
        wiring = wire(house)
        sink = FactSink(house.database, wiring.facts, house.outbox, house.clock)
        verifier = Verifier(name, settings.issuers, development=settings.env == "development")
        servicers: list[Register] = [
            *wiring.servicers,
            (facts_pb2_grpc.add_FactSinkServiceServicer_to_server, sink),
            (facts_pb2_grpc.add_FactOutboxServiceServicer_to_server, FactOutbox(house.database)),
        ]
        bounds = StreamBounds(settings.streams_max, settings.streams_principal, settings.stream_seconds_max)
        server = Server(servicers, Gate(verifier, house.scopes), drain_seconds=settings.drain_seconds, bounds=bounds)
        await prepare(house, wiring)
        await sink.prepare()
        house.watch.add(relaying.WATCHED)
        peers = {peer: getattr(house.channels, peer) for peer in SERVICES if peer != name}
        relay = Relay(house.database, peers, source=name, watch=house.watch, clock=house.clock)
        await relay.prepare()
        port = await server.start(listen)
        tasks = [
            asyncio.create_task(_as_system(loop), name=f"{name}-background") for loop in (house.watch.run, relay.run, *wiring.background)
        ]
        try:
            yield Running(house, wiring, f"{listen.rpartition(':')[0]}:{port}", relay, tuple(tasks))
        finally:
            await server.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        await house.close()


async def _as_system(loop: Callable[[], Awaitable[None]]) -> None:
    """Background work runs as the service itself."""
    authorization.current.set(authorization.SYSTEM)
    await loop()


async def serve(name: str, settings: Settings, wire: Wire) -> None:
    """Runs service `name` until SIGTERM or SIGINT. A background loop that ends by an exception ends the process with it."""
    logs.configure(settings, name)
    telemetry.serve_metrics(settings.metrics_listen)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    listen = settings.listen or getattr(settings, f"{name}_address")
    async with running(name, settings, wire, listen=listen) as service:
        logs.logger().info("ready", address=service.address)
        waiting = asyncio.create_task(stopping.wait())
        ended, _ = await asyncio.wait([waiting, *service.background], return_when=asyncio.FIRST_COMPLETED)
        logs.logger().info("draining")
        for task in ended - {waiting}:
            raise RuntimeError(f"{task.get_name()} ended") from task.exception()


def main(name: str, wire: Wire) -> None:
    """The entry of `python -m services.<name>`: exit status 2 and one line when it cannot start."""
    try:
        settings = load(os.environ)
        uvloop.run(serve(name, settings, wire))
    except (SettingsError, Unavailable, OSError) as error:
        sys.exit(_cannot_start(name, str(error)))


def _cannot_start(name: str, why: str) -> int:
    print(f"{name} cannot start: {why}", file=sys.stderr)  # noqa: T201 - for the person who started it
    return 2
