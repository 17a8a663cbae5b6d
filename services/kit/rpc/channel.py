"""gRPC channels to other services: calls are signed, have a propagated deadline, and are balanced round robin over replicas.

Each rpc of the suite may be repeated, since writes are idempotent by their `request_id`. So the channel retries UNAVAILABLE itself.
"""

import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any, TypeVar

import grpc

from services.kit import clock
from services.kit.errors import Unavailable
from services.kit.observability import telemetry
from services.kit.rpc import status
from services.kit.security import authorization
from services.kit.security.caller import current_caller
from services.kit.security.principals import INSTALLATION, SERVICE, Grant, Principal, Signer

Response = TypeVar("Response")
CallMetadata = tuple[tuple[str, str], ...]

deadline: ContextVar[float | None] = ContextVar("deadline", default=None)
"""The deadline of the current rpc in monotonic seconds."""
RESPONSE_MARGIN_SECONDS = 0.05
"""An rpc keeps this much of its remaining time to respond after its own calls."""
MESSAGE_BYTES_MAX = 16 * 1024 * 1024
"""A message has at most this many bytes."""

CURSOR_KEY = "quanyu-cursor"
"""The initial metadata of a change feed has the cursor of its start, to resume a stream that breaks before its first response."""
KEEPALIVE_MS = 60_000
"""An idle channel sends a ping this often."""

LIMITS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
]
OPTIONS: list[tuple[str, Any]] = [
    *LIMITS,
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", 10_000),
    (
        "grpc.service_config",
        json.dumps(
            {
                "loadBalancingConfig": [{"round_robin": {}}],
                "methodConfig": [
                    {
                        "name": [{}],
                        "retryPolicy": {
                            "maxAttempts": 3,
                            "initialBackoff": "0.05s",
                            "maxBackoff": "0.5s",
                            "backoffMultiplier": 2,
                            "retryableStatusCodes": ["UNAVAILABLE"],
                        },
                    }
                ],
                # Retries must not triple the load of a service that is down.
                "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
                "healthCheckConfig": {"serviceName": ""},
            }
        ),
    ),
]


def remaining_seconds(default_seconds: float) -> float:
    """Returns the timeout of a call: the remaining time of the current rpc without the margin to respond, at most the default.

    `Unavailable` if no time remains.
    """
    ends_at = deadline.get()
    if ends_at is None:
        return default_seconds
    left = ends_at - time.monotonic() - RESPONSE_MARGIN_SECONDS
    if left <= 0:
        raise Unavailable("DEADLINE_EXCEEDED", "The deadline is too short for a call to another service. Set a longer one.")
    return min(left, default_seconds)


def call_metadata(token: str) -> CallMetadata:
    """Returns the metadata of a call: the signed principal (none if the token is empty) and the trace."""
    principal = ((authorization.METADATA_KEY, token),) if token else ()
    trace = telemetry.context_metadata()
    return (*trace, *principal) if trace else principal


async def await_response(call: Awaitable[Any]) -> Any:
    """Returns the response of a call; raises the refusal that its status carries."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        if refusal := status.from_rpc_error(error):
            raise refusal from None
        raise


async def iterate_responses(call: grpc.aio.UnaryStreamCall[Any, Response]) -> AsyncGenerator[Response, None]:
    """Yields the responses of a streaming call; raises the refusal that its status carries. Closing the generator cancels the call."""
    try:
        async for response in call:
            yield response
    except grpc.aio.AioRpcError as error:
        if refusal := status.from_rpc_error(error):
            raise refusal from None
        raise
    finally:
        call.cancel()


class SigningStreamInterceptor(grpc.aio.UnaryStreamClientInterceptor):
    """Adds principal and trace to each streaming call. A stream has no deadline; `iterate_responses` raises its refusals."""

    def __init__(self, principal_token: Callable[[], str]) -> None:
        self.principal_token = principal_token

    async def intercept_unary_stream(self, continuation: Any, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), *call_metadata(self.principal_token()))
        signed = grpc.aio.ClientCallDetails(details.method, details.timeout, metadata, details.credentials, details.wait_for_ready)
        return await continuation(signed, request)


class SigningUnaryInterceptor(grpc.aio.UnaryUnaryClientInterceptor):
    """Adds principal, deadline and trace to each unary call, and raises refusals."""

    def __init__(self, principal_token: Callable[[], str], deadline_seconds: float) -> None:
        self.principal_token, self.deadline_seconds = principal_token, deadline_seconds

    async def intercept_unary_unary(self, continuation: Any, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), *call_metadata(self.principal_token()))
        timeout = details.timeout or remaining_seconds(self.deadline_seconds)
        signed = grpc.aio.ClientCallDetails(details.method, timeout, metadata, details.credentials, details.wait_for_ready)
        return await await_response(await continuation(signed, request))


def open_channel(address: str, principal_token: Callable[[], str], deadline_seconds: float) -> grpc.aio.Channel:
    """Opens a signed channel to `host:port`, or to `dns:///name:port`, whose addresses are used round robin."""
    return grpc.aio.insecure_channel(
        address,
        options=OPTIONS,
        interceptors=[SigningUnaryInterceptor(principal_token, deadline_seconds), SigningStreamInterceptor(principal_token)],
    )


def open_unsigned_channel(address: str) -> grpc.aio.Channel:
    """Opens a channel without interceptors, for callers that add metadata and deadline themselves; this saves a task for each call."""
    return grpc.aio.insecure_channel(address, options=OPTIONS)


class Channels:
    """The channels of one service to the others, opened at first use: `channels.member`. The principal of their calls is this service."""

    def __init__(self, source: str, signer: Signer, addresses: dict[str, str], deadline_seconds: float) -> None:
        self.source, self.signer, self.addresses, self.deadline_seconds = source, signer, addresses, deadline_seconds
        self._channels: dict[str, grpc.aio.Channel] = {}

    def __getattr__(self, peer: str) -> grpc.aio.Channel:
        if peer.startswith("_") or peer not in self.addresses:
            raise AttributeError(peer)
        if peer not in self._channels:
            self._channels[peer] = open_channel(self.addresses[peer], lambda: self._sign(peer), self.deadline_seconds)
        return self._channels[peer]

    def _sign(self, peer: str) -> str:
        principal = Principal(
            id=f"service:{self.source}",
            grants=(Grant(SERVICE, INSTALLATION),),
            on_behalf_of=current_caller().id,
            clock_offset=clock.offset.get().total_seconds(),
        )
        return self.signer.sign(peer, principal)

    async def close(self) -> None:
        """Closes all channels."""
        for channel in self._channels.values():
            await channel.close()
