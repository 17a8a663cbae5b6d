"""GraphQL over server-sent events, one operation a request: the "distinct connections mode" of graphql-sse
(https://github.com/enisdenjo/graphql-sse/blob/master/PROTOCOL.md).

Who may not ask is told by the status, as over plain HTTP; what is wrong with a document, and why a subscription ends, in the stream.
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
from gateway.execution.pipeline import Answer, Operations, Ready, told
from gateway.execution.request import BadRequest
from gateway.http.protocol import client_connection
from gateway.http.request import EVENT_STREAM, JSON, RequestParser
from gateway.http.response import send_answer
from gateway.limits.rate_limit import Account
from gateway.observability.operation_log import OperationRecord
from gateway.subscriptions.lifetime import Endings
from gateway.subscriptions.runner import Asker, Subscriptions
from services.kit.observability import telemetry

Body: TypeAlias = Callable[[bytes], Awaitable[None]]
"""Sends a part of a response's body."""
KEEP_ALIVE_SECONDS = 12.0
"""Proxies end what is silent for long."""
KEEP_ALIVE = b":\n\n"
COMPLETE = b"event: complete\ndata:\n\n"


def event(answer: Answer) -> bytes:
    """An answer as an event. JSON of ours has no line breaks."""
    return b"event: next\ndata: %b\n\n" % answer.body


def comment(failure: Exception) -> bytes:
    """Why a connection ends before its subscription does, for whoever looks. Without `complete`, clients come again of their own accord."""
    return b": %b\n\n" % orjson.loads(told(failure).body)["errors"][0]["message"].encode()


class Opened(Struct, frozen=True):
    """An operation that somebody may ask for."""

    ready: Ready
    session: Session
    account: Account
    asker: Asker
    expires_at: float | None


class EventStreams:
    """ASGI application for requests that accept an event stream: a stream for a subscription, one event for other operations."""

    def __init__(self, operations: Operations, subscriptions: Subscriptions, endings: Endings, parser: RequestParser) -> None:
        self.operations, self.subscriptions, self.endings, self.parser = operations, subscriptions, endings, parser

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        started, id = time.perf_counter(), self.operations.begin()
        opened = await self.operations.answered(self._opened(request))
        if isinstance(opened, Answer):
            seconds = time.perf_counter() - started
            self.operations.log.add(OperationRecord(id, opened.operation, opened.status, opened.errors, 0, seconds, more={"way": "sse"}))
            await (send_answer(send, opened, JSON) if opened.operation == "none" else _whole(opened)(scope, receive, send))
            return
        answers = self.subscriptions.answers(id, opened.ready, opened.session, opened.account, opened.asker, "sse")
        if opened.ready.kind is OperationType.SUBSCRIPTION:
            await EventStream(answers, self.endings, opened.expires_at)(scope, receive, send)
            return
        async with aclosing(answers):
            answer = await anext(answers)
        await _whole(answer)(scope, receive, send)

    async def _opened(self, request: Request) -> Opened | Answer:
        address = request.client.host if request.client is not None else ""
        asker = Asker(request.headers.get("authorization"), address, telemetry.trace_of(request.headers))
        try:
            asked = await self.parser.read(request)
        except BadRequest:
            self.operations.rates.admit_address(asker.address)
            raise
        session, account = await self.operations.authenticate(asker.authorization, asker.address)
        ready = self.operations.ready(asked, account)
        if isinstance(ready, Answer):
            return ready
        if request.method == "GET" and ready.kind is OperationType.MUTATION:
            raise BadRequest(405, "GET is for queries and subscriptions only; use POST")
        if ready.kind is OperationType.MUTATION:
            client_connection(request.scope).task = None
        return Opened(ready, session, account, asker, await self.operations.sessions.find_expiry(asker.authorization))


def _whole(answer: Answer) -> Response:
    return Response(event(answer) + COMPLETE, media_type=EVENT_STREAM)


class EventStream(Response):
    """A response that goes on until the subscription ends, its client goes, its token expires or the process stops."""

    def __init__(self, answers: AsyncGenerator[Answer, None], endings: Endings, expires_at: float | None) -> None:
        super().__init__(headers={"x-accel-buffering": "no"}, media_type=EVENT_STREAM)
        del self.headers["content-length"]
        self.answers, self.endings, self.expires_at = answers, endings, expires_at

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def body(part: bytes) -> None:
            await send({"type": "http.response.body", "body": part, "more_body": True})

        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        with self.endings.one() as ending:
            async with ending:
                ending.expire(self.expires_at)
                ending.task(_tell(self.answers, body))
                ending.task(_gone(receive))
                ending.task(_keep_alive(body))
                failure = await ending.why
            if failure is not None:
                await body(comment(failure))
            await send({"type": "http.response.body", "body": b""})


async def _tell(answers: AsyncGenerator[Answer, None], body: Body) -> None:
    async with aclosing(answers):
        async for answer in answers:
            await body(event(answer))
    await body(COMPLETE)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _keep_alive(body: Body) -> None:
    while True:
        await asyncio.sleep(KEEP_ALIVE_SECONDS)
        await body(KEEP_ALIVE)
