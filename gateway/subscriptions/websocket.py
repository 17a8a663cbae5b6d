"""GraphQL over WebSockets (graphql-transport-ws): operations of all kinds, many on one connection."""

import asyncio
import time
from contextlib import ExitStack, aclosing, suppress
from typing import Any
from urllib.parse import urlsplit

import orjson
from msgspec.structs import replace
from prometheus_client import Gauge
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway.auth.sessions import Session
from gateway.execution import error_formatting
from gateway.execution.pipeline import (
    DEADLINE_MESSAGE,
    OperationPipeline,
    OperationResult,
    ValidOperation,
    error_result,
    refusal_result,
)
from gateway.execution.request import BadRequest
from gateway.http.request import JSON, RequestParser
from gateway.limits.concurrency import ConcurrencyLimiter
from gateway.limits.rate_limit import Account, RateLimiter
from gateway.observability.coalesced_log import CoalescedLog
from gateway.observability.operation_log import OperationRecord
from gateway.subscriptions import protocol
from gateway.subscriptions.lifetime import STOPPING, Lifetime, LifetimeRegistry
from gateway.subscriptions.protocol import SUBPROTOCOL, Complete, ConnectionClosed, ConnectionInit, Ping, Subscribe
from gateway.subscriptions.runner import Requester, SubscriptionRunner, limiter_key
from services.kit.errors import Denied, Overloaded, Refusal, Unavailable
from services.kit.observability import telemetry
from services.kit.settings import Settings

INIT_SECONDS_MAX = 5.0
"""A client must send `connection_init` within this time."""

SOCKETS = Gauge("quanyu_graphql_sockets", "WebSockets that are open.")


class WebSocketEndpoint:
    """Endpoint of WebSockets at `/graphql`."""

    def __init__(
        self,
        operations: OperationPipeline,
        runner: SubscriptionRunner,
        lifetimes: LifetimeRegistry,
        parser: RequestParser,
        settings: Settings,
    ) -> None:
        self.operations, self.runner, self.lifetimes, self.parser = operations, runner, lifetimes, parser
        self.origins = settings.origins
        self.sockets_max, self.open_sockets = settings.sockets_max, 0
        self.rejected = CoalescedLog("sockets refused")
        self.principal_slots = ConcurrencyLimiter(settings.sockets_max, settings.subscriptions_principal, "sockets")
        self.operations_max, self.messages_per_second = settings.subscriptions_principal, settings.rate_address

    async def __call__(self, websocket: WebSocket) -> None:
        """Serves one connection, from its handshake to its close."""
        address = websocket.client.host if websocket.client is not None else ""
        if not self._is_allowed_origin(websocket):
            await websocket.send_denial_response(Response(status_code=403))
            return
        try:
            self.operations.rates.admit_address(address)
            if self.open_sockets >= self.sockets_max or self.lifetimes.is_stopping:
                raise Unavailable("OVERLOADED", "Too many sockets at once. Retry later.")
        except Refusal as refusal:
            error_formatting.operation_id.set(self.rejected.add())
            result = refusal_result(refusal)
            headers = {"retry-after": str(result.retry_seconds)}
            await websocket.send_denial_response(Response(result.body, result.status, headers, JSON))
            return
        self.open_sockets += 1
        try:
            await self._accept(websocket, address)
        finally:
            self.open_sockets -= 1

    async def _accept(self, websocket: WebSocket, address: str) -> None:
        if SUBPROTOCOL not in websocket.scope["subprotocols"]:
            await websocket.accept()
            await websocket.close(protocol.SUBPROTOCOL_NOT_ACCEPTABLE, "Subprotocol not acceptable")
            return
        await websocket.accept(SUBPROTOCOL)
        with self.lifetimes.register() as lifetime, SOCKETS.track_inprogress():
            await WebSocketConnection(self, websocket, lifetime, address).serve()

    def _is_allowed_origin(self, websocket: WebSocket) -> bool:
        """Returns whether the page that opens the socket may do so. Clients other than browsers send no origin."""
        origin = websocket.headers.get("origin")
        if origin is None or not self.origins.isdisjoint((origin, "*")):
            return True
        try:
            return urlsplit(origin).netloc == websocket.headers.get("host")
        except ValueError:
            return False


class WebSocketConnection:
    """One WebSocket and its operations."""

    def __init__(self, endpoint: WebSocketEndpoint, websocket: WebSocket, lifetime: Lifetime, address: str) -> None:
        self.endpoint, self.websocket, self.lifetime = endpoint, websocket, lifetime
        self.operations = endpoint.operations
        self.requester, self.is_initialised = Requester(None, address, telemetry.trace_headers(websocket.headers)), False
        timeout = ConnectionClosed(protocol.INITIALISATION_TIMEOUT, "Connection initialisation timeout")
        self.init_timer = lifetime.end_after(INIT_SECONDS_MAX, timeout)
        self.running: dict[str, asyncio.Task[None]] = {}
        """The tasks of its operations by their ids."""
        self.message_rate = RateLimiter(endpoint.messages_per_second)
        self.slots, self.send_lock = ExitStack(), asyncio.Lock()

    async def serve(self) -> None:
        """Serves the connection to its end, and closes the socket unless its client did."""
        with self.slots:
            async with self.lifetime:
                self.lifetime.start_task(self._read())
                reason = await self.lifetime.ended
        close = _close_of(reason) if reason is not None else None
        if close is not None:
            with suppress(WebSocketDisconnect, RuntimeError):
                await self.websocket.close(close.code, close.reason.encode()[: protocol.REASON_BYTES_MAX].decode(errors="ignore"))

    async def _read(self) -> None:
        while True:
            message = await self.websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if self.message_rate.admit(""):
                raise ConnectionClosed(protocol.POLICY_VIOLATION, "Too many messages. Send fewer per second.")
            await self._handle(protocol.parse_message(message.get("text")))

    async def _handle(self, message: protocol.ClientMessage) -> None:
        if isinstance(message, ConnectionInit):
            await self._initialise(message.payload or {})
        elif isinstance(message, Ping):
            await self._send(protocol.encode_pong(message.payload))
        elif isinstance(message, Subscribe):
            await self._subscribe(message)
        elif isinstance(message, Complete) and (task := self.running.pop(message.id, None)) is not None:
            task.cancel()

    async def _initialise(self, payload: dict[str, Any]) -> None:
        if self.is_initialised:
            raise ConnectionClosed(protocol.TOO_MANY_INITIALISATIONS, "Too many initialisation requests")
        self.is_initialised = True
        self.init_timer.cancel()
        self.requester = replace(self.requester, authorization=_authorization(payload))
        operations, requester = self.operations, self.requester
        operations.begin()
        session, _ = await operations.deadline.run(operations.authenticate(requester.authorization, requester.address))
        self.slots.enter_context(self.endpoint.principal_slots.slot(limiter_key(session, requester)))
        self.lifetime.end_with_token(await operations.sessions.find_expiry(requester.authorization))
        await self._send(protocol.CONNECTION_ACK)

    async def _subscribe(self, message: Subscribe) -> None:
        if not self.is_initialised:
            raise ConnectionClosed(protocol.UNAUTHORIZED, "Unauthorized")
        if message.id in self.running:
            raise ConnectionClosed(protocol.SUBSCRIBER_EXISTS, f"Subscriber for {message.id} already exists")
        if len(self.running) >= self.endpoint.operations_max:
            refusal = Overloaded("TOO_MANY_OPERATIONS", "Too many operations on this socket. End one of them first.")
            await self._send(_encode_error(message.id, error_result(refusal)))
            return
        self.running[message.id] = self.lifetime.start_task(self._run(message.id, message.payload), ends_connection=False)

    async def _run(self, name: str, payload: dict[str, Any]) -> None:
        """Runs one operation and sends its results. `name` is the id that the client chose for it."""
        id, started, last = self.operations.begin(), time.perf_counter(), protocol.encode_complete(name)
        admitted = await self.operations.attempt(self._admit(payload))
        if isinstance(admitted, OperationResult):
            seconds, more = time.perf_counter() - started, {"transport": "websocket"}
            self.operations.log.add(OperationRecord(id, admitted.operation, admitted.status, admitted.errors, 0, seconds, more=more))
            last = _encode_error(name, admitted)
        else:
            async with aclosing(self.endpoint.runner.run(id, *admitted, self.requester, "websocket")) as results:
                async for result in results:
                    if result.status != 200:
                        last = _encode_error(name, result)
                        break
                    await self._send(protocol.encode_next(name, result.body))
        # The client may use the id again as soon as it receives the last message.
        del self.running[name]
        await self._send(last)

    async def _admit(self, payload: dict[str, Any]) -> tuple[ValidOperation, Session, Account] | OperationResult:
        """Returns the requested operation with its session, which is resolved again for each operation."""
        try:
            request = self.endpoint.parser.parse(payload)
        except BadRequest:
            self.operations.rates.admit_address(self.requester.address)
            raise
        session, account = await self.operations.authenticate(self.requester.authorization, self.requester.address)
        operation = self.operations.validate(request, account)
        return operation if isinstance(operation, OperationResult) else (operation, session, account)

    async def _send(self, message: str) -> None:
        # uvicorn would add the messages of all operations to the write buffer as soon as it is empty.
        async with self.send_lock:
            await self.websocket.send_text(message)


def _encode_error(name: str, result: OperationResult) -> str:
    return protocol.encode_error(name, orjson.loads(result.body)["errors"])


def _authorization(payload: dict[str, Any]) -> str | None:
    """Returns the `authorization` of the payload, which replaces the header because browsers cannot set that one on a WebSocket."""
    value = next((value for name, value in payload.items() if name.lower() == "authorization"), None)
    if not isinstance(value, str | None):
        raise ConnectionClosed(protocol.BAD_REQUEST, "`authorization` must be a string.")
    return value


def _close_of(reason: Exception) -> ConnectionClosed | None:
    """Returns the close code and reason for the end of a connection; None if its client has disconnected."""
    if isinstance(reason, ConnectionClosed):
        return reason
    if isinstance(reason, WebSocketDisconnect):
        return None
    if isinstance(reason, Denied):
        return ConnectionClosed(protocol.FORBIDDEN, f"Forbidden: {reason.message}")
    if isinstance(reason, Refusal):
        return ConnectionClosed(protocol.GOING_AWAY if reason.reason == STOPPING else protocol.TRY_AGAIN_LATER, reason.message)
    if isinstance(reason, TimeoutError):
        return ConnectionClosed(protocol.TRY_AGAIN_LATER, DEADLINE_MESSAGE)
    message, extensions = error_formatting.mask_unexpected(reason)
    return ConnectionClosed(protocol.INTERNAL_ERROR, f"{message} {extensions['id']}")
