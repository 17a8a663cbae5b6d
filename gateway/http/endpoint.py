"""Endpoint of GraphQL over HTTP (https://graphql.github.io/graphql-over-http): `POST` for all operations, `GET` for queries.

A malformed request is answered with 4xx and without `data`. In `application/json`, an error in the document is 200, as that
media type requires. A request that accepts `text/event-stream` goes to another ASGI application (`gateway/subscriptions/sse.py`).
"""

import asyncio
import time
from collections.abc import Awaitable

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.execution.pipeline import MUTATION, QUERY, SUBSCRIPTION, OperationPipeline, OperationResult
from gateway.execution.request import BadRequest, GraphQLRequest
from gateway.http import graphiql
from gateway.http.protocol import client_connection
from gateway.http.request import EVENT_STREAM, GRAPHQL, JSON, RequestParser, negotiate_media_type
from gateway.http.response import http_status, send_result
from gateway.limits.client_address import ClientAddresses
from gateway.observability.operation_log import OperationRecord
from services.kit.observability import telemetry
from services.kit.settings import Settings

CLIENT_CLOSED_REQUEST = 499
"""The status in the log of a request whose client disconnects before the response."""


class GraphQLMiddleware:
    """ASGI middleware that takes the POST requests to the endpoint: routing costs as much as the execution of a small operation."""

    def __init__(self, app: ASGIApp, *, endpoint: ASGIApp, path: str) -> None:
        self.app, self.endpoint, self.path = app, endpoint, path

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        is_post = scope["type"] == "http" and scope["path"] == self.path and scope["method"] == "POST"
        return (self.endpoint if is_post else self.app)(scope, receive, send)


class GraphQLEndpoint:
    """ASGI application of `/graphql`. A query ends when its client disconnects; a mutation is always executed to its end."""

    def __init__(self, operations: OperationPipeline, parser: RequestParser, streams: ASGIApp, settings: Settings) -> None:
        self.operations, self.parser, self.streams = operations, parser, streams
        self.addresses = ClientAddresses(settings)
        self.has_graphiql = settings.env == "development"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The first of several headers of one name counts.
        headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        media = negotiate_media_type(headers.get(b"accept"))
        if self.has_graphiql and scope["method"] == "GET" and graphiql.is_wanted(Request(scope)):
            await graphiql.page()(scope, receive, send)
            return
        connection = client_connection(scope)
        connection.task = asyncio.current_task()
        try:
            if media == EVENT_STREAM:
                await self.addresses.resolve(scope)
                await self.streams(scope, receive, send)
            else:
                await self._execute(scope, receive, send, headers, media)
        except asyncio.CancelledError:
            if not connection.is_lost:
                raise
        finally:
            connection.task = None

    async def _execute(self, scope: Scope, receive: Receive, send: Send, headers: dict[bytes, bytes], media: str | None) -> None:
        started, id = time.perf_counter(), self.operations.begin()
        with telemetry.start_span("graphql", _trace(headers)) as span:
            span.set_attribute("quanyu.operation_id", id)
            try:
                result = await self.operations.attempt(self._admit_and_execute(scope, receive, headers, media))
            except asyncio.CancelledError:
                self.operations.log.add(OperationRecord(id, "none", CLIENT_CLOSED_REQUEST, 0, 0, time.perf_counter() - started))
                raise
        media = media or JSON
        seconds, status = time.perf_counter() - started, http_status(result, media)
        self.operations.log.add(OperationRecord(id, result.operation, status, result.errors, result.calls, seconds, result.uncompiled))
        await send_result(send, result, media)

    async def _admit_and_execute(self, scope: Scope, receive: Receive, headers: dict[bytes, bytes], media: str | None) -> OperationResult:
        try:
            if media is None:
                raise BadRequest(406, f"No acceptable media type. Accept {GRAPHQL} or {JSON}; for subscriptions {EVENT_STREAM}.")
            request = await self._parse(scope, receive, headers)
        except BadRequest:
            self.operations.rates.admit_address(await self.addresses.resolve(scope))
            raise
        authorization = headers.get(b"authorization", b"").decode("latin-1")
        cached = self.operations.authenticate_cached(authorization)
        session, account = cached or await self.operations.authenticate(authorization, await self.addresses.resolve(scope))
        operation = self.operations.validate(request, account)
        if isinstance(operation, OperationResult):
            return operation
        if operation.kind is SUBSCRIPTION:
            message = f"A subscription needs a stream. Accept {EVENT_STREAM}, or use a WebSocket with graphql-transport-ws."
            raise BadRequest(400, message)
        if scope["method"] == "GET" and operation.kind is not QUERY:
            raise BadRequest(405, "GET allows queries only. Send the operation by POST.")
        if operation.kind is MUTATION:
            client_connection(scope).task = None
        return await self.operations.execute(operation, session, account=account)

    async def _parse(self, scope: Scope, receive: Receive, headers: dict[bytes, bytes]) -> GraphQLRequest:
        if scope["method"] == "GET":
            return await self.parser.read(Request(scope))
        return self.parser.parse_body(headers.get(b"content-type", b""), await self.parser.read_body(receive))


def _trace(headers: dict[bytes, bytes]) -> dict[str, str]:
    """Returns the headers that name the trace of the request."""
    if b"traceparent" not in headers:
        return {}
    return telemetry.trace_headers({name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items()})
