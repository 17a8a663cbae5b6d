"""GraphQL over server-sent events: the "distinct connections mode" of graphql-sse, with one operation for each request
(https://github.com/enisdenjo/graphql-sse/blob/master/PROTOCOL.md).

A request that is refused gets an HTTP status, as over plain HTTP. Errors of a document and the end of a subscription are in the stream.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeAlias

import orjson
from graphql import OperationType
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.auth.sessions import Session
from gateway.execution.pipeline import OperationPipeline, OperationResult, ValidOperation, error_result
from gateway.execution.request import BadRequest
from gateway.http.protocol import client_connection
from gateway.http.request import EVENT_STREAM, JSON, RequestParser
from gateway.http.response import send_result
from gateway.limits.rate_limit import Account
from gateway.observability.operation_log import OperationRecord
from gateway.subscriptions.lifetime import LifetimeRegistry
from gateway.subscriptions.runner import Requester, SubscriptionRunner
from services.kit.observability import telemetry

SendPart: TypeAlias = Callable[[bytes], Awaitable[None]]
"""Sends a part of a response's body."""
KEEP_ALIVE_SECONDS = 12.0
"""A comment is sent at this interval, because proxies close idle connections."""
KEEP_ALIVE = b":\n\n"
COMPLETE = b"event: complete\ndata:\n\n"


def encode_next(result: OperationResult) -> bytes:
    """Returns the event with a result. The JSON of a result has no line breaks."""
    return b"event: next\ndata: %b\n\n" % result.body


def encode_end(reason: Exception) -> bytes:
    """Returns a comment with the reason of a connection's end, for developers. Without `complete`, clients reconnect."""
    return b": %b\n\n" % orjson.loads(error_result(reason).body)["errors"][0]["message"].encode()


class AdmittedOperation(Struct, frozen=True):
    """A valid operation with the session and the account of its client. `expires_at`: of its token, in Unix seconds."""

    operation: ValidOperation
    session: Session
    account: Account
    requester: Requester
    expires_at: float | None


class EventStreamEndpoint:
    """ASGI application for requests that accept an event stream: a stream for a subscription, one event for other operations."""

    def __init__(
        self, operations: OperationPipeline, runner: SubscriptionRunner, lifetimes: LifetimeRegistry, parser: RequestParser
    ) -> None:
        self.operations, self.runner, self.lifetimes, self.parser = operations, runner, lifetimes, parser

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        started, id = time.perf_counter(), self.operations.begin()
        admitted = await self.operations.attempt(self._admit(request))
        if isinstance(admitted, OperationResult):
            seconds, more = time.perf_counter() - started, {"transport": "sse"}
            self.operations.log.add(OperationRecord(id, admitted.operation, admitted.status, admitted.errors, 0, seconds, more=more))
            await (
                send_result(send, admitted, JSON)
                if admitted.operation == "none"
                else _single_event_response(admitted)(scope, receive, send)
            )
            return
        results = self.runner.run(id, admitted.operation, admitted.session, admitted.account, admitted.requester, "sse")
        if admitted.operation.kind is OperationType.SUBSCRIPTION:
            await EventStreamResponse(results, self.lifetimes, admitted.expires_at)(scope, receive, send)
            return
        async with aclosing(results):
            result = await anext(results)
        await _single_event_response(result)(scope, receive, send)

    async def _admit(self, request: Request) -> AdmittedOperation | OperationResult:
        address = request.client.host if request.client is not None else ""
        requester = Requester(request.headers.get("authorization"), address, telemetry.trace_headers(request.headers))
        try:
            graphql_request = await self.parser.read(request)
        except BadRequest:
            self.operations.rates.admit_address(requester.address)
            raise
        session, account = await self.operations.authenticate(requester.authorization, requester.address)
        operation = self.operations.validate(graphql_request, account)
        if isinstance(operation, OperationResult):
            return operation
        if request.method == "GET" and operation.kind is OperationType.MUTATION:
            raise BadRequest(405, "GET allows queries and subscriptions only. Send the mutation by POST.")
        if operation.kind is OperationType.MUTATION:
            client_connection(request.scope).task = None  # a mutation is executed to its end even if its client disconnects
        expires_at = await self.operations.sessions.find_expiry(requester.authorization)
        return AdmittedOperation(operation, session, account, requester, expires_at)


def _single_event_response(result: OperationResult) -> Response:
    return Response(encode_next(result) + COMPLETE, media_type=EVENT_STREAM)


class EventStreamResponse(Response):
    """A response that lasts until the subscription ends, its client disconnects, its token expires or the process stops."""

    def __init__(self, results: AsyncGenerator[OperationResult, None], lifetimes: LifetimeRegistry, expires_at: float | None) -> None:
        super().__init__(headers={"x-accel-buffering": "no"}, media_type=EVENT_STREAM)
        del self.headers["content-length"]
        self.results, self.lifetimes, self.expires_at = results, lifetimes, expires_at

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_part(part: bytes) -> None:
            await send({"type": "http.response.body", "body": part, "more_body": True})

        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        with self.lifetimes.register() as lifetime:
            async with lifetime:
                lifetime.end_with_token(self.expires_at)
                lifetime.start_task(_send_results(self.results, send_part))
                lifetime.start_task(_wait_for_disconnect(receive))
                lifetime.start_task(_keep_alive(send_part))
                reason = await lifetime.ended
            if reason is not None:
                await send_part(encode_end(reason))
            await send({"type": "http.response.body", "body": b""})


async def _send_results(results: AsyncGenerator[OperationResult, None], send_part: SendPart) -> None:
    async with aclosing(results):
        async for result in results:
            await send_part(encode_next(result))
    await send_part(COMPLETE)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _keep_alive(send_part: SendPart) -> None:
    while True:
        await asyncio.sleep(KEEP_ALIVE_SECONDS)
        await send_part(KEEP_ALIVE)
