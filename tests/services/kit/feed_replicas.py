"""Two processes that serve change feeds of one database, and clients that read them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

from msgspec import Struct

from quanyu.organization.v1 import tasks_pb2
from services.kit import clock, ids
from services.kit.enums import ScopeKind
from services.kit.mongo.change_streams import ChangeStreamHub, WatchedCollection
from services.kit.mongo.client import Database
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.rpc.change_feed import ChangeFeed, feed_index
from services.kit.rpc.channel import CURSOR_KEY
from services.kit.security.caller import SYSTEM, caller_context
from services.kit.transactions.outbox import Outbox
from services.kit.transactions.unit_of_work import UnitOfWork

ANNA = "stf_anna"


class Task(Struct, frozen=True):
    """The fields of a task that these tests use; `visit_id` is its state."""

    id: str
    staff_id: str = ANNA
    store_id: str = "str_1"
    visit_id: str = ""
    version: int = 1


class Context:
    """The part of a gRPC context that a feed uses: the initial metadata with the first cursor."""

    def __init__(self) -> None:
        self.cursor: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def send_initial_metadata(self, metadata: Sequence[tuple[str, str]]) -> None:
        self.cursor.set_result(dict(metadata)[CURSOR_KEY])


class StreamReader:
    """A client that reads a stream in the background: `items` are pairs of id and state, `cursor` is the last one."""

    def __init__(self, batches: Any, context: Context, after: str) -> None:
        self.items: list[tuple[str, str]] = []
        self.cursors: list[str] = []
        self.cursor, self.context = after, context
        self.ended: asyncio.Task[None] = asyncio.create_task(self._read(batches))
        self._received = asyncio.Condition()

    async def _read(self, batches: Any) -> None:
        async with aclosing(batches):
            async for batch in batches:
                for document, cursor in batch:
                    self.items.append((document["id"], document.get("visit_id", "")))
                    self.cursors.append(cursor)
                    self.cursor = cursor
                async with self._received:
                    self._received.notify_all()

    async def wait_until_started(self) -> None:
        """Waits until the stream has started or ended."""
        async with asyncio.timeout(20):
            await asyncio.wait([self.context.cursor, self.ended], return_when=asyncio.FIRST_COMPLETED)
        if self.ended.done():
            await self.ended
        elif not self.cursor:
            self.cursor = self.context.cursor.result()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30), self._received:
            await self._received.wait_for(condition)

    async def expect(self, *items: tuple[str, str]) -> None:
        """Waits for as many items and asserts that all items so far are these, in this order."""
        await self.wait_until(lambda: len(self.items) >= len(items))
        assert self.items == list(items)

    async def close(self) -> None:
        self.ended.cancel()
        await asyncio.gather(self.ended, return_exceptions=True)


class Replica:
    """A process with two change feeds: `changes` of inserted and updated tasks, `inserts` of inserted mail."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.change_streams = ChangeStreamHub(database)
        scopes = {ScopeKind.STAFF: "staff_id", ScopeKind.STORE: "store_id"}
        keys = ("staff_id", "store_id")
        self.tasks = ScopedCollection(
            database, "tasks", noun="TASK", struct=Task, message=tasks_pb2.Task, scopes=scopes, records_change_time=True,
            indexes=list(map(feed_index, keys)),
        )  # fmt: skip
        self.changes = ChangeFeed(self.change_streams, self.tasks, keys=keys)
        self.mail = ScopedCollection(
            database,
            "mail",
            noun="TASK",
            struct=Task,
            message=tasks_pb2.Task,
            scopes=scopes,
            indexes=[feed_index("staff_id", inserts_only=True)],
        )
        self.inserts = ChangeFeed(
            self.change_streams, self.mail, keys=("staff_id",), inserted_prefix="tsk", ids_of=self.ids_of,
            until=WatchedCollection("links", keys=("staff_id",))
        )  # fmt: skip
        self.linked_ids: dict[str, list[str]] = {}

    async def ids_of(self, id: str) -> list[str]:
        return self.linked_ids.get(id, [id])

    @asynccontextmanager
    async def read_stream(
        self, after: str = "", field: str = "staff_id", subject: str = ANNA, inserts_only: bool = False
    ) -> AsyncIterator[StreamReader]:
        context = Context()
        stream = StreamReader((self.inserts if inserts_only else self.changes).follow(context, after, field, subject), context, after)
        try:
            await stream.wait_until_started()
            yield stream
        finally:
            await stream.close()

    async def write(self, collection: ScopedCollection[Task], session: Any, *tasks: Task) -> None:
        """Inserts tasks whose state is empty, and replaces the others."""
        uow = UnitOfWork(session, clock.now(), Outbox(self.database, "organization"))
        for task in tasks:
            await (collection.replace(uow, task) if task.visit_id else collection.insert(uow, task))

    async def commit(self, *tasks: Task, collection: ScopedCollection[Task] | None = None) -> None:
        await self.database.transact(lambda session: self.write(collection or self.tasks, session, *tasks))


@asynccontextmanager
async def serve_replicas(database: Database) -> AsyncIterator[list[Replica]]:
    """Runs two replicas with an unrestricted caller."""
    caller_context.set(SYSTEM)
    replicas = [Replica(database), Replica(database)]
    for collection in (replicas[0].tasks, replicas[0].mail):
        await collection.prepare()
    hubs = [asyncio.create_task(replica.change_streams.run()) for replica in replicas]
    try:
        yield replicas
    finally:
        for task in hubs:
            task.cancel()
        await asyncio.gather(*hubs, return_exceptions=True)


async def wait_until_live(replica: Replica, batches: Any) -> None:
    """Inserts tasks until the stream has delivered a first batch."""
    first = asyncio.ensure_future(anext(batches))
    async with asyncio.timeout(20):
        while not first.done():
            await replica.commit(Task(ids.new("tsk")))
            await asyncio.wait([first], timeout=0.1)
