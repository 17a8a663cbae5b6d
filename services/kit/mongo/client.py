"""The only module that knows a driver: Motor by default, PyMongo's own asyncio client by `QUANYU_MONGO_DRIVER=pymongo`.

Motor is past its end of life; this seam keeps the way out open, and the kit's tests run on both. Both drivers speak PyMongo's
vocabulary, so what differs is only which calls are awaited; the few that differ are the functions below.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias, TypeVar

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError, ServerSelectionTimeoutError, WriteConcernError
from pymongo.read_concern import ReadConcern

from services.kit.errors import Unavailable
from services.kit.observability import telemetry
from services.kit.settings import Settings

Document = dict[str, Any]
Shaped: TypeAlias = Any
"""A document shaped like a message: the message's constructor takes it as it is, which its generated type cannot say."""
Session = Any
"""A driver's session inside a transaction. Pass it to every query and write that belongs to the transaction."""
Answer = TypeVar("Answer")

ATTEMPTS_MAX = 60
"""Tries of one transaction that keeps meeting write conflicts; with the backoff below about seven seconds."""
BACKOFF_SECONDS_MAX = 0.25
ATTEMPTS_BEFORE_ORPHANS = 10
"""Tries after which a transaction asks whether a dead process holds what it wants; about half a second."""
INTERRUPTED = 11601
"""The code of an operation whose session somebody ended: a replica that took our transaction for an orphan."""
ORPHANED_SECONDS = 2.0
"""A transaction that did nothing for so long belongs to a dead process, or to one that will simply run it anew."""
IN_FLIGHT_SECONDS = 0.5
"""How long the body of a transaction may go on once its caller is cancelled, so that the operation in flight is over before the abort."""


class Database:
    """One service's database. `await database["orders"].find_one(…)`: a collection is the driver's own."""

    def __init__(self, settings: Settings, name: str, *, uri: str = "") -> None:
        milliseconds = int(settings.mongo_timeout_seconds * 1000)
        options: dict[str, Any] = {
            "tz_aware": True,
            "serverSelectionTimeoutMS": milliseconds,
            "connectTimeoutMS": milliseconds,
            "socketTimeoutMS": 6 * milliseconds,
            "maxPoolSize": 64,
            "retryWrites": True,
            "w": "majority",
            "readConcernLevel": "majority",
            "appname": name,
        }
        if telemetry.traced():
            options["event_listeners"] = [telemetry.MongoSpans()]
        self.driver = settings.mongo_driver
        client_type: Any = AsyncIOMotorClient if self.driver == "motor" else AsyncMongoClient
        self.client: Any = client_type(uri or settings.mongo_uri, **options)
        self.name = name
        self.raw: Any = self.client[name]
        self._orphans_sought_at = 0.0

    def __getitem__(self, collection: str) -> Any:
        return self.raw[collection]

    async def close(self) -> None:
        """Ends the connections; outstanding calls fail."""
        closing = self.client.close()
        if closing is not None:
            await closing

    async def ping(self) -> None:
        """Raises `Unavailable` when no primary answers."""
        try:
            await self.client.admin.command("ping")
        except PyMongoError as error:
            raise Unavailable("DATABASE_UNAVAILABLE", "the database does not answer; try again") from error

    async def aggregate(self, collection: str, pipeline: Sequence[Mapping[str, Any]], *, session: Session = None, **options: Any) -> Any:
        """The cursor of an aggregation."""
        cursor = self.raw[collection].aggregate(list(pipeline), session=session, **options)
        return await cursor if self.driver == "pymongo" else cursor

    async def aggregate_each(
        self, collection: str, pipelines: Sequence[Sequence[Mapping[str, Any]]], *, then: Sequence[Mapping[str, Any]] = (), **options: Any
    ) -> Any:
        """The cursor of one aggregation with what each of several (at least one) finds, in no order, and what is made of it `then`."""
        first, *others = pipelines
        joined = [{"$unionWith": {"coll": collection, "pipeline": list(other)}} for other in others]
        return await self.aggregate(collection, [*first, *joined, *then], **options)

    async def watch(self, pipeline: Sequence[Mapping[str, Any]], **options: Any) -> Any:
        """An open change stream over the whole database: an async context manager and iterator."""
        stream = self.raw.watch(list(pipeline), **options)
        return await stream if self.driver == "pymongo" else stream

    @asynccontextmanager
    async def session(self, *, after: Any = None) -> AsyncIterator[Session]:
        """A driver's session, ended on leaving. Its reads see what was committed by `after`, a change's `at`, whoever is primary now."""
        starting = self.client.start_session()
        session = await starting if self.driver == "motor" else starting
        async with session:
            if after is not None:
                session.advance_operation_time(after)
            yield session

    async def transact(self, body: Callable[[Session], Awaitable[Answer]], *, attempts_max: int = ATTEMPTS_MAX) -> Answer:
        """Runs `body(session)` in one transaction and commits it. `body` runs anew after a write conflict, at most `attempts_max` times.

        Any other exception aborts and is raised as it is. `Unavailable` when the conflicts never end or no primary answers.
        """
        async with self.session() as session:
            for attempt in range(attempts_max):
                if attempt:
                    await asyncio.sleep(random.uniform(0, min(BACKOFF_SECONDS_MAX, 0.002 * 2**attempt)))
                if attempt >= ATTEMPTS_BEFORE_ORPHANS:
                    await self._seek_orphans()
                try:
                    answer = await self._attempt(session, body)
                    await self._commit(session)
                    return answer
                except ServerSelectionTimeoutError as error:  # has waited its time; another try would wait as long again
                    raise Unavailable("DATABASE_UNAVAILABLE", "the database does not answer; try again") from error
                except PyMongoError as error:
                    if not (error.has_error_label("TransientTransactionError") or getattr(error, "code", None) == INTERRUPTED):
                        if isinstance(error, ConnectionFailure):
                            raise Unavailable("DATABASE_UNAVAILABLE", "the database does not answer; try again") from error
                        raise
        raise Unavailable("CONTENDED", "too many callers change the same thing; try again")

    async def _attempt(self, session: Session, body: Callable[[Session], Awaitable[Answer]]) -> Answer:
        starting = session.start_transaction(
            read_concern=ReadConcern("snapshot"), write_concern=WriteConcern("majority"), read_preference=ReadPreference.PRIMARY
        )
        if self.driver == "pymongo":
            await starting
        try:
            return await _to_its_end(body(session))
        except BaseException:
            # Cancellation included: the server must not hold the locks of a transaction nobody will end.
            if session.in_transaction:
                await session.abort_transaction()
            raise

    async def _commit(self, session: Session) -> None:
        for attempt in range(ATTEMPTS_MAX):
            if attempt:
                await asyncio.sleep(random.uniform(0, min(BACKOFF_SECONDS_MAX, 0.002 * 2**attempt)))
            try:
                await session.commit_transaction()
                return
            except (ConnectionFailure, OperationFailure) as error:
                # Repeating a commit is safe: the server knows the transaction's number. A commit that did not hear of its majority stands.
                if not (error.has_error_label("UnknownTransactionCommitResult") or isinstance(error, WriteConcernError)):
                    raise
        raise Unavailable("COMMIT_UNKNOWN", "the database did not confirm; make the same call again")

    async def _seek_orphans(self) -> None:
        if time.monotonic() - self._orphans_sought_at > ORPHANED_SECONDS / 2:
            self._orphans_sought_at = time.monotonic()
            await self.release_orphans()

    async def release_orphans(self, idle_seconds: float | None = None) -> None:
        """Ends this service's transactions that did nothing for `idle_seconds` (ORPHANED_SECONDS unless told).

        MongoDB would hold what a dead process left open for another minute: its documents, and any index or drop on its collections.
        """
        idle_seconds = ORPHANED_SECONDS if idle_seconds is None else idle_seconds
        idle = {"type": "idleSession", "appName": self.name, "transaction.timeInactiveMicros": {"$gt": int(idle_seconds * 1e6)}}
        pipeline = [{"$currentOp": {"allUsers": False, "idleSessions": True}}, {"$match": idle}, {"$project": {"lsid.id": 1}}]
        with suppress(PyMongoError):  # a server that does not let us see or end our own sessions ends them itself, later
            found = await self.client.admin.command({"aggregate": 1, "pipeline": pipeline, "cursor": {}})
            if orphans := [{"id": operation["lsid"]["id"]} for operation in found["cursor"]["firstBatch"]]:
                await self.client.admin.command({"killSessions": orphans})


async def ensure(collection: Any, *indexes: Any) -> None:
    """Creates the collection and its indexes where they are missing; a transaction cannot do it on a collection that holds rows."""
    if indexes:
        await collection.create_indexes(list(indexes))


async def _to_its_end(body: Awaitable[Answer]) -> Answer:
    """The result of `body`. When whoever waits for it is cancelled, it is cancelled too, but not before IN_FLIGHT_SECONDS have passed.

    A driver that is stopped in an operation sends it all the same. An abort sent meanwhile may overtake it: then the operation would
    begin the transaction anew, which nobody would end.
    """
    running = asyncio.ensure_future(body)
    try:
        await asyncio.wait({running})
    except asyncio.CancelledError:
        try:
            await asyncio.wait({running}, timeout=IN_FLIGHT_SECONDS)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)  # what it came to is nobody's any more
        raise
    return running.result()
