"""MongoDB client: the only module that imports a driver, Motor by default or PyMongo's asyncio client (`QUANYU_MONGO_DRIVER=pymongo`).

Motor is past its end of life, so the tests of the kit run with both drivers. Both have PyMongo's interface; they differ only in which
calls are awaited, and the methods below hide that.
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
MessageDocument: TypeAlias = Any
"""A document with the fields of a message. The message's constructor accepts it, which its generated type cannot express."""
Session = Any
"""A driver's session. Pass it to each query and write of its transaction."""
Result = TypeVar("Result")

ATTEMPTS_MAX = 60
"""A transaction that meets write conflicts is tried this many times; with the backoff this takes about seven seconds."""
BACKOFF_SECONDS_MAX = 0.25
"""A transaction waits at most this long before its next attempt."""
ATTEMPTS_BEFORE_ORPHANS = 10
"""After this many attempts (about half a second) a transaction looks for orphaned transactions that block it."""
INTERRUPTED = 11601
"""The error code of an operation whose session was killed, because another replica took its transaction for an orphan."""
ORPHANED_SECONDS = 2.0
"""A transaction that is idle for this long is an orphan: its process is dead, or will run it again."""
IN_FLIGHT_SECONDS = 0.5
"""After a cancellation the body of a transaction may finish its current operation for this long, before the transaction is aborted."""


class Database:
    """The database of one service. `database["orders"]` is the driver's own collection."""

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
        if telemetry.is_tracing():
            options["event_listeners"] = [telemetry.MongoSpans()]
        self.driver = settings.mongo_driver
        client_type: Any = AsyncIOMotorClient if self.driver == "motor" else AsyncMongoClient
        self.client: Any = client_type(uri or settings.mongo_uri, **options)
        self.name = name
        self.raw: Any = self.client[name]
        self._orphans_released_at = 0.0

    def __getitem__(self, collection: str) -> Any:
        return self.raw[collection]

    async def close(self) -> None:
        """Closes the connections; calls in progress fail."""
        closing = self.client.close()
        if closing is not None:
            await closing

    async def ping(self) -> None:
        """Raises `Unavailable` if no primary responds."""
        try:
            await self.client.admin.command("ping")
        except PyMongoError as error:
            raise Unavailable("DATABASE_UNAVAILABLE", "The database does not respond. Try again.") from error

    async def aggregate(self, collection: str, pipeline: Sequence[Mapping[str, Any]], *, session: Session = None, **options: Any) -> Any:
        """Returns the cursor of an aggregation."""
        cursor = self.raw[collection].aggregate(list(pipeline), session=session, **options)
        return await cursor if self.driver == "pymongo" else cursor

    async def aggregate_union(
        self, collection: str, pipelines: Sequence[Sequence[Mapping[str, Any]]], *, then: Sequence[Mapping[str, Any]] = (), **options: Any
    ) -> Any:
        """Returns the cursor of the union of at least one pipeline, in no order, with the stages of `then` after it."""
        first, *others = pipelines
        joined = [{"$unionWith": {"coll": collection, "pipeline": list(other)}} for other in others]
        return await self.aggregate(collection, [*first, *joined, *then], **options)

    async def watch(self, pipeline: Sequence[Mapping[str, Any]], **options: Any) -> Any:
        """Opens a change stream over the whole database; the result is an async context manager and iterator."""
        stream = self.raw.watch(list(pipeline), **options)
        return await stream if self.driver == "pymongo" else stream

    @asynccontextmanager
    async def session(self, *, after: Any = None) -> AsyncIterator[Session]:
        """Starts a session and ends it at exit. Its reads see all commits up to the cluster time `after`, on any primary."""
        starting = self.client.start_session()
        session = await starting if self.driver == "motor" else starting
        async with session:
            if after is not None:
                session.advance_operation_time(after)
            yield session

    async def transact(self, body: Callable[[Session], Awaitable[Result]], *, attempts_max: int = ATTEMPTS_MAX) -> Result:
        """Runs `body(session)` in one transaction and commits it. After a write conflict `body` runs again, at most `attempts_max` times.

        Any other exception aborts the transaction and is raised. `Unavailable` if all attempts meet conflicts or no primary responds.
        """
        async with self.session() as session:
            for attempt in range(attempts_max):
                if attempt:
                    await asyncio.sleep(random.uniform(0, min(BACKOFF_SECONDS_MAX, 0.002 * 2**attempt)))
                if attempt >= ATTEMPTS_BEFORE_ORPHANS:
                    await self._release_orphans_sometimes()
                try:
                    result = await self._attempt(session, body)
                    await self._commit(session)
                    return result
                except ServerSelectionTimeoutError as error:  # it has already waited for its timeout; the next attempt would wait as long
                    raise Unavailable("DATABASE_UNAVAILABLE", "The database does not respond. Try again.") from error
                except PyMongoError as error:
                    if not (error.has_error_label("TransientTransactionError") or getattr(error, "code", None) == INTERRUPTED):
                        if isinstance(error, ConnectionFailure):
                            raise Unavailable("DATABASE_UNAVAILABLE", "The database does not respond. Try again.") from error
                        raise
        raise Unavailable("CONTENDED", "Too many callers change the same document. Try again.")

    async def _attempt(self, session: Session, body: Callable[[Session], Awaitable[Result]]) -> Result:
        starting = session.start_transaction(
            read_concern=ReadConcern("snapshot"), write_concern=WriteConcern("majority"), read_preference=ReadPreference.PRIMARY
        )
        if self.driver == "pymongo":
            await starting
        try:
            return await _finish_operation(body(session))
        except BaseException:
            # Also after a cancellation: without the abort the server would hold the locks of the transaction for a minute.
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
                # Repeating a commit is safe: the server knows the number of the transaction. An unacknowledged commit is not rolled back.
                if not (error.has_error_label("UnknownTransactionCommitResult") or isinstance(error, WriteConcernError)):
                    raise
        raise Unavailable("COMMIT_UNKNOWN", "The database did not confirm the commit. Repeat the same request.")

    async def _release_orphans_sometimes(self) -> None:
        if time.monotonic() - self._orphans_released_at > ORPHANED_SECONDS / 2:
            self._orphans_released_at = time.monotonic()
            await self.release_orphans()

    async def release_orphans(self, idle_seconds: float | None = None) -> None:
        """Ends this service's transactions that have been idle for `idle_seconds`, by default ORPHANED_SECONDS.

        MongoDB itself ends the open transaction of a dead process only after a minute. Until then it blocks writes to the transaction's
        documents, and any index build or drop on its collections.
        """
        idle_seconds = ORPHANED_SECONDS if idle_seconds is None else idle_seconds
        idle = {"type": "idleSession", "appName": self.name, "transaction.timeInactiveMicros": {"$gt": int(idle_seconds * 1e6)}}
        pipeline = [{"$currentOp": {"allUsers": False, "idleSessions": True}}, {"$match": idle}, {"$project": {"lsid.id": 1}}]
        with suppress(PyMongoError):  # without the permission to see or kill sessions, the server ends them after its own timeout
            found = await self.client.admin.command({"aggregate": 1, "pipeline": pipeline, "cursor": {}})
            if orphans := [{"id": operation["lsid"]["id"]} for operation in found["cursor"]["firstBatch"]]:
                await self.client.admin.command({"killSessions": orphans})


async def ensure_indexes(collection: Any, *indexes: Any) -> None:
    """Creates the missing indexes, and with them the collection; a transaction cannot create indexes on a collection with documents."""
    if indexes:
        await collection.create_indexes(list(indexes))


async def _finish_operation(body: Awaitable[Result]) -> Result:
    """Returns the result of `body`. If the waiting task is cancelled, `body` is cancelled too, but only after IN_FLIGHT_SECONDS.

    A driver that is cancelled in an operation may still send it. An abort that overtakes the operation would have no effect: the operation
    would start the transaction again, and nothing would end it.
    """
    running = asyncio.ensure_future(body)
    try:
        await asyncio.wait({running})
    except asyncio.CancelledError:
        try:
            await asyncio.wait({running}, timeout=IN_FLIGHT_SECONDS)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)  # its result is not needed any more
        raise
    return running.result()
