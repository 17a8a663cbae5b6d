"""The services as the gateway calls them: any rpc by its request, on behalf of whoever asks, within what is left of the operation's time.

A request message belongs to exactly one rpc (buf's RPC_REQUEST_RESPONSE_UNIQUE), so that its type says which one is meant.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from msgspec import Struct

from gateway.unary import unary
from services.kit import channel
from services.kit.descriptors import full_name, method_of
from services.kit.errors import Overloaded, Refusal, Unavailable
from services.kit.house import SERVICES
from services.kit.principals import Principal, Signer
from services.kit.settings import Settings

READY_SECONDS_MAX = 1.0
READY_KEPT_SECONDS = 0.25
WAITING_SHARE = 4
"""One of so many places, at most, is taken by operations that wait for one service which says nothing."""
SILENT_SECONDS_MAX = 1.0
"""After which that is so. Of one that answers there may wait as many as there are places: the door sends away whoever is too many."""

Descriptor: TypeAlias = Any
"""A descriptor; the library's two implementations share no type."""

asking: ContextVar[Principal | None] = ContextVar("asking", default=None)
"""Whoever the current operation is for; None: nobody signed in, who reaches public rpcs only."""


class Rpc(Struct, frozen=True):
    """One rpc: the service of the suite that answers it, its path, and what it answers."""

    service: str
    path: str
    request: type[Message]
    response: type[Message]
    method: Descriptor


def rpc_of(request: type[Message]) -> Rpc:
    """Returns the rpc that takes this request; TypeError if it is no request."""
    method = method_of(request.DESCRIPTOR)
    service = method.containing_service.full_name.split(".")[1]
    return Rpc(service, f"/{full_name(method)}", request, GetMessageClass(method.output_type), method)


@contextmanager
def acting_as(principal: Principal | None) -> Iterator[None]:
    """Calls within the block are made on behalf of `principal`."""
    before = asking.set(principal)
    try:
        yield
    finally:
        asking.reset(before)


class Clients:
    """A channel to each service and the rpcs called so far. `await clients.call(request)` raises refusals of `services.kit.errors`."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.signer = settings, Signer("gateway", settings.signing_key)
        self.channels: dict[str, grpc.aio.Channel] = {}
        self.called: dict[type[Message], tuple[str, Callable[..., Any]]] = {}
        """Of each request, the service that answers it and its rpc."""
        self.serving: asyncio.Task[dict[str, bool]] | None = None
        self.waiting = dict.fromkeys(SERVICES, 0)
        """The operations that wait for each service."""
        self.heard_at = dict.fromkeys(SERVICES, 0.0)
        """When each of them answered last, or was first waited for since."""
        self.waiting_max = max(1, settings.operations_max // WAITING_SHARE)

    async def open(self) -> None:
        """Opens the channels, in the event loop that uses them."""
        for name in SERVICES:
            address = getattr(self.settings, f"{name}_address")
            self.channels[name] = channel.open_bare_channel(address)

    def _token(self, audience: str) -> str:
        principal = asking.get()
        return self.signer.token(audience, principal) if principal is not None else ""

    def wait(self, service: str) -> None:
        """Counts an operation that waits for the service: a slow one costs its own fields, and not the places of all others."""
        if self.full(service):
            raise Overloaded("SERVICE_OVERLOADED", f"too many operations wait for {service}; try again")
        self.count(service)

    def full(self, service: str) -> bool:
        """Whether as many wait for a silent service as may."""
        return self.waiting[service] >= self.waiting_max and time.monotonic() > self.heard_at[service] + SILENT_SECONDS_MAX

    def count(self, service: str) -> None:
        """Counts one more who waits."""
        if not self.waiting[service]:
            # Who was asked for nothing was silent for no other reason.
            self.heard_at[service] = time.monotonic()
        self.waiting[service] += 1

    def heard(self, service: str, refusal: Refusal | None = None) -> None:
        """The service has said something; no, where `refusal` says that it could not be asked."""
        if not isinstance(refusal, Unavailable):
            self.heard_at[service] = time.monotonic()

    def call(self, request: Message) -> Awaitable[Any]:
        """The rpc's answer."""
        service, ask = self.rpc(type(request))
        timeout = channel.remaining(self.settings.deadline_seconds)
        return ask(request, timeout=timeout, metadata=channel.metadata_of(self._token(service)))  # type: ignore[no-any-return]

    def follow(self, request: Message) -> grpc.aio.UnaryStreamCall[Any, Any]:
        """The call of a streaming rpc, without a deadline; `channel.heard_each` tells what it answers."""
        service, ask = self.rpc(type(request))
        call: grpc.aio.UnaryStreamCall[Any, Any] = ask(request, metadata=channel.metadata_of(self._token(service)))
        return call

    def rpc(self, kind: type[Message]) -> tuple[str, Callable[..., Any]]:
        """The service that answers such requests, and how it is asked."""
        called = self.called.get(kind)
        if called is None:
            called = self.called[kind] = self._called(kind)
        return called

    def _called(self, kind: type[Message]) -> tuple[str, Callable[..., Any]]:
        rpc = rpc_of(kind)
        opened, parse = self.channels[rpc.service], rpc.response.FromString
        if rpc.method.server_streaming:
            return rpc.service, opened.unary_stream(rpc.path, request_serializer=kind.SerializeToString, response_deserializer=parse)
        return rpc.service, unary(opened, rpc.path, kind.SerializeToString, parse)

    async def ready(self) -> dict[str, bool]:
        """Which services say that they serve. They are asked once at a time, and then not for `READY_KEPT_SECONDS`: anybody may ask us."""
        if self.serving is None:
            self.serving = asyncio.create_task(self._all_serving())
            self.serving.add_done_callback(lambda task: task.get_loop().call_later(READY_KEPT_SECONDS, self._forget))
        return await asyncio.shield(self.serving)

    def _forget(self) -> None:
        self.serving = None

    async def _all_serving(self) -> dict[str, bool]:
        serving = await asyncio.gather(*map(self._serving, self.channels.values()))
        return dict(zip(self.channels, serving, strict=True))

    async def _serving(self, opened: grpc.aio.Channel) -> bool:
        try:
            answer = await health_pb2_grpc.HealthStub(opened).Check(health_pb2.HealthCheckRequest(), timeout=READY_SECONDS_MAX)
        except Exception:  # whatever it is: not ready
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def close(self) -> None:
        """Ends all channels."""
        for opened in self.channels.values():
            await opened.close()
        self.channels.clear()
        self.called.clear()
