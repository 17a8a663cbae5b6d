"""A unit of work: one ordinary write is one transaction of the changed documents, their facts and the once-record of its request.

class Tasks(tasks_pb2_grpc.TaskServiceServicer):
    @write
    async def AcknowledgeTask(self, request: AcknowledgeTaskRequest, unit: Unit) -> AcknowledgeTaskResponse: ...
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import wraps
from inspect import signature
from typing import Any, TypeVar, get_type_hints

import msgspec
from google.protobuf.message import Message
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from services.kit import errors, once
from services.kit.access import Caller, caller
from services.kit.clock import Clock
from services.kit.facts.outbox import Outbox
from services.kit.mongo import Database, Document, Session
from services.kit.once import Once

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Servicer = TypeVar("Servicer")


class Unit:
    """What belongs to one transaction: its session, its time, and the facts told so far."""

    def __init__(self, session: Session, at: datetime, outbox: Outbox) -> None:
        self.session, self.at, self.outbox = session, at, outbox
        self.told: list[msgspec.Struct] = []

    @property
    def caller(self) -> Caller:
        """Whoever this is done for."""
        return caller()

    def tell(self, *facts: msgspec.Struct) -> None:
        """Tells facts: structs of the rules, named like their messages in facts.proto."""
        self.told += facts

    async def flush(self) -> None:
        """Writes the facts told so far into the transaction."""
        if self.told:
            told, self.told = self.told, []
            await self.outbox.write(self.session, [self.outbox.fact(fact, self.at) for fact in told])


class Units:
    """Runs units of work, each once by its request id."""

    def __init__(self, database: Database, outbox: Outbox, clock: Clock) -> None:
        self.database, self.outbox, self.clock = database, outbox, clock

    async def run(
        self, caller_id: str, method: str, request: Message, answer_type: type[Response], body: Callable[[Unit], Awaitable[Response]]
    ) -> Response:
        """Runs `body` in a transaction, anew after a write conflict. A repeat of the request hears the first answer or refusal."""
        request_once, at = Once.of(caller_id, method, request), self.clock()

        async def attempt(session: Session) -> Response:
            found = await once.find(self.database, [request_once.id], session)
            if record := found.get(request_once.id):
                replayed: Response = request_once.replay(record, answer_type)
                return replayed
            unit = Unit(session, at, self.outbox)
            answer = await body(unit)
            await unit.flush()
            await self.database[once.COLLECTION].insert_one(request_once.record(at, answer=answer), session=session)
            return answer

        try:
            return await self.database.transact(attempt)
        except DuplicateKeyError as error:
            # Our own record, written by a twin of this request meanwhile; any other duplicate is a bug of the body.
            found = await once.find(self.database, [request_once.id])
            if record := found.get(request_once.id):
                replayed: Response = request_once.replay(record, answer_type)
                return replayed
            raise error
        except errors.Refusal as refusal:
            if once.worth_keeping(refusal) and (earlier := await self._keep(request_once, at, refusal)):
                replayed = request_once.replay(earlier, answer_type)
                return replayed  # noqa: RET504 - typed above
            raise

    async def _keep(self, request_once: Once, at: datetime, refusal: errors.Refusal) -> Document | None:
        """Records a refusal so that a repeat hears it again; the record of a twin that was faster, if there is one."""
        record = request_once.record(at, refusal=refusal)
        del record["_id"]
        earlier: Document | None = await self.database[once.COLLECTION].find_one_and_update(
            {"_id": request_once.id}, {"$setOnInsert": record}, upsert=True, return_document=ReturnDocument.BEFORE
        )
        return earlier


def write(
    method: Callable[[Servicer, Request, Unit], Awaitable[Response]],
) -> Callable[[Servicer, Request, Any], Awaitable[Response]]:
    """Makes a servicer's method an ordinary write. The servicer has `units`; the request has `request_id`."""
    answer_type: list[type[Response]] = []

    @wraps(method)
    async def call(self: Servicer, request: Request, context: Any) -> Response:
        if not answer_type:
            answer_type.append(get_type_hints(method)["return"])
        units: Units = self.units  # type: ignore[attr-defined]

        async def body(unit: Unit) -> Response:
            return await method(self, request, unit)

        name = f"{type(self).__name__}/{method.__name__}"
        return await units.run(caller().id, name, request, answer_type[0], body)

    assert len(signature(method).parameters) == 3, f"{method.__qualname__} takes (self, request, unit)"
    del call.__wrapped__
    return call
