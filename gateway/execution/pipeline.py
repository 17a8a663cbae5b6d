"""What becomes of an operation, whichever way it came: it is admitted, read, bounded and run, and told of in log and metrics.

`gateway/http` and `gateway/subscriptions` are the ways; the steps are here, once.
"""

import math
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

import orjson
from graphql import GraphQLError, OperationDefinitionNode, OperationType
from msgspec import Struct
from msgspec.structs import replace

from gateway.auth.sessions import Session, SessionResolver
from gateway.execution import error_formatting
from gateway.execution.context import Context
from gateway.execution.executor import Executor, Prepared
from gateway.execution.request import BadRequest, GraphQLRequest
from gateway.limits.deadline import Deadline
from gateway.limits.rate_limit import COLD_WEIGHT_PER_SECOND, Account, RateLimits, charge
from gateway.localization.messages import localize
from gateway.observability.operation_log import OperationLog
from gateway.rpc.clients import Clients, asking
from services.kit import ids
from services.kit.errors import Denied, Exhausted, Refusal
from services.kit.rpc import channel
from services.kit.settings import Settings

T = TypeVar("T")

KINDS = {kind: kind.value for kind in OperationType}
"""Python's own way to these takes a microsecond."""
QUERY, MUTATION, SUBSCRIPTION = OperationType
INVALID = "invalid"
USUAL_CALLS, USUAL_BYTES = 10, 64 * 1024
"""Of an operation that counts as one, whatever its rate is counted by."""
UNCOMPILED_WEIGHT = 10.0
"""By which more the same counts when it is not compiled: graphql-core takes that much longer."""


class Answer(Struct, frozen=True):
    """What is answered: 200, or the status of HTTP that says why the operation was not carried out. `operation`, `calls` and
    `uncompiled` are for the log. `retry_seconds`: when to ask again; 0: unsaid."""

    status: int
    body: bytes
    errors: int = 1
    operation: str = "none"
    calls: int = 0
    retry_seconds: int = 0
    uncompiled: str = ""


class Ready(Struct, frozen=True):
    """An operation that is valid and within its bounds. `cost`: its points, where somebody wants to know."""

    asked: GraphQLRequest
    prepared: Prepared
    kind: OperationType
    cost: int | None = None


class Operations:
    """The steps of each operation."""

    def __init__(self, executor: Executor, sessions: SessionResolver, clients: Clients, settings: Settings) -> None:
        self.executor, self.sessions, self.clients = executor, sessions, clients
        self.rates, self.log = RateLimits(settings), OperationLog(settings)
        self.deadline_seconds, self.deadline = settings.deadline_seconds, Deadline(settings.deadline_seconds)

    def begin(self) -> str:
        """The id of an operation that begins in this task: whatever goes wrong is told under it. Its time begins too."""
        id = ids.new("opn")
        error_formatting.operation_id.set(id)
        self.extend()
        return id

    def extend(self) -> None:
        """Gives what this task does next the time of a whole operation."""
        channel.deadline.set(time.monotonic() + self.deadline_seconds)

    async def answered(self, work: Awaitable[T]) -> T | Answer:
        """Returns the result of the work, or the answer that says why it was refused, took longer than the deadline, or failed."""
        try:
            return await self.deadline.run(work)
        except Exception as failure:
            return told(failure)

    async def authenticate(self, authorization: str | None, address: str) -> tuple[Session, Account]:
        """Returns the session and the account that pays for the operation; raises `Denied`, `Unavailable` or `Overloaded`."""
        session = self.sessions.find_cached(authorization)
        if session is None:
            # An unknown token costs up to two rpcs, so its address pays for it first.
            self.rates.admit_address(address)
            session = await self.sessions.authenticate(authorization)
        return session, self.rates.admit(session, address)

    def authenticate_cached(self, authorization: str) -> tuple[Session, Account] | None:
        """Does the same for a cached session that is not anonymous, which needs neither a service nor an address; None without one."""
        session = self.sessions.find_cached(authorization)
        return (session, self.rates.admit(session, "")) if session is not None and session.principal is not None else None

    def ready(self, asked: GraphQLRequest, account: Account) -> Ready | Answer:
        """The operation that is asked for, or what is wrong with its document."""
        prepared = self._prepared(asked.query, account)
        if prepared.document is None:
            return refused(400, *map(error_formatting.formatted, prepared.errors), operation=INVALID)
        operation = prepared.operation(asked.operation_name)
        kind = operation.operation if operation is not None else QUERY
        try:
            cost = self._cost(asked, prepared, operation)
        except GraphQLError as too_dear:
            return refused(400, error_formatting.formatted(too_dear), operation=kind.value)
        return Ready(asked, prepared, kind, cost if asked.wants_cost else None)

    def _prepared(self, query: str, account: Account) -> Prepared:
        """The document; what it takes to read one that is not known is counted too."""
        if (known := self.executor.known(query)) is not None:
            return known
        started = time.perf_counter()
        try:
            return self.executor.prepare(query)
        finally:
            charge(account, (time.perf_counter() - started) * COLD_WEIGHT_PER_SECOND)

    def _cost(self, asked: GraphQLRequest, prepared: Prepared, operation: OperationDefinitionNode | None) -> int | None:
        """What it costs with these variables, where somebody wants to know or other variables would cost too much."""
        if operation is None or (prepared.dearest <= self.executor.rule.limits.cost and not asked.wants_cost):
            return None
        return self.executor.cost(prepared, operation, asked.variables)

    async def run(self, ready: Ready, session: Session, event: Any = None, account: Account = ()) -> Answer:
        """The answer of the operation; of a subscription, to this event. What was more work than usual is counted as more than one."""
        asked, kind = ready.asked, KINDS[ready.kind]
        context = Context(session, self.clients, event)
        before = asking.set(session.principal)
        try:
            answered = await self.executor.answer(ready.prepared, context, asked.variables, asked.operation_name)
        except RecursionError:
            return refused(400, error_formatting.formatted(GraphQLError("the document nests too deep")), operation=kind)
        finally:
            asking.reset(before)
        work = context.calls / USUAL_CALLS + len(answered.body) / USUAL_BYTES
        if answered.uncompiled:
            work *= UNCOMPILED_WEIGHT
        if work > 1 or context.cold_seconds:
            charge(account, max(0.0, work - 1) + context.cold_seconds * COLD_WEIGHT_PER_SECOND)
        status = 200 if answered.begun else 400
        answer = Answer(status, answered.body, answered.errors, kind, context.calls, uncompiled=answered.uncompiled)
        return _with_cost(answer, ready.cost)


def told(failure: Exception) -> Answer:
    """What is said of an operation that was not carried out."""
    if isinstance(failure, BadRequest):
        message = localize(failure.code, failure.message)
        return refused(failure.status, {"message": message, "extensions": error_formatting.identified({"code": failure.code})})
    if isinstance(failure, Refusal):
        return turned_away(failure)
    if isinstance(failure, TimeoutError):
        extensions = error_formatting.identified({"code": "DEADLINE_EXCEEDED", "retryable": True})
        return refused(504, {"message": localize("DEADLINE_EXCEEDED", "the operation took too long"), "extensions": extensions})
    message, extensions = error_formatting.masked(failure)
    return refused(500, {"message": localize(error_formatting.INTERNAL, message), "extensions": extensions})


def refused(status: int, *found: dict[str, Any], operation: str = "none") -> Answer:
    """What is said of a request that was not carried out."""
    return Answer(status, orjson.dumps({"errors": found}), len(found), operation)


def turned_away(refusal: Refusal) -> Answer:
    """What is said to somebody whose request is refused as a whole: 401, 429 or 503."""
    status = 401 if isinstance(refusal, Denied) else 429 if isinstance(refusal, Exhausted) else 503
    seconds = math.ceil(refusal.retry_after.total_seconds()) if refusal.retry_after is not None else int(status != 401)
    body = orjson.dumps({"errors": [error_formatting.request_error(refusal)]})
    return Answer(status, body, retry_seconds=seconds)


def _with_cost(answer: Answer, points: int | None) -> Answer:
    if points is None:
        return answer
    extensions = orjson.dumps({"cost": {"points": points}})
    return replace(answer, body=b'%b,"extensions":%b}' % (answer.body[:-1], extensions))
