"""GraphQL over HTTP (https://graphql.github.io/graphql-over-http): `POST` for everything, `GET` for queries.

What is wrong with the request itself is answered with 4xx and without `data`. A client that takes `application/json` only is told of
a wrong document with 200, as that media type has it. Who accepts `text/event-stream` is answered by `gateway/subscriptions/sse.py`.
"""

import asyncio
import time
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from gateway import explorer
from gateway.asked import EVENT_STREAM, GRAPHQL, JSON, Asked, BadRequest, Reader, accepted
from gateway.observability.operation_log import OperationRecord
from gateway.operations import MUTATION, QUERY, SUBSCRIPTION, Answer, Operations
from gateway.respond import Whole, respond
from gateway.subscriptions.sse import EventStreams
from gateway.wire import exchange_of, go_on
from services.kit.observability import telemetry
from services.kit.settings import Settings

GONE = 499
"""The status of a request whose client has gone before it was answered, as others' logs have it."""


class Arrived:
    """One request as ASGI has it, of which nothing is read twice and little at all. Of several headers of a name the first counts."""

    __slots__ = ("headers", "method", "receive", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope, self.receive, self.method = scope, receive, scope["method"]
        self.headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))

    def header(self, name: bytes) -> str:
        """A header; empty: there is none."""
        value = self.headers.get(name)
        return value.decode("latin-1") if value is not None else ""

    def trace(self) -> dict[str, str]:
        """The headers that name the trace it belongs to."""
        if b"traceparent" not in self.headers:
            return {}
        return telemetry.trace_of({name.decode("latin-1"): value.decode("latin-1") for name, value in self.headers.items()})

    def request(self) -> Request:
        """The same as Starlette has it."""
        return Request(self.scope, self.receive)


class Endpoint:
    """The ASGI application of `/graphql`."""

    def __init__(self, operations: Operations, reader: Reader, streams: EventStreams, settings: Settings) -> None:
        self.operations, self.reader, self.streams = operations, reader, streams
        self.explorer = settings.env == "development"
        self.forwarded: Any = ProxyHeadersMiddleware(_nothing, settings.trusted_proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; whatever happens, in the form the client accepts."""
        arrived = Arrived(scope, receive)
        media = accepted(arrived.headers.get(b"accept"))
        if self.explorer and arrived.method == "GET" and explorer.wanted(arrived.request()):
            response: ASGIApp = explorer.page()
        elif media == EVENT_STREAM:
            await self.forwarded(scope, receive, send)
            response = await self.streams.open(arrived.request())
        else:
            response = await self._response(arrived, media)
        await response(scope, receive, send)

    async def _response(self, arrived: Arrived, media: str | None) -> Whole:
        started = time.perf_counter()
        id = self.operations.begin()
        with telemetry.span("graphql", arrived.trace()) as span:
            span.set_attribute("quanyu.operation_id", id)
            try:
                answer = await self.operations.answered(self._answer(arrived, media))
            except asyncio.CancelledError:
                self.operations.log.add(OperationRecord(id, "none", GONE, 0, 0, time.perf_counter() - started))
                raise
        response = respond(answer, media or JSON)
        seconds, status = time.perf_counter() - started, response.status_code
        self.operations.log.add(OperationRecord(id, answer.operation, status, answer.errors, answer.calls, seconds, answer.uncompiled))
        return response

    async def _answer(self, arrived: Arrived, media: str | None) -> Answer:
        try:
            if media is None:
                raise BadRequest(406, f"accept {GRAPHQL} or {JSON}; for subscriptions {EVENT_STREAM}")
            asked = await self._asked(arrived)
        except BadRequest:
            self.operations.rates.admit_address(await self._address(arrived))
            raise
        authorization = arrived.header(b"authorization")
        known = self.operations.authenticate_cached(authorization)
        session, account = known or await self.operations.authenticate(authorization, await self._address(arrived))
        ready = self.operations.ready(asked, account)
        if isinstance(ready, Answer):
            return ready
        if ready.kind is SUBSCRIPTION:
            raise BadRequest(400, f"subscribe with `accept: {EVENT_STREAM}`, or over a WebSocket with graphql-transport-ws")
        if arrived.method == "GET" and ready.kind is not QUERY:
            raise BadRequest(405, "GET is for queries only; use POST")
        if ready.kind is MUTATION:
            go_on(arrived.scope)
        return await self.operations.run(ready, session, account=account)

    async def _address(self, arrived: Arrived) -> str:
        """Whose request it is, as far as proxies are believed."""
        await self.forwarded(arrived.scope, arrived.receive, _nothing)
        client = arrived.scope.get("client")
        return client[0] if client else ""

    async def _asked(self, arrived: Arrived) -> Asked:
        exchange = exchange_of(arrived.scope) if arrived.method == "POST" else None
        if exchange is None:
            return await self.reader.read(arrived.request())
        return self.reader.posted(arrived.headers.get(b"content-type", b""), self.reader.came(exchange))


async def _nothing(*_: Any) -> None:
    """An application of which only what stands before it is wanted."""
