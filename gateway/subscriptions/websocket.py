"""GraphQL over WebSockets: graphql-transport-ws, for operations of all kinds."""

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
from gateway.execution.pipeline import Answer, Operations, Ready, told, turned_away
from gateway.execution.request import BadRequest
from gateway.http.request import JSON, RequestParser
from gateway.limits.concurrency import ConcurrencyLimiter
from gateway.limits.rate_limit import Account, RateLimiter
from gateway.observability.coalesced_log import CoalescedLog
from gateway.observability.operation_log import OperationRecord
from gateway.subscriptions import protocol
from gateway.subscriptions.lifetime import STOPPING, Ending, Endings
from gateway.subscriptions.protocol import SUBPROTOCOL, Closed, Complete, ConnectionInit, Ping, Subscribe
from gateway.subscriptions.runner import Asker, Subscriptions, key_of
from services.kit.errors import Denied, Overloaded, Refusal, Unavailable
from services.kit.observability import telemetry
from services.kit.settings import Settings

INIT_SECONDS = 5.0
"""Until the client says `connection_init`."""
REASON_BYTES_MAX = 123
GOING_AWAY, POLICY_VIOLATION, TRY_AGAIN_LATER = 1001, 1008, 1013
BUG, FORBIDDEN = 4500, 4403

SOCKETS = Gauge("quanyu_graphql_sockets", "WebSockets that are open.")


class WebSockets:
    """The handler of WebSockets at `/graphql`."""

    def __init__(
        self, operations: Operations, subscriptions: Subscriptions, endings: Endings, parser: RequestParser, settings: Settings
    ) -> None:
        self.operations, self.subscriptions, self.endings, self.parser = operations, subscriptions, endings, parser
        self.origins = settings.origins
        self.most, self.open = settings.sockets_max, 0
        self.refused = CoalescedLog("sockets refused")
        self.signed_in = ConcurrencyLimiter(settings.sockets_max, settings.subscriptions_principal, "sockets")
        self.operations_max, self.messages_per_second = settings.subscriptions_principal, settings.rate_address

    async def __call__(self, websocket: WebSocket) -> None:
        """One connection, from its handshake to its close."""
        address = websocket.client.host if websocket.client is not None else ""
        if not self._allowed(websocket):
            await websocket.send_denial_response(Response(status_code=403))
            return
        try:
            self.operations.rates.admit_address(address)
            if self.open >= self.most or self.endings.stopped:
                raise Unavailable("OVERLOADED", "too many sockets at once; try again")
        except Refusal as refusal:
            error_formatting.operation_id.set(self.refused.add())
            answer = turned_away(refusal)
            headers = {"retry-after": str(answer.retry_seconds)}
            await websocket.send_denial_response(Response(answer.body, answer.status, headers, JSON))
            return
        self.open += 1
        try:
            await self._spoken(websocket, address)
        finally:
            self.open -= 1

    async def _spoken(self, websocket: WebSocket, address: str) -> None:
        """A connection that is let in, if it speaks our protocol."""
        if SUBPROTOCOL not in websocket.scope["subprotocols"]:
            await websocket.accept()
            await websocket.close(4406, "Subprotocol not acceptable")
            return
        await websocket.accept(SUBPROTOCOL)
        with self.endings.one() as ending, SOCKETS.track_inprogress():
            await Connection(self, websocket, ending, address).last()

    def _allowed(self, websocket: WebSocket) -> bool:
        """Whether a browser comes from a page of ours, or of a site that may call; what is no browser says no origin."""
        origin = websocket.headers.get("origin")
        if origin is None or not self.origins.isdisjoint((origin, "*")):
            return True
        try:
            return urlsplit(origin).netloc == websocket.headers.get("host")
        except ValueError:
            return False


class Connection:
    """One WebSocket and its operations."""

    def __init__(self, server: WebSockets, websocket: WebSocket, ending: Ending, address: str) -> None:
        self.server, self.websocket, self.ending = server, websocket, ending
        self.asker, self.acknowledged = Asker(None, address, telemetry.trace_of(websocket.headers)), False
        self.init = ending.later(INIT_SECONDS, Closed(4408, "Connection initialisation timeout"))
        self.running: dict[str, asyncio.Task[None]] = {}
        self.received = RateLimiter(server.messages_per_second)
        self.place, self.sending = ExitStack(), asyncio.Lock()

    async def last(self) -> None:
        """Lasts until it ends, and closes the socket unless its client did."""
        with self.place:
            async with self.ending:
                self.ending.task(self._read())
                failure = await self.ending.why
        closed = _closed(failure) if failure is not None else None
        if closed is not None:
            with suppress(WebSocketDisconnect, RuntimeError):
                await self.websocket.close(closed.code, closed.reason.encode()[:REASON_BYTES_MAX].decode(errors="ignore"))

    async def _read(self) -> None:
        while True:
            message = await self.websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if self.received.admit(""):
                raise Closed(POLICY_VIOLATION, "too many messages")
            await self._take(protocol.received(message.get("text")))

    async def _take(self, message: protocol.Received) -> None:
        if isinstance(message, ConnectionInit):
            await self._initialise(message.payload or {})
        elif isinstance(message, Ping):
            await self._send(protocol.pong(message.payload))
        elif isinstance(message, Subscribe):
            await self._subscribe(message)
        elif isinstance(message, Complete) and (task := self.running.pop(message.id, None)) is not None:
            task.cancel()

    async def _initialise(self, payload: dict[str, Any]) -> None:
        if self.acknowledged:
            raise Closed(4429, "Too many initialisation requests")
        self.acknowledged = True
        self.init.cancel()
        self.asker = replace(self.asker, authorization=_authorization(payload))
        operations = self.server.operations
        operations.begin()
        session, _ = await operations.deadline.run(operations.authenticate(self.asker.authorization, self.asker.address))
        self.place.enter_context(self.server.signed_in.slot(key_of(session, self.asker)))
        self.ending.expire(await operations.sessions.find_expiry(self.asker.authorization))
        await self._send(protocol.ACKNOWLEDGED)

    async def _subscribe(self, message: Subscribe) -> None:
        if not self.acknowledged:
            raise Closed(4401, "Unauthorized")
        if message.id in self.running:
            raise Closed(4409, f"Subscriber for {message.id} already exists")
        if len(self.running) >= self.server.operations_max:
            await self._send(_error(message.id, told(Overloaded("TOO_MANY_OPERATIONS", "end one of this socket's operations first"))))
            return
        self.running[message.id] = self.ending.task(self._operation(message.id, message.payload), ends=False)

    async def _operation(self, name: str, payload: dict[str, Any]) -> None:
        """Carries out one operation and tells its answers, under the name that the client gave it."""
        id, started, last = self.server.operations.begin(), time.perf_counter(), protocol.complete(name)
        ready = await self.server.operations.answered(self._ready(payload))
        if isinstance(ready, Answer):
            seconds = time.perf_counter() - started
            ended = OperationRecord(id, ready.operation, ready.status, ready.errors, 0, seconds, more={"way": "websocket"})
            self.server.operations.log.add(ended)
            last = _error(name, ready)
        else:
            async with aclosing(self.server.subscriptions.answers(id, *ready, self.asker, "websocket")) as answers:
                async for answer in answers:
                    if answer.status != 200:
                        last = _error(name, answer)
                        break
                    await self._send(protocol.next_(name, answer.body))
        # The client may use the name again as soon as it hears of the end.
        del self.running[name]
        await self._send(last)

    async def _ready(self, payload: dict[str, Any]) -> tuple[Ready, Session, Account] | Answer:
        """The operation that is asked for, and by whom: grants and the token are looked at anew each time."""
        try:
            asked = self.server.parser.parse(payload)
        except BadRequest:
            self.server.operations.rates.admit_address(self.asker.address)
            raise
        session, account = await self.server.operations.authenticate(self.asker.authorization, self.asker.address)
        ready = self.server.operations.ready(asked, account)
        return ready if isinstance(ready, Answer) else (ready, session, account)

    async def _send(self, message: str) -> None:
        # uvicorn would add the messages of all operations to the write buffer as soon as it is empty.
        async with self.sending:
            await self.websocket.send_text(message)


def _error(name: str, answer: Answer) -> str:
    return protocol.error(name, orjson.loads(answer.body)["errors"])


def _authorization(payload: dict[str, Any]) -> str | None:
    """What the client shows, as the header of that name says it; browsers cannot send that one with a WebSocket."""
    given = next((value for name, value in payload.items() if name.lower() == "authorization"), None)
    if not isinstance(given, str | None):
        raise Closed(4400, "authorization is no text")
    return given


def _closed(failure: Exception) -> Closed | None:
    """How the socket is closed; None when nobody is there to be told."""
    if isinstance(failure, Closed):
        return failure
    if isinstance(failure, WebSocketDisconnect):
        return None
    if isinstance(failure, Denied):
        return Closed(FORBIDDEN, f"Forbidden: {failure.message}")
    if isinstance(failure, Refusal):
        return Closed(GOING_AWAY if failure.reason == STOPPING else TRY_AGAIN_LATER, failure.message)
    if isinstance(failure, TimeoutError):
        return Closed(TRY_AGAIN_LATER, "the operation took too long")
    message, extensions = error_formatting.masked(failure)
    return Closed(BUG, f"{message} {extensions['id']}")
