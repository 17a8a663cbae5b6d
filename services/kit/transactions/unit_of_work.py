"""Unit of work: an ordinary write is one transaction of the changed documents, their events and its idempotency record.

class TaskServicer(tasks_pb2_grpc.TaskServiceServicer):
    @transactional
    async def AcknowledgeTask(self, request: AcknowledgeTaskRequest, uow: UnitOfWork) -> AcknowledgeTaskResponse: ...
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial, wraps
from inspect import signature
from typing import Any, TypeVar, get_type_hints

from google.protobuf.message import Message
from pymongo.errors import BulkWriteError, DuplicateKeyError

from services.kit.clock import Clock
from services.kit.descriptors import full_name, method_of
from services.kit.errors import Refusal
from services.kit.mongo.client import Database, Session
from services.kit.security.caller import Caller, current_caller
from services.kit.transactions.idempotency import IdempotencyGuard, IdempotencyKey, is_decision
from services.kit.transactions.outbox import Outbox
from services.kit.values.event import Event

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Servicer = TypeVar("Servicer")


class UnitOfWork:
    """One transaction: its session, its time, and the events published so far."""

    def __init__(self, session: Session, at: datetime, outbox: Outbox) -> None:
        self.session, self.at, self.outbox = session, at, outbox
        self.published: list[Event] = []

    @property
    def caller(self) -> Caller:
        """The caller that the unit of work runs for."""
        return current_caller()

    def publish(self, *events: Event) -> None:
        """Adds events; `flush` writes them."""
        self.published += events

    async def flush(self) -> None:
        """Writes the published events into the transaction."""
        if self.published:
            events, self.published = self.published, []
            await self.outbox.write(self.session, [self.outbox.to_message(event, self.at) for event in events])


class TransactionRunner:
    """Runs units of work, each one once for its idempotency key."""

    def __init__(self, database: Database, outbox: Outbox, clock: Clock) -> None:
        self.database, self.outbox, self.clock = database, outbox, clock

    async def run(
        self, request: Message, answer_type: type[Response], body: Callable[[UnitOfWork], Awaitable[Response]], *, step: str = ""
    ) -> Response:
        """Runs `body` in a transaction, and again after a write conflict. A repeat of the request gets the first answer or refusal.

        `step` names a later transaction of the same rpc.
        """
        key, at = IdempotencyKey.from_request(request, step=step), self.clock()

        async def attempt(session: Session) -> Response:
            guard = await IdempotencyGuard.read(self.database, [key], session)
            if (first := guard.replay(key, answer_type)) is not None:
                return first
            uow = UnitOfWork(session, at, self.outbox)
            answer = await body(uow)
            await uow.flush()
            guard.record(key, at, answer)
            await guard.write(session)
            return answer

        async def record_refusal(refusal: Refusal, session: Session) -> Response | None:
            """Records the refusal in a separate transaction; returns the answer of a concurrent repeat that has succeeded."""
            guard = await IdempotencyGuard.read(self.database, [key], session)
            if (first := guard.replay(key, answer_type)) is None:
                guard.record(key, at, refusal)
                await guard.write(session)
            return first

        try:
            try:
                return await self.database.transact(attempt)
            except Refusal as refusal:
                if is_decision(refusal) and (first := await self.database.transact(partial(record_refusal, refusal))) is not None:
                    return first
                raise
        except (DuplicateKeyError, BulkWriteError):
            # A concurrent repeat has written the record; any other duplicate key is a bug of the body.
            guard = await IdempotencyGuard.read(self.database, [key])
            if (first := guard.replay(key, answer_type)) is None:
                raise
            return first


def transactional(
    method: Callable[[Servicer, Request, UnitOfWork], Awaitable[Response]],
) -> Callable[[Servicer, Request, Any], Awaitable[Response]]:
    """Runs a servicer's method as a unit of work. The servicer needs `transactions`, the request needs `request_id`.

    TypeError at the definition of the class if the method is not the rpc of its request and response.
    """
    hints = get_type_hints(method)
    rpc = method_of(hints["request"].DESCRIPTOR)
    answer_type: type[Response] = hints["return"]
    if (rpc.name, rpc.output_type) != (method.__name__, answer_type.DESCRIPTOR) or len(signature(method).parameters) != 3:
        raise TypeError(f"{method.__qualname__} must take (self, request, uow) and have the name and the response of {full_name(rpc)}")

    @wraps(method)
    async def call(self: Servicer, request: Request, context: Any) -> Response:
        transactions: TransactionRunner = self.transactions  # type: ignore[attr-defined]

        async def body(uow: UnitOfWork) -> Response:
            return await method(self, request, uow)

        return await transactions.run(request, answer_type, body)

    del call.__wrapped__
    return call
