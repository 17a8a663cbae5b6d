"""GraphQL over HTTP (https://graphql.github.io/graphql-over-http): `POST` for everything, `GET` for queries.

What is wrong with the request itself is answered with 4xx and without `data`. A client that takes `application/json` only is told of
a wrong document with 200, as that media type has it.
"""

import time
from typing import Any

import orjson
from graphql import GraphQLError, OperationType
from msgspec import Struct
from prometheus_client import Histogram
from starlette.requests import Request
from starlette.responses import Response

from gateway import errors
from gateway.clients import Clients, acting_as
from gateway.context import Context
from gateway.execution import Executor, Prepared
from gateway.principal import Session, Sessions
from services.kit import channel, telemetry
from services.kit.errors import Denied, Refusal
from services.kit.logs import logger

BODY_BYTES_MAX = 256 * 1024
JSON = "application/json"
GRAPHQL = "application/graphql-response+json"
SECONDS = Histogram(
    "quanyu_graphql_seconds",
    "Time to answer a request.",
    ["operation", "status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)


class BadRequest(Exception):
    """The HTTP request is no GraphQL request; it is answered with `status`."""

    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message
        super().__init__(message)


class Asked(Struct, frozen=True):
    """A GraphQL request."""

    query: str
    operation_name: str | None = None
    variables: dict[str, Any] | None = None


class Answer(Struct, frozen=True):
    """What is sent back; `operation` and `calls` are for the log."""

    status: int
    body: bytes
    errors: int = 1
    operation: str = "none"
    calls: int = 0


class Endpoint:
    """The handler of `/graphql`."""

    def __init__(self, executor: Executor, sessions: Sessions, clients: Clients, *, deadline_seconds: float) -> None:
        self.executor, self.sessions, self.clients, self.deadline_seconds = executor, sessions, clients, deadline_seconds

    async def __call__(self, request: Request) -> Response:
        """Answers one request; whatever happens, in the form the client accepts."""
        started = time.perf_counter()
        channel.deadline.set(time.monotonic() + self.deadline_seconds)
        media = accepted(request.headers.get("accept"))
        try:
            if media is None:
                raise BadRequest(406, f"accept {GRAPHQL} or {JSON}")
            with telemetry.TRACER.start_as_current_span("graphql", context=telemetry.context_from(request.headers)):
                answer = await self._answer(request)
        except BadRequest as wrong:
            answer = refused(wrong.status, {"message": wrong.message, "extensions": {"code": "BAD_REQUEST"}})
        except Refusal as refusal:
            answer = refused(401 if isinstance(refusal, Denied) else 503, errors.request_error(refusal))
        except Exception as bug:
            message, extensions = errors.masked(bug)
            answer = refused(500, {"message": message, "extensions": extensions})
        response = respond(answer, media or JSON)
        seconds = time.perf_counter() - started
        SECONDS.labels(answer.operation, str(response.status_code)).observe(seconds)
        logger().info(
            "operation",
            operation=answer.operation,
            status=response.status_code,
            errors=answer.errors,
            calls=answer.calls,
            milliseconds=round(seconds * 1000, 2),
        )
        return response

    async def _answer(self, request: Request) -> Answer:
        asked = await read(request)
        session = await self.sessions.of(request.headers.get("authorization"))
        prepared = self.executor.prepare(asked.query)
        if prepared.document is None:
            return refused(400, *map(errors.formatted, prepared.errors), operation="invalid")
        operation = prepared.operation(asked.operation_name)
        kind = operation.operation if operation is not None else OperationType.QUERY
        if request.method == "GET" and kind is not OperationType.QUERY:
            raise BadRequest(405, "GET is for queries only; use POST")
        return await self._run(asked, prepared, session, kind)

    async def _run(self, asked: Asked, prepared: Prepared, session: Session, kind: OperationType) -> Answer:
        context = Context(session, self.clients)
        with acting_as(session.principal):
            try:
                answered = await self.executor.answer(prepared, context, asked.variables, asked.operation_name)
            except RecursionError:
                return refused(400, errors.formatted(GraphQLError("the document nests too deep")), operation=kind.value)
        return Answer(200 if answered.begun else 400, answered.body, answered.errors, kind.value, context.calls)


def refused(status: int, *found: dict[str, Any], operation: str = "none") -> Answer:
    """What is said of a request that was not carried out."""
    return Answer(status, orjson.dumps({"errors": found}), len(found), operation)


def accepted(header: str | None) -> str | None:
    """The media type to answer in; None when the client takes neither of ours."""
    best, chosen = 0.0, None
    for part in (header or "*/*").split(","):
        name, *parameters = (text.strip().lower() for text in part.split(";"))
        offered = {GRAPHQL: GRAPHQL, JSON: JSON, "application/*": JSON, "*/*": JSON}.get(name)
        weight = _weight(parameters)
        if offered is not None and weight > best:
            best, chosen = weight, offered
    return chosen


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0


async def read(request: Request) -> Asked:
    """The GraphQL request within an HTTP request; `BadRequest` when there is none."""
    if request.method == "GET":
        given: dict[str, Any] = dict(request.query_params)
        for name in ("variables", "extensions"):
            if name in given:
                given[name] = _parsed(given[name].encode(), name)
        return _asked(given)
    media, _, charset = (text.strip().lower() for text in request.headers.get("content-type", "").partition(";"))
    if media != JSON:
        raise BadRequest(415, f"send {JSON}")
    if charset and charset.replace('"', "") not in ("charset=utf-8", "charset=utf8"):
        raise BadRequest(415, "send UTF-8")
    given = _parsed(await _body(request), "the body")
    if not isinstance(given, dict):
        raise BadRequest(400, "the body is one JSON object; batches are not taken")
    return _asked(given)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise BadRequest(413, f"a body has at most {BODY_BYTES_MAX} bytes")
    return bytes(body)


def _parsed(text: bytes, what: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise BadRequest(400, f"{what} is no JSON") from None


def _asked(given: dict[str, Any]) -> Asked:
    query, name = given.get("query"), given.get("operationName")
    variables, extensions = given.get("variables"), given.get("extensions")
    if not isinstance(query, str):
        raise BadRequest(400, "query is missing or no text")
    if name is not None and not isinstance(name, str):
        raise BadRequest(400, "operationName is no text")
    if not isinstance(variables, dict | None):
        raise BadRequest(400, "variables is no object")
    if not isinstance(extensions, dict | None):
        raise BadRequest(400, "extensions is no object")
    return Asked(query, name or None, variables)


HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 405: {"Allow": "POST"}, 503: {"Retry-After": "1"}}


def respond(answer: Answer, media: str) -> Response:
    """The answer in that media type; with `application/json`, what is wrong with a document or its variables is 200."""
    status = answer.status
    if media == JSON and status == 400 and answer.operation != "none":
        status = 200
    return Response(answer.body, status, HEADERS.get(status), f"{media}; charset=utf-8")
