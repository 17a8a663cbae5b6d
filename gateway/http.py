"""GraphQL over HTTP (https://graphql.github.io/graphql-over-http): `POST` for everything, `GET` for queries.

What is wrong with the request itself is answered with 4xx and without `data`. A client that takes `application/json` only is told of
a wrong document with 200, as that media type has it.
"""

import math
import time
from typing import Any

import orjson
from graphql import GraphQLError, OperationDefinitionNode, OperationType
from msgspec import Struct
from msgspec.structs import replace
from prometheus_client import Histogram
from starlette.requests import Request
from starlette.responses import Response

from gateway import errors, explorer
from gateway.asked import GRAPHQL, JSON, Asked, BadRequest, Reader, accepted
from gateway.clients import Clients, acting_as
from gateway.context import Context
from gateway.execution import Executor, Prepared
from gateway.overdue import Overdue
from gateway.principal import Session, Sessions
from gateway.rates import COLD_WEIGHT_PER_SECOND, Account, Rates, charge
from services.kit import channel, ids, telemetry
from services.kit.errors import Denied, Exhausted, Refusal
from services.kit.logs import logger
from services.kit.settings import Settings

SECONDS = Histogram(
    "quanyu_graphql_seconds",
    "Time to answer a request.",
    ["operation", "status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)


class Answer(Struct, frozen=True):
    """What is sent back; `operation` and `calls` are for the log. `retry_seconds`: when to ask again; 0: unsaid."""

    status: int
    body: bytes
    errors: int = 1
    operation: str = "none"
    calls: int = 0
    retry_seconds: int = 0


class Endpoint:
    """The handler of `/graphql`."""

    def __init__(self, executor: Executor, sessions: Sessions, clients: Clients, reader: Reader, settings: Settings) -> None:
        self.executor, self.sessions, self.clients, self.reader = executor, sessions, clients, reader
        self.rates, self.explorer = Rates(settings), settings.env == "development"
        self.deadline_seconds, self.overdue = settings.deadline_seconds, Overdue(settings.deadline_seconds)

    async def __call__(self, request: Request) -> Response:
        """Answers one request; whatever happens, in the form the client accepts."""
        if self.explorer and explorer.wanted(request):
            return explorer.page()
        started = time.perf_counter()
        channel.deadline.set(time.monotonic() + self.deadline_seconds)
        id = ids.new("opn")
        errors.operation_id.set(id)
        media = accepted(request.headers.get("accept"))
        with telemetry.span("graphql", request.headers) as span:
            span.set_attribute("quanyu.operation_id", id)
            answer = await self._answered(request, media)
        response = respond(answer, media or JSON)
        seconds = time.perf_counter() - started
        SECONDS.labels(answer.operation, str(response.status_code)).observe(seconds)
        logger().info(
            "operation",
            id=id,
            operation=answer.operation,
            status=response.status_code,
            errors=answer.errors,
            calls=answer.calls,
            milliseconds=round(seconds * 1000, 2),
        )
        return response

    async def _answered(self, request: Request, media: str | None) -> Answer:
        try:
            if media is None:
                raise BadRequest(406, f"accept {GRAPHQL} or {JSON}")
            return await self.overdue.within(self._answer(request))
        except BadRequest as wrong:
            return refused(wrong.status, {"message": wrong.message, "extensions": errors.identified({"code": wrong.code})})
        except Refusal as refusal:
            return turned_away(refusal)
        except TimeoutError:
            told = {"code": "DEADLINE_EXCEEDED", "retryable": True}
            return refused(504, {"message": "the operation took too long", "extensions": errors.identified(told)})
        except Exception as bug:
            message, extensions = errors.masked(bug)
            return refused(500, {"message": message, "extensions": extensions})

    async def _answer(self, request: Request) -> Answer:
        asked = await self.reader.read(request)
        session, account = await self._admitted(request)
        prepared = self._prepared(asked.query, account)
        if prepared.document is None:
            return refused(400, *map(errors.formatted, prepared.errors), operation="invalid")
        operation = prepared.operation(asked.operation_name)
        kind = operation.operation if operation is not None else OperationType.QUERY
        if request.method == "GET" and kind is not OperationType.QUERY:
            raise BadRequest(405, "GET is for queries only; use POST")
        try:
            cost = self._cost(asked, prepared, operation)
        except GraphQLError as too_dear:
            return refused(400, errors.formatted(too_dear), operation=kind.value)
        return _with_cost(await self._run(asked, prepared, session, kind), cost if asked.wants_cost else None)

    async def _admitted(self, request: Request) -> tuple[Session, Account]:
        """Whoever asks, their operation counted."""
        address = request.client.host if request.client is not None else ""
        try:
            session = await self.sessions.of(request.headers.get("authorization"))
        except Denied:
            self.rates.admit_address(address)
            raise
        return session, self.rates.admit(session, address)

    def _prepared(self, query: str, account: Account) -> Prepared:
        """The document; what it takes to read one that is not known is counted too."""
        if query in self.executor.kept:
            return self.executor.prepare(query)
        started = time.perf_counter()
        try:
            return self.executor.prepare(query)
        finally:
            charge(account, (time.perf_counter() - started) * COLD_WEIGHT_PER_SECOND)

    def _cost(self, asked: Asked, prepared: Prepared, operation: OperationDefinitionNode | None) -> int | None:
        """What it costs with these variables, where somebody wants to know or other variables would cost too much."""
        if operation is None or (prepared.dearest <= self.executor.rule.limits.cost and not asked.wants_cost):
            return None
        return self.executor.cost(prepared, operation, asked.variables)

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


def turned_away(refusal: Refusal) -> Answer:
    """What is said to somebody whose request is refused as a whole: 401, 429 or 503."""
    status = 401 if isinstance(refusal, Denied) else 429 if isinstance(refusal, Exhausted) else 503
    seconds = math.ceil(refusal.retry_after.total_seconds()) if refusal.retry_after is not None else int(status != 401)
    body = orjson.dumps({"errors": [errors.request_error(refusal)]})
    return Answer(status, body, retry_seconds=seconds)


def _with_cost(answer: Answer, points: int | None) -> Answer:
    if points is None:
        return answer
    extensions = orjson.dumps({"cost": {"points": points}})
    return replace(answer, body=b'%b,"extensions":%b}' % (answer.body[:-1], extensions))


HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 405: {"Allow": "POST"}}


def respond(answer: Answer, media: str) -> Response:
    """The answer in that media type; with `application/json`, what is wrong with a document or its variables is 200."""
    status = answer.status
    if media == JSON and status == 400 and answer.operation != "none":
        status = 200
    headers = {"Retry-After": str(answer.retry_seconds)} if answer.retry_seconds else HEADERS.get(status)
    return Response(answer.body, status, headers, f"{media}; charset=utf-8")
