"""Calls to other services: signed, with a deadline that shrinks along the way, retried where the transport failed, spread over replicas.

Every rpc of the suite may be made again (writes are once by their request id), so the channel retries UNAVAILABLE itself.
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
from services.kit.security.principals import INSTALLATION, SERVICE, Grant, Principal, Signer

Answer = TypeVar("Answer")
Pairs = tuple[tuple[str, str], ...]

deadline: ContextVar[float | None] = ContextVar("deadline", default=None)
"""When (monotonic seconds) the answer of the current rpc is worth nothing any more."""
HAND_ON_MARGIN_SECONDS = 0.05
MESSAGE_BYTES_MAX = 16 * 1024 * 1024

CURSOR_KEY = "quanyu-cursor"
"""The initial metadata of a stream that goes by cursors: where it begins, to go on from when it breaks before its first response."""
KEEPALIVE_MS = 60_000

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
                # A service that answers nobody is not asked three times by everybody.
                "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
                "healthCheckConfig": {"serviceName": ""},
            }
        ),
    ),
]


def remaining(default_seconds: float) -> float:
    """Seconds a call may take: what is left of the current rpc's time, less a margin to answer in; at most the default."""
    until = deadline.get()
    if until is None:
        return default_seconds
    left = until - time.monotonic() - HAND_ON_MARGIN_SECONDS
    if left <= 0:
        raise Unavailable("DEADLINE_EXCEEDED", "there is no time left to ask another service")
    return min(left, default_seconds)


def metadata_of(token: str) -> Pairs:
    """What goes with a call: the principal (an empty token: nobody) and the trace."""
    principal = ((authorization.METADATA_KEY, token),) if token else ()
    trace = telemetry.context_metadata()
    return (*trace, *principal) if trace else principal


async def heard(call: Awaitable[Any]) -> Any:
    """What the call answers; what a service refused is raised as the refusal it is."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        if refusal := status.from_rpc_error(error):
            raise refusal from None
        raise


async def heard_each(call: grpc.aio.UnaryStreamCall[Any, Answer]) -> AsyncGenerator[Answer, None]:
    """The answers of a streaming call, which is cancelled when this is closed; a refusal is raised as the refusal it is."""
    try:
        async for answer in call:
            yield answer
    except grpc.aio.AioRpcError as error:
        if refusal := status.from_rpc_error(error):
            raise refusal from None
        raise
    finally:
        call.cancel()


class SignedStream(grpc.aio.UnaryStreamClientInterceptor):
    """Puts principal and trace on each streaming call of a stub. A stream has no deadline; `heard_each` raises its refusals."""

    def __init__(self, principal_token: Callable[[], str]) -> None:
        self.principal_token = principal_token

    async def intercept_unary_stream(self, continuation: Any, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), *metadata_of(self.principal_token()))
        asked = grpc.aio.ClientCallDetails(details.method, details.timeout, metadata, details.credentials, details.wait_for_ready)
        return await continuation(asked, request)


class Signed(grpc.aio.UnaryUnaryClientInterceptor):
    """Puts principal, deadline and trace on each call of a stub, and raises refusals."""

    def __init__(self, principal_token: Callable[[], str], deadline_seconds: float) -> None:
        self.principal_token, self.deadline_seconds = principal_token, deadline_seconds

    async def intercept_unary_unary(self, continuation: Any, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), *metadata_of(self.principal_token()))
        timeout = details.timeout or remaining(self.deadline_seconds)
        asked = grpc.aio.ClientCallDetails(details.method, timeout, metadata, details.credentials, details.wait_for_ready)
        return await heard(await continuation(asked, request))


def open_channel(address: str, principal_token: Callable[[], str], deadline_seconds: float) -> grpc.aio.Channel:
    """A channel to `host:port` (or `dns:///name:port`, all of whose addresses are used in turn)."""
    return grpc.aio.insecure_channel(
        address, options=OPTIONS, interceptors=[Signed(principal_token, deadline_seconds), SignedStream(principal_token)]
    )


def open_bare_channel(address: str) -> grpc.aio.Channel:
    """The same without what is put on each call: for those who do so themselves, without the task that an interceptor takes."""
    return grpc.aio.insecure_channel(address, options=OPTIONS)


class Channels:
    """A service's channels to the others, opened when first used: `channels.member`. Calls are made as this service."""

    def __init__(self, source: str, signer: Signer, addresses: dict[str, str], deadline_seconds: float) -> None:
        self.source, self.signer, self.addresses, self.deadline_seconds = source, signer, addresses, deadline_seconds
        self.opened: dict[str, grpc.aio.Channel] = {}

    def __getattr__(self, peer: str) -> grpc.aio.Channel:
        if peer.startswith("_") or peer not in self.addresses:
            raise AttributeError(peer)
        if peer not in self.opened:
            self.opened[peer] = open_channel(self.addresses[peer], lambda: self._token(peer), self.deadline_seconds)
        return self.opened[peer]

    def _token(self, peer: str) -> str:
        principal = Principal(
            id=f"service:{self.source}",
            grants=(Grant(SERVICE, INSTALLATION),),
            on_behalf_of=authorization.caller().id,
            clock_offset=clock.offset.get().total_seconds(),
        )
        return self.signer.token(peer, principal)

    async def close(self) -> None:
        """Ends all channels."""
        for channel in self.opened.values():
            await channel.close()
