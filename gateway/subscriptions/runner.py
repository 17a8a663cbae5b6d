"""Subscription runner: executes an operation of a long-lived connection; a subscription has one result for each event.

A service ends its streams every minute to check grants again, and when it stops. The runner then resumes the subscription after its last
cursor, with the grants that the client has by then. The client does not notice.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import Any

from graphql import OperationType
from msgspec import Struct
from prometheus_client import Counter, Gauge

from gateway.auth.sessions import Session
from gateway.execution import error_formatting
from gateway.execution.context import Context
from gateway.execution.pipeline import OperationPipeline, OperationResult, ValidOperation, error_result, unexecuted_result
from gateway.limits.concurrency import ConcurrencyLimiter
from gateway.limits.rate_limit import Account, network
from gateway.observability.operation_log import OperationRecord
from gateway.rpc.clients import acting_as
from gateway.schema.subscription_fields import Feed
from gateway.subscriptions.buffer import buffer_events
from services.kit.errors import Unavailable
from services.kit.observability import telemetry
from services.kit.settings import Settings

CONCURRENT_EVENTS_MAX = 64
"""A process executes this many events of subscriptions at a time; further events wait in their buffers."""
RESUMES_MAX = 8
"""A subscription ends after this many streams in sequence that were shorter than `STABLE_SECONDS`."""
STABLE_SECONDS = 10.0
"""A stream that lasts this long resets the count of short streams."""
RESUME_DELAY_SECONDS = 0.1
"""The first delay before a stream is resumed, at most; each further one is up to twice as long: half a minute in total."""
ENDED = "SUBSCRIPTION_ENDED"

OPEN = Gauge("quanyu_graphql_subscriptions", "Subscriptions that are open.")
EVENTS = Counter("quanyu_graphql_subscription_events_total", "Events that were answered.")
ENDS = Counter(
    "quanyu_graphql_subscriptions_ended_total", "Subscriptions that ended, by their status; 0: their client ended them.", ["status"]
)


class Requester(Struct, frozen=True):
    """The client of an operation: its `Authorization` header, its address, and the headers of its trace."""

    authorization: str | None
    address: str
    trace: Mapping[str, str] = MappingProxyType({})


class OperationTotals(Struct):
    """The totals of an operation for its log line and metrics. `status` 0: its client ended it."""

    results: int = 0
    errors: int = 0
    calls: int = 0
    status: int = 0
    uncompiled: str = ""

    def add(self, result: OperationResult) -> None:
        """Adds a result."""
        self.results += 1
        self.errors += result.errors
        self.calls += result.calls
        self.uncompiled = result.uncompiled or self.uncompiled
        if result.status != 200:
            self.status = result.status


class SubscriptionRunner:
    """Runs the operations of long-lived connections of this process, within their limits."""

    def __init__(self, operations: OperationPipeline, settings: Settings) -> None:
        self.operations, self.sessions = operations, operations.sessions
        principal_max = settings.subscriptions_principal
        self.subscription_slots = ConcurrencyLimiter(settings.subscriptions_max, principal_max, "subscriptions")
        self.operation_slots = ConcurrencyLimiter(settings.operations_max, principal_max, "operations")
        self.events_max = settings.subscription_events
        self.event_slots = asyncio.Semaphore(CONCURRENT_EVENTS_MAX)
        self.mutations: set[asyncio.Task[OperationResult]] = set()

    async def run(
        self, id: str, operation: ValidOperation, session: Session, account: Account, requester: Requester, transport: str
    ) -> AsyncGenerator[OperationResult, None]:
        """Yields the results of the operation, and logs it at its end. A result with another status than 200 is the last one."""
        totals, started = OperationTotals(), time.perf_counter()
        try:
            async with aclosing(self._run(operation, session, account, requester)) as results:
                async for result in results:
                    totals.add(result)
                    yield result
            totals.status = totals.status or 200
        finally:
            self._log(id, operation.kind, totals, time.perf_counter() - started, transport)

    def _log(self, id: str, kind: OperationType, totals: OperationTotals, seconds: float, transport: str) -> None:
        if kind is OperationType.SUBSCRIPTION:
            ENDS.labels(str(totals.status)).inc()
        more = {"transport": transport, "results": totals.results}
        record = OperationRecord(id, kind.value, totals.status, totals.errors, totals.calls, seconds, totals.uncompiled, more)
        self.operations.log.add(record)

    async def _run(
        self, operation: ValidOperation, session: Session, account: Account, requester: Requester
    ) -> AsyncGenerator[OperationResult, None]:
        try:
            if operation.kind is not OperationType.SUBSCRIPTION:
                work = self._execute_once(operation, session, account, requester)
                yield await (self._complete(work) if operation.kind is OperationType.MUTATION else work)
                return
            with self.subscription_slots.slot(limiter_key(session, requester)), OPEN.track_inprogress():
                feed = self._create_feed(operation, session)
                if isinstance(feed, OperationResult):
                    yield feed
                    return
                async with aclosing(buffer_events(self._read_events(feed, requester), self.events_max)) as events:
                    async for event in events:
                        result = await self._execute_event(operation, event, account, requester)
                        yield result
                        if result.status != 200:
                            return
        except Exception as failure:
            yield error_result(failure)

    async def _execute_once(self, operation: ValidOperation, session: Session, account: Account, requester: Requester) -> OperationResult:
        """Executes a query or mutation. Its slot is free before the result is sent, because the client may read it slowly."""
        with self.operation_slots.slot(limiter_key(session, requester)):
            return await self.operations.attempt(self._execute(operation, session, account, requester))

    async def _complete(self, work: Coroutine[Any, Any, OperationResult]) -> OperationResult:
        """Does the work to its end, even if the client disconnects."""
        task = asyncio.create_task(work)
        self.mutations.add(task)
        task.add_done_callback(self.mutations.discard)
        return await asyncio.shield(task)

    async def wait_for_mutations(self) -> None:
        """Returns when all running mutations have ended, each within its deadline."""
        while self.mutations:
            await asyncio.wait(self.mutations)

    def _create_feed(self, operation: ValidOperation, session: Session) -> Feed | OperationResult:
        """Returns the feed of a subscription; the result with the errors of its variables if they are invalid."""
        context, request = Context(session, self.operations.clients), operation.request
        executor = self.operations.executor
        found: Any = executor.create_source_stream(operation.document, context, request.variables, request.operation_name)
        if isinstance(found, Feed):
            return found
        return unexecuted_result(400, *map(error_formatting.format_error, found), operation=operation.kind.value)

    async def _read_events(self, feed: Feed, requester: Requester) -> AsyncGenerator[Any, None]:
        """Yields the events of the feed; resumes its stream when the service ends it. Raises `Unavailable` after `RESUMES_MAX`."""
        short_streams = 0
        while True:
            started = time.monotonic()
            failure: Unavailable | None = None
            try:
                session = await self.sessions.authenticate(requester.authorization)
                with acting_as(session.principal):
                    responses = feed.follow()
                async with aclosing(responses):
                    async for response in responses:
                        yield response
            except Unavailable as refusal:
                failure = refusal
            short_streams = short_streams + 1 if time.monotonic() - started < STABLE_SECONDS else 0
            if short_streams > RESUMES_MAX or not feed.resumable:
                raise failure or Unavailable(ENDED, "The service ended the stream. Query the current state and subscribe again.")
            await asyncio.sleep(random.uniform(0, RESUME_DELAY_SECONDS * 2**short_streams))

    async def _execute_event(self, operation: ValidOperation, event: Any, account: Account, requester: Requester) -> OperationResult:
        """Returns the result for one event, with the grants that the client has now."""
        EVENTS.inc()
        async with self.event_slots:
            self.operations.restart_deadline()
            return await self.operations.attempt(self._authenticate_and_execute(operation, event, account, requester))

    async def _authenticate_and_execute(
        self, operation: ValidOperation, event: Any, account: Account, requester: Requester
    ) -> OperationResult:
        return await self._execute(operation, await self.sessions.authenticate(requester.authorization), account, requester, event)

    async def _execute(
        self, operation: ValidOperation, session: Session, account: Account, requester: Requester, event: Any = None
    ) -> OperationResult:
        with telemetry.start_span("graphql", requester.trace) as span:
            span.set_attribute("quanyu.operation_id", error_formatting.operation_id.get())
            return await self.operations.execute(operation, session, event, account)


def limiter_key(session: Session, requester: Requester) -> str:
    """Returns the key of a client in a concurrency limiter: its principal, or its network for an anonymous client."""
    return session.principal.id if session.principal is not None else network(requester.address)
