"""Two processes that serve feeds of one database, and clients that follow them."""

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
    """What of a task this suite looks at: `visit_id` is its state."""

    id: str
    staff_id: str = ANNA
    store_id: str = "str_1"
    visit_id: str = ""
    version: int = 1


class Context:
    """What a feed asks of a stream's context: to send its first cursor ahead."""

    def __init__(self) -> None:
        self.cursor: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def send_initial_metadata(self, metadata: Sequence[tuple[str, str]]) -> None:
        self.cursor.set_result(dict(metadata)[CURSOR_KEY])


class Stream:
    """One client's stream, read in the background: `told` are id and state, `cursor` the last one."""

    def __init__(self, several: Any, context: Context, after: str) -> None:
        self.told: list[tuple[str, str]] = []
        self.cursors: list[str] = []
        self.cursor, self.context = after, context
        self.ended: asyncio.Task[None] = asyncio.create_task(self._read(several))
        self._news = asyncio.Condition()

    async def _read(self, several: Any) -> None:
        async with aclosing(several):
            async for batch in several:
                for row, cursor in batch:
                    self.told.append((row["id"], row.get("visit_id", "")))
                    self.cursors.append(cursor)
                    self.cursor = cursor
                async with self._news:
                    self._news.notify_all()

    async def began(self) -> None:
        """Waits until it stands."""
        async with asyncio.timeout(20):
            await asyncio.wait([self.context.cursor, self.ended], return_when=asyncio.FIRST_COMPLETED)
        if self.ended.done():
            await self.ended
        elif not self.cursor:
            self.cursor = self.context.cursor.result()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30), self._news:
            await self._news.wait_for(condition)

    async def hears(self, *told: tuple[str, str]) -> None:
        """Exactly these, in this order, so far."""
        await self.until(lambda: len(self.told) >= len(told))
        assert self.told == list(told)

    async def close(self) -> None:
        self.ended.cancel()
        await asyncio.gather(self.ended, return_exceptions=True)


class Replica:
    """A process that serves the feeds of this suite: tasks as they change, and as they are born."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.watch = ChangeStreamHub(database)
        scopes = {ScopeKind.STAFF: "staff_id", ScopeKind.STORE: "store_id"}
        keys = ("staff_id", "store_id")
        self.tasks = ScopedCollection(
            database, "tasks", noun="TASK", struct=Task, message=tasks_pb2.Task, scopes=scopes, records_change_time=True,
            indexes=list(map(feed_index, keys)),
        )  # fmt: skip
        self.changes = ChangeFeed(self.watch, self.tasks, keys=keys)
        self.mail = ScopedCollection(
            database,
            "mail",
            noun="TASK",
            struct=Task,
            message=tasks_pb2.Task,
            scopes=scopes,
            indexes=[feed_index("staff_id", inserts_only=True)],
        )
        self.births = ChangeFeed(
            self.watch, self.mail, keys=("staff_id",), inserted_prefix="tsk", ids_of=self.ids_of,
            until=WatchedCollection("links", keys=("staff_id",))
        )  # fmt: skip
        self.same: dict[str, list[str]] = {}

    async def ids_of(self, id: str) -> list[str]:
        return self.same.get(id, [id])

    @asynccontextmanager
    async def following(self, after: str = "", field: str = "staff_id", subject: str = ANNA, births: bool = False) -> AsyncIterator[Stream]:
        context = Context()
        stream = Stream((self.births if births else self.changes).follow(context, after, field, subject), context, after)
        try:
            await stream.began()
            yield stream
        finally:
            await stream.close()

    async def write(self, table: ScopedCollection[Task], session: Any, *tasks: Task) -> None:
        """Inserts tasks whose state is empty, and replaces the others."""
        unit = UnitOfWork(session, clock.now(), Outbox(self.database, "organization"))
        for task in tasks:
            await (table.replace(unit, task) if task.visit_id else table.insert(unit, task))

    async def commit(self, *tasks: Task, table: ScopedCollection[Task] | None = None) -> None:
        await self.database.transact(lambda session: self.write(table or self.tasks, session, *tasks))


@asynccontextmanager
async def serving(database: Database) -> AsyncIterator[list[Replica]]:
    """Two of them, for whom everything is in scope."""
    caller_context.set(SYSTEM)
    found = [Replica(database), Replica(database)]
    for table in (found[0].tasks, found[0].mail):
        await table.prepare()
    reading = [asyncio.create_task(replica.watch.run()) for replica in found]
    try:
        yield found
    finally:
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


async def standing(replica: Replica, several: Any) -> None:
    """Returns when the stream stands and told something: it waits then until it is asked for more."""
    first = asyncio.ensure_future(anext(several))
    async with asyncio.timeout(20):
        while not first.done():
            await replica.commit(Task(ids.new("tsk")))
            await asyncio.wait([first], timeout=0.1)
