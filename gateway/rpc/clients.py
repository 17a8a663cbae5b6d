"""gRPC clients of the services: any rpc by its request, on behalf of the current principal, within the operation's deadline.

A request message belongs to exactly one rpc (buf's RPC_REQUEST_RESPONSE_UNIQUE), so its type identifies the rpc.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from msgspec import Struct

from gateway.rpc.bulkhead import Bulkhead
from gateway.rpc.unary import unary
from services.kit.descriptors import full_name, method_of
from services.kit.rpc import channel
from services.kit.runtime.runtime import SERVICES
from services.kit.security.principals import Principal, Signer
from services.kit.settings import Settings

READY_SECONDS_MAX = 1.0
READY_KEPT_SECONDS = 0.25
WAITING_SHARE = 4
"""At most one in this many of the gateway's places is taken by operations that wait for one silent service."""

Descriptor: TypeAlias = Any
"""A protobuf descriptor. The two implementations of the library have no type in common."""

asking: ContextVar[Principal | None] = ContextVar("asking", default=None)
"""The principal of the current operation; None if it is anonymous and reaches public rpcs only."""


class Rpc(Struct, frozen=True):
    """One rpc: its service, path, and message types."""

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
    """Makes calls within the block on behalf of `principal`."""
    before = asking.set(principal)
    try:
        yield
    finally:
        asking.reset(before)


class Clients:
    """A channel and a bulkhead for each service. `await clients.call(request)` raises refusals of `services.kit.errors`."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.signer = settings, Signer("gateway", settings.signing_key)
        self.channels: dict[str, grpc.aio.Channel] = {}
        self.called: dict[type[Message], tuple[str, Callable[..., Any]]] = {}
        """The service and the callable of each request type used so far."""
        self.serving: asyncio.Task[dict[str, bool]] | None = None
        waiting_max = max(1, settings.operations_max // WAITING_SHARE)
        self.bulkheads = {service: Bulkhead(service, waiting_max) for service in SERVICES}

    async def open(self) -> None:
        """Opens the channels, in the event loop that uses them."""
        for name in SERVICES:
            address = getattr(self.settings, f"{name}_address")
            self.channels[name] = channel.open_bare_channel(address)

    def _token(self, audience: str) -> str:
        principal = asking.get()
        return self.signer.token(audience, principal) if principal is not None else ""

    def call(self, request: Message) -> Awaitable[Any]:
        """Calls a unary rpc; the awaitable is its response."""
        service, ask = self.rpc(type(request))
        timeout = channel.remaining(self.settings.deadline_seconds)
        return ask(request, timeout=timeout, metadata=channel.metadata_of(self._token(service)))  # type: ignore[no-any-return]

    def follow(self, request: Message) -> grpc.aio.UnaryStreamCall[Any, Any]:
        """Calls a streaming rpc, without a deadline; `channel.heard_each` reads its responses."""
        service, ask = self.rpc(type(request))
        call: grpc.aio.UnaryStreamCall[Any, Any] = ask(request, metadata=channel.metadata_of(self._token(service)))
        return call

    def rpc(self, kind: type[Message]) -> tuple[str, Callable[..., Any]]:
        """Returns the service and the callable of a request type."""
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
        """Returns which services are serving. The result is shared for `READY_KEPT_SECONDS`, since the endpoint is public."""
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
        except Exception:  # any failure means: not ready
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def close(self) -> None:
        """Closes all channels."""
        for opened in self.channels.values():
            await opened.close()
        self.channels.clear()
        self.called.clear()
