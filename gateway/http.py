"""GraphQL over HTTP (https://graphql.github.io/graphql-over-http): `POST` for everything, `GET` for queries.

What is wrong with the request itself is answered with 4xx and without `data`. A client that takes `application/json` only is told of
a wrong document with 200, as that media type has it. Who accepts `text/event-stream` is answered by `gateway/subscriptions/sse.py`.
"""

import time

from graphql import OperationType
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import explorer
from gateway.asked import EVENT_STREAM, GRAPHQL, JSON, BadRequest, Reader, accepted
from gateway.operations import Answer, Operations, log, timed, told
from gateway.respond import respond
from gateway.subscriptions.sse import EventStreams
from services.kit import telemetry
from services.kit.settings import Settings


class Endpoint:
    """The ASGI application of `/graphql`."""

    def __init__(self, operations: Operations, reader: Reader, streams: EventStreams, settings: Settings) -> None:
        self.operations, self.reader, self.streams = operations, reader, streams
        self.explorer = settings.env == "development"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; whatever happens, in the form the client accepts."""
        response = await self._response(Request(scope, receive))
        await response(scope, receive, send)

    async def _response(self, request: Request) -> ASGIApp:
        if self.explorer and explorer.wanted(request):
            return explorer.page()
        media = accepted(request.headers.get("accept"))
        if media == EVENT_STREAM:
            return await self.streams.open(request)
        started = time.perf_counter()
        id = self.operations.begin()
        with telemetry.span("graphql", request.headers) as span:
            span.set_attribute("quanyu.operation_id", id)
            answer = await self._answered(request, media)
        response = respond(answer, media or JSON)
        seconds = time.perf_counter() - started
        timed(answer.operation, response.status_code).observe(seconds)
        log(id, answer.operation, response.status_code, answer.errors, answer.calls, seconds)
        return response

    async def _answered(self, request: Request, media: str | None) -> Answer:
        if media is None:
            return told(BadRequest(406, f"accept {GRAPHQL} or {JSON}; for subscriptions {EVENT_STREAM}"))
        return await self.operations.answered(self._answer(request))

    async def _answer(self, request: Request) -> Answer:
        asked = await self.reader.read(request)
        address = request.client.host if request.client is not None else ""
        session, account = await self.operations.admitted(request.headers.get("authorization"), address)
        ready = self.operations.ready(asked, account)
        if isinstance(ready, Answer):
            return ready
        if ready.kind is OperationType.SUBSCRIPTION:
            raise BadRequest(400, f"subscribe with `accept: {EVENT_STREAM}`, or over a WebSocket with graphql-transport-ws")
        if request.method == "GET" and ready.kind is not OperationType.QUERY:
            raise BadRequest(405, "GET is for queries only; use POST")
        return await self.operations.run(ready, session)
