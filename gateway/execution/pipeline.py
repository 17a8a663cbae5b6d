"""Pipeline of an operation for all transports: authenticate, rate-limit, parse, limit, validate, execute, and log.

`gateway/http` and `gateway/subscriptions` are the transports. Each step is written once, here.
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
from gateway.execution.document_cache import ParsedDocument
from gateway.execution.executor import NESTING_MESSAGE, Executor
from gateway.execution.request import BadRequest, GraphQLRequest
from gateway.limits.deadline import Deadline
from gateway.limits.rate_limit import COLD_WEIGHT_PER_SECOND, Account, RateLimits, charge
from gateway.localization.messages import localize
from gateway.observability.operation_log import OperationLog
from gateway.rpc.clients import Clients, current_principal
from services.kit import ids
from services.kit.errors import Denied, Exhausted, Refusal
from services.kit.rpc import channel
from services.kit.settings import Settings

T = TypeVar("T")

KIND_NAMES = {kind: kind.value for kind in OperationType}
"""The names of the operation types. Reading `value` of an enum costs a microsecond."""
QUERY, MUTATION, SUBSCRIPTION = OperationType
INVALID = "invalid"
"""The kind of an operation in the log whose document is invalid."""
USUAL_CALLS, USUAL_BYTES = 10, 64 * 1024
"""The rate limit counts an operation again for each further 10 rpcs and 64 KB of its result."""
UNCOMPILED_WEIGHT = 10.0
"""An operation that graphql-core executes counts this many times as much, because it takes that much longer."""
DEADLINE_MESSAGE = "The operation took too long. Request less, or retry later."


class OperationResult(Struct, frozen=True):
    """The result of an operation: its body and the HTTP status. `operation`, `calls` and `uncompiled` are for the log."""

    status: int
    """200, or the HTTP status of the reason why the operation was not executed."""
    body: bytes
    errors: int = 1
    operation: str = "none"
    calls: int = 0
    retry_seconds: int = 0
    """The client may retry after this time; 0: no time is given."""
    uncompiled: str = ""


class ValidOperation(Struct, frozen=True):
    """An operation that is valid and within its limits."""

    request: GraphQLRequest
    document: ParsedDocument
    kind: OperationType
    cost: int | None = None
    """Its points, if the client requests them."""


class OperationPipeline:
    """The steps of each operation."""

    def __init__(self, executor: Executor, sessions: SessionResolver, clients: Clients, settings: Settings) -> None:
        self.executor, self.sessions, self.clients = executor, sessions, clients
        self.rates, self.log = RateLimits(settings), OperationLog(settings)
        self.deadline_seconds, self.deadline = settings.deadline_seconds, Deadline(settings.deadline_seconds)

    def begin(self) -> str:
        """Begins an operation in the current task: starts its deadline and returns its id, which its errors and log lines carry."""
        id = ids.new("opn")
        error_formatting.operation_id.set(id)
        self.restart_deadline()
        return id

    def restart_deadline(self) -> None:
        """Gives the rpcs of the current task the time of a whole operation again."""
        channel.deadline.set(time.monotonic() + self.deadline_seconds)

    async def attempt(self, work: Awaitable[T]) -> T | OperationResult:
        """Returns the result of the work; if it is refused, fails or takes longer than the deadline, the result with that error."""
        try:
            return await self.deadline.run(work)
        except Exception as failure:
            return error_result(failure)

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

    def validate(self, request: GraphQLRequest, account: Account) -> ValidOperation | OperationResult:
        """Returns the requested operation; the result with its errors if its document is invalid or exceeds a limit."""
        document = self._prepare(request.query, account)
        if document.ast is None:
            return unexecuted_result(400, *map(error_formatting.format_error, document.errors), operation=INVALID)
        operation = document.find_operation(request.operation_name)
        kind = operation.operation if operation is not None else QUERY
        try:
            cost = self._cost(request, document, operation)
        except GraphQLError as error:
            return unexecuted_result(400, error_formatting.format_error(error), operation=kind.value)
        return ValidOperation(request, document, kind, cost if request.wants_cost else None)

    def _prepare(self, text: str, account: Account) -> ParsedDocument:
        """Returns the document. The account is charged for the time to parse and validate a new one."""
        if (cached := self.executor.documents.find(text)) is not None:
            return cached
        started = time.perf_counter()
        try:
            return self.executor.prepare(text)
        finally:
            charge(account, (time.perf_counter() - started) * COLD_WEIGHT_PER_SECOND)

    def _cost(self, request: GraphQLRequest, document: ParsedDocument, operation: OperationDefinitionNode | None) -> int | None:
        """Returns the cost with these variables, if the client requests it or other variables would exceed the limit."""
        if operation is None or (document.cost_max <= self.executor.rule.limits.cost and not request.wants_cost):
            return None
        return self.executor.cost(document, operation, request.variables)

    async def execute(self, operation: ValidOperation, session: Session, event: Any = None, account: Account = ()) -> OperationResult:
        """Returns the result of the operation; of a subscription, for this event. The account is charged for unusually much work."""
        request, kind = operation.request, KIND_NAMES[operation.kind]
        context = Context(session, self.clients, event)
        token = current_principal.set(session.principal)
        try:
            result = await self.executor.execute(operation.document, context, request.variables, request.operation_name)
        except RecursionError:
            return unexecuted_result(400, error_formatting.format_error(GraphQLError(NESTING_MESSAGE)), operation=kind)
        finally:
            current_principal.reset(token)
        work = context.calls / USUAL_CALLS + len(result.body) / USUAL_BYTES
        if result.uncompiled:
            work *= UNCOMPILED_WEIGHT
        if work > 1 or context.compile_seconds:
            charge(account, max(0.0, work - 1) + context.compile_seconds * COLD_WEIGHT_PER_SECOND)
        status = 200 if result.is_executed else 400
        executed = OperationResult(status, result.body, result.errors, kind, context.calls, uncompiled=result.uncompiled)
        return _add_cost(executed, operation.cost)


def error_result(failure: Exception) -> OperationResult:
    """Returns the result of an operation that was not executed because of this failure."""
    if isinstance(failure, BadRequest):
        message = localize(failure.code, failure.message)
        extensions = error_formatting.add_operation_id({"code": failure.code})
        return unexecuted_result(failure.status, {"message": message, "extensions": extensions})
    if isinstance(failure, Refusal):
        return refusal_result(failure)
    if isinstance(failure, TimeoutError):
        extensions = error_formatting.add_operation_id({"code": "DEADLINE_EXCEEDED", "retryable": True})
        message = localize("DEADLINE_EXCEEDED", DEADLINE_MESSAGE)
        return unexecuted_result(504, {"message": message, "extensions": extensions})
    message, extensions = error_formatting.mask_unexpected(failure)
    return unexecuted_result(500, {"message": localize(error_formatting.INTERNAL, message), "extensions": extensions})


def unexecuted_result(status: int, *errors: dict[str, Any], operation: str = "none") -> OperationResult:
    """Returns the result of an operation that was not executed, with these errors."""
    return OperationResult(status, orjson.dumps({"errors": errors}), len(errors), operation)


def refusal_result(refusal: Refusal) -> OperationResult:
    """Returns the result of a request that is refused as a whole: 401, 429 or 503."""
    status = 401 if isinstance(refusal, Denied) else 429 if isinstance(refusal, Exhausted) else 503
    seconds = math.ceil(refusal.retry_after.total_seconds()) if refusal.retry_after is not None else int(status != 401)
    body = orjson.dumps({"errors": [error_formatting.format_refusal(refusal)]})
    return OperationResult(status, body, retry_seconds=seconds)


def _add_cost(result: OperationResult, points: int | None) -> OperationResult:
    if points is None:
        return result
    extensions = orjson.dumps({"cost": {"points": points}})
    return replace(result, body=b'%b,"extensions":%b}' % (result.body[:-1], extensions))
