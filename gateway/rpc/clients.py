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
from gateway.rpc.unary import create_unary
from services.kit.descriptors import full_name, method_of
from services.kit.rpc import channel
from services.kit.runtime.runtime import SERVICES
from services.kit.security.principals import Principal, Signer
from services.kit.settings import Settings

READY_SECONDS_MAX = 1.0
"""A service that does not answer a health check within this time is not ready."""
READY_TTL_SECONDS = 0.25
"""The result of a health check is shared this long."""
WAITING_SHARE = 4
"""Operations that wait for one silent service take at most one in this many slots of the gateway."""

Descriptor: TypeAlias = Any
"""A protobuf descriptor. The two implementations of the library have no type in common."""

current_principal: ContextVar[Principal | None] = ContextVar("current_principal", default=None)
"""The principal of the current operation; None if it is anonymous and may call public rpcs only."""


class Rpc(Struct, frozen=True):
    """One rpc: its service, path, and message types."""

    service: str
    path: str
    request: type[Message]
    response: type[Message]
    method: Descriptor


def rpc_of(request: type[Message]) -> Rpc:
    """Returns the rpc that takes this request; raises TypeError for another message."""
    method = method_of(request.DESCRIPTOR)
    service = method.containing_service.full_name.split(".")[1]
    return Rpc(service, f"/{full_name(method)}", request, GetMessageClass(method.output_type), method)


@contextmanager
def acting_as(principal: Principal | None) -> Iterator[None]:
    """Makes calls within the block on behalf of `principal`."""
    token = current_principal.set(principal)
    try:
        yield
    finally:
        current_principal.reset(token)


class Clients:
    """A channel and a bulkhead for each service. `await clients.call(request)` raises refusals of `services.kit.errors`."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.signer = settings, Signer("gateway", settings.signing_key)
        self.channels: dict[str, grpc.aio.Channel] = {}
        self.callables: dict[type[Message], tuple[str, Callable[..., Any]]] = {}
        """The service and the callable of each request type used so far."""
        self.readiness: asyncio.Task[dict[str, bool]] | None = None
        waiting_max = max(1, settings.operations_max // WAITING_SHARE)
        self.bulkheads = {service: Bulkhead(service, waiting_max) for service in SERVICES}

    async def open(self) -> None:
        """Opens the channels, in the event loop that uses them."""
        for name in SERVICES:
            address = getattr(self.settings, f"{name}_address")
            self.channels[name] = channel.open_unsigned_channel(address)

    def _token(self, audience: str) -> str:
        principal = current_principal.get()
        return self.signer.sign(audience, principal) if principal is not None else ""

    def call(self, request: Message) -> Awaitable[Any]:
        """Calls a unary rpc; the awaitable is its response."""
        service, call_rpc = self.find_callable(type(request))
        timeout = channel.remaining_seconds(self.settings.deadline_seconds)
        return call_rpc(request, timeout=timeout, metadata=channel.call_metadata(self._token(service)))  # type: ignore[no-any-return]

    def follow(self, request: Message) -> grpc.aio.UnaryStreamCall[Any, Any]:
        """Calls a streaming rpc, without a deadline; `channel.heard_each` reads its responses."""
        service, call_rpc = self.find_callable(type(request))
        call: grpc.aio.UnaryStreamCall[Any, Any] = call_rpc(request, metadata=channel.call_metadata(self._token(service)))
        return call

    def find_callable(self, request_type: type[Message]) -> tuple[str, Callable[..., Any]]:
        """Returns the service and the callable of a request type."""
        found = self.callables.get(request_type)
        if found is None:
            found = self.callables[request_type] = self._create_callable(request_type)
        return found

    def _create_callable(self, request_type: type[Message]) -> tuple[str, Callable[..., Any]]:
        rpc = rpc_of(request_type)
        opened, serialize, parse = self.channels[rpc.service], request_type.SerializeToString, rpc.response.FromString
        if rpc.method.server_streaming:
            return rpc.service, opened.unary_stream(rpc.path, request_serializer=serialize, response_deserializer=parse)
        return rpc.service, create_unary(opened, rpc.path, serialize, parse)

    async def ready(self) -> dict[str, bool]:
        """Returns which services are serving. The result is shared for `READY_TTL_SECONDS`, since the endpoint is public."""
        if self.readiness is None:
            self.readiness = asyncio.create_task(self._check_all())
            self.readiness.add_done_callback(lambda task: task.get_loop().call_later(READY_TTL_SECONDS, self._forget))
        return await asyncio.shield(self.readiness)

    def _forget(self) -> None:
        self.readiness = None

    async def _check_all(self) -> dict[str, bool]:
        results = await asyncio.gather(*map(self._is_serving, self.channels.values()))
        return dict(zip(self.channels, results, strict=True))

    async def _is_serving(self, opened: grpc.aio.Channel) -> bool:
        try:
            response = await health_pb2_grpc.HealthStub(opened).Check(health_pb2.HealthCheckRequest(), timeout=READY_SECONDS_MAX)
        except Exception:  # any failure means: not ready
            return False
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    async def close(self) -> None:
        """Closes all channels."""
        for opened in self.channels.values():
            await opened.close()
        self.channels.clear()
        self.callables.clear()
