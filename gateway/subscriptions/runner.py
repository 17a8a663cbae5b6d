"""From an operation to its answers: one of a query or mutation, one for each event of a subscription.

A service ends its streams now and then, so that grants are looked at anew, and when it stops. The subscription goes on then, after the
last cursor and with the grants its bearer has by now, without its client noticing.
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
from gateway.execution.pipeline import Answer, Operations, Ready, refused, told
from gateway.limits.concurrency import ConcurrencyLimiter
from gateway.limits.rate_limit import Account, network
from gateway.observability.operation_log import OperationRecord
from gateway.rpc.clients import acting_as
from gateway.schema.subscription_fields import Feed
from gateway.subscriptions.buffer import buffered
from services.kit.errors import Unavailable
from services.kit.observability import telemetry
from services.kit.settings import Settings

EVENTS_AT_ONCE = 64
"""That are executed at a time; others wait in their buffers."""
RESUMES_MAX = 8
"""Attempts to go on after streams that did not last."""
LASTING_SECONDS = 10.0
RESUME_SECONDS = 0.1
"""Before the first of them, at most; each further one waits up to twice as long: half a minute in all, for a service that starts anew."""
ENDED = "SUBSCRIPTION_ENDED"

OPEN = Gauge("quanyu_graphql_subscriptions", "Subscriptions that are open.")
EVENTS = Counter("quanyu_graphql_subscription_events_total", "Events that were answered.")
ENDS = Counter(
    "quanyu_graphql_subscriptions_ended_total", "Subscriptions that ended, by their status; 0: their client ended them.", ["status"]
)


class Asker(Struct, frozen=True):
    """Who asks: what their `Authorization` says, from where, and the headers that name the trace it belongs to."""

    authorization: str | None
    address: str
    trace: Mapping[str, str] = MappingProxyType({})


class Tally(Struct):
    """What an operation came to, for log and metrics. `status` 0: its client ended it."""

    answers: int = 0
    errors: int = 0
    calls: int = 0
    status: int = 0
    uncompiled: str = ""

    def add(self, answer: Answer) -> None:
        """Counts an answer."""
        self.answers += 1
        self.errors += answer.errors
        self.calls += answer.calls
        self.uncompiled = answer.uncompiled or self.uncompiled
        if answer.status != 200:
            self.status = answer.status


class Subscriptions:
    """All subscriptions of this process, within their bounds."""

    def __init__(self, operations: Operations, settings: Settings) -> None:
        self.operations, self.sessions = operations, operations.sessions
        each = settings.subscriptions_principal
        self.places, self.operating = (
            ConcurrencyLimiter(settings.subscriptions_max, each, "subscriptions"),
            ConcurrencyLimiter(settings.operations_max, each, "operations"),
        )
        self.events_max = settings.subscription_events
        self.executing = asyncio.Semaphore(EVENTS_AT_ONCE)
        self.going_on: set[asyncio.Task[Answer]] = set()

    async def answers(
        self, id: str, ready: Ready, session: Session, account: Account, asker: Asker, way: str
    ) -> AsyncGenerator[Answer, None]:
        """The answers of the operation, told of in the log when they end. One that is not 200 is the last and says why."""
        tally, started = Tally(), time.perf_counter()
        try:
            async with aclosing(self._answers(ready, session, account, asker)) as answers:
                async for answer in answers:
                    tally.add(answer)
                    yield answer
            tally.status = tally.status or 200
        finally:
            self._tell(id, ready.kind, tally, time.perf_counter() - started, way)

    def _tell(self, id: str, kind: OperationType, tally: "Tally", seconds: float, way: str) -> None:
        if kind is OperationType.SUBSCRIPTION:
            ENDS.labels(str(tally.status)).inc()
        more = {"way": way, "answers": tally.answers}
        ended = OperationRecord(id, kind.value, tally.status, tally.errors, tally.calls, seconds, tally.uncompiled, more)
        self.operations.log.add(ended)

    async def _answers(self, ready: Ready, session: Session, account: Account, asker: Asker) -> AsyncGenerator[Answer, None]:
        key = key_of(session, asker)
        try:
            if ready.kind is not OperationType.SUBSCRIPTION:
                once = self._once(ready, session, account, asker)
                yield await (self._to_its_end(once) if ready.kind is OperationType.MUTATION else once)
                return
            with self.places.slot(key), OPEN.track_inprogress():
                feed = self._feed(ready, session)
                if isinstance(feed, Answer):
                    yield feed
                    return
                async with aclosing(buffered(self._heard(feed, asker), self.events_max)) as events:
                    async for event in events:
                        answer = await self._answer(ready, event, account, asker)
                        yield answer
                        if answer.status != 200:
                            return
        except Exception as failure:
            yield told(failure)

    async def _once(self, ready: Ready, session: Session, account: Account, asker: Asker) -> Answer:
        """The one answer of a query or mutation. It keeps its place until it is there: its client may be slow to take it."""
        with self.operating.slot(key_of(session, asker)):
            return await self.operations.answered(self._run(ready, session, account, asker))

    async def _to_its_end(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """The same of what goes on though its client may go."""
        task = asyncio.create_task(work)
        self.going_on.add(task)
        task.add_done_callback(self.going_on.discard)
        return await asyncio.shield(task)

    async def settled(self) -> None:
        """Returns when all that goes on has come to its end, for which each has its own time."""
        while self.going_on:
            await asyncio.wait(self.going_on)

    def _feed(self, ready: Ready, session: Session) -> Feed | Answer:
        """What it follows, or what is wrong with its variables."""
        context = Context(session, self.operations.clients)
        found: Any = self.operations.executor.source(ready.prepared, context, ready.asked.variables, ready.asked.operation_name)
        if isinstance(found, Feed):
            return found
        return refused(400, *map(error_formatting.formatted, found), operation=ready.kind.value)

    async def _heard(self, feed: Feed, asker: Asker) -> AsyncGenerator[Any, None]:
        """The events of the feed, for as long as somebody tells them."""
        short = 0
        while True:
            began = time.monotonic()
            broken: Unavailable | None = None
            try:
                session = await self.sessions.authenticate(asker.authorization)
                with acting_as(session.principal):
                    responses = feed.follow()
                async with aclosing(responses):
                    async for response in responses:
                        yield response
            except Unavailable as refusal:
                broken = refusal
            short = short + 1 if time.monotonic() - began < LASTING_SECONDS else 0
            if short > RESUMES_MAX or not feed.resumable:
                raise broken or Unavailable(ENDED, "the service told no more; read anew what you show and subscribe again")
            await asyncio.sleep(random.uniform(0, RESUME_SECONDS * 2**short))

    async def _answer(self, ready: Ready, event: Any, account: Account, asker: Asker) -> Answer:
        """The answer to one event, with the grants its bearer has now."""
        EVENTS.inc()
        async with self.executing:
            self.operations.extend()
            return await self.operations.answered(self._executed(ready, event, account, asker))

    async def _executed(self, ready: Ready, event: Any, account: Account, asker: Asker) -> Answer:
        return await self._run(ready, await self.sessions.authenticate(asker.authorization), account, asker, event)

    async def _run(self, ready: Ready, session: Session, account: Account, asker: Asker, event: Any = None) -> Answer:
        with telemetry.span("graphql", asker.trace) as span:
            span.set_attribute("quanyu.operation_id", error_formatting.operation_id.get())
            return await self.operations.run(ready, session, event, account)


def key_of(session: Session, asker: Asker) -> str:
    """Whose places somebody takes: their own, or those of their address."""
    return session.principal.id if session.principal is not None else network(asker.address)
