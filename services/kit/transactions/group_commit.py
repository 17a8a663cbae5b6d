"""The group_commit (group commit): commands on documents that many requests touch share transactions instead of fighting for them.

Whole commands wait in one queue. Those that arrive while a transaction on their counters is in flight form the next one, so that
nothing waits when the group_commit is idle and a hundred takers of one stock cost one commit. Commands on other counters fly beside it.
Exact with any number of replicas: a batch that meets another process's is decided anew on what that one left.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from datetime import timedelta
from typing import TypeVar

from google.protobuf.message import Message

from services.kit.clock import Clock
from services.kit.errors import Overloaded, Refusal, Unavailable
from services.kit.mongo.client import Database, Session
from services.kit.transactions.group_commit_batch import Batch, ChangeSet, Command, DocumentRef, Snapshot
from services.kit.transactions.idempotency import IdempotencyKey
from services.kit.transactions.outbox import Outbox

__all__ = ["ChangeSet", "DocumentRef", "GroupCommit", "Snapshot"]

QUEUE_MAX = 10_000
"""Commands waiting: about half a second's work on one counter."""
BATCH_MAX = 500
"""Commands of one transaction."""
FLIGHTS_MAX = 4
"""Transactions at a time; they have no counter in common."""
WAIT = -1
"""The place of a counter whose commands have to wait for another flight."""
RETRY_AFTER = timedelta(milliseconds=500)

Answer = TypeVar("Answer", bound=Message)


class GroupCommit:
    """One per process and database: `answer = await group_commit.run(key, counters, decide, Answer)`."""

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        clock: Clock,
        *,
        queue_max: int = QUEUE_MAX,
        batch_max: int = BATCH_MAX,
        flights_max: int = FLIGHTS_MAX,
    ) -> None:
        self.database, self.outbox, self.clock = database, outbox, clock
        self.queue_max, self.batch_max, self.flights_max = queue_max, batch_max, flights_max
        self._waiting: deque[Command] = deque()
        self._held: set[DocumentRef] = set()
        self._flights: set[asyncio.Task[None]] = set()
        self._launching = False
        self._closed = False

    async def run(
        self,
        key: IdempotencyKey | None,
        counters: Sequence[DocumentRef],
        decide: Callable[[Snapshot], ChangeSet],
        answer_type: type[Answer],
    ) -> Answer:
        """The answer of `decide`, once its outcome is committed; the first answer again when `key` has a record.

        `decide` is pure and synchronous, may run several times, and refuses by raising a Refusal, which changes nothing. It runs in the
        caller's context. Raises also Conflict REQUEST_ID_REUSED, ALREADY_EXISTS and STATE_CHANGED (see `ChangeSet`), Overloaded when the
        queue is full, Unavailable when the database does not answer or the group_commit is closed. A caller cancelled before its transaction
        has begun leaves no trace; later, the effect stands and a repeat with `key` gets its answer.
        """
        if self._closed:
            raise Unavailable("CLOSING", "this process is ending; make the same call again")
        if len(self._waiting) >= self.queue_max:
            raise Overloaded("QUEUE_FULL", "too many wait for the same thing; make the same call again shortly", retry_after=RETRY_AFTER)
        loop = asyncio.get_running_loop()
        command = Command(key, counters, decide, answer_type, self.clock(), copy_context(), loop.create_future())
        self._waiting.append(command)
        if not self._launching and self._held.isdisjoint(counters):
            # At the end of this turn of the loop, so that callers who came in the same turn go together.
            self._launching = True
            loop.call_soon(self._launch)
        answer: Answer = await command.heard
        return answer

    async def close(self) -> None:
        """Takes no more commands; returns when all that wait have been answered."""
        self._closed = True
        self._launch()
        while self._flights:
            await asyncio.wait(self._flights)

    def _launch(self) -> None:
        self._launching = False
        for batch in self._next_batches():
            held = {ref for command in batch for ref in command.counters}
            self._held |= held
            # A context of its own: the first submitter's offset and identity are not those of its neighbours.
            self._flights.add(asyncio.create_task(self._fly(batch, held), context=Context()))

    def _next_batches(self) -> list[list[Command]]:
        """The commands that may fly now, those that share a counter together, the others spread over the flights that are free.

        A command stays where it is while one of its counters is in flight, is in two of these batches, or is wanted by one before it.
        """
        batches: list[list[Command]] = [[] for _ in range(self.flights_max - len(self._flights))]
        if not batches:
            return []
        places = dict.fromkeys(self._held, WAIT)
        passed: list[Command] = []
        for _ in range(min(len(self._waiting), self.flights_max * self.batch_max)):
            command = self._waiting.popleft()
            if command.heard.cancelled():
                continue
            found = {places[ref] for ref in command.counters if ref in places} or {_shortest(batches)}
            place = found.pop() if len(found) == 1 else WAIT
            if place != WAIT and len(batches[place]) < self.batch_max:
                batches[place].append(command)
            else:
                place = WAIT
                passed.append(command)
            places.update(dict.fromkeys(command.counters, place))
        self._waiting.extendleft(reversed(passed))
        return [batch for batch in batches if batch]

    async def _fly(self, batch: list[Command], held: set[DocumentRef]) -> None:
        try:
            await self._settle(batch)
        finally:
            for command in batch:
                command.heard.cancel()  # without effect on those that have heard
            self._held -= held
            self._flights -= {asyncio.current_task()}
            self._launch()

    async def _settle(self, batch: list[Command]) -> None:
        """Carries the commands out. When the transaction fails for another reason than its neighbours', finds the one that spoils it."""

        async def attempt(session: Session) -> list[Message | Exception]:
            return await Batch(self.database, self.outbox, batch).run(session)

        try:
            verdicts = await self.database.transact(attempt)
        except Unavailable as error:  # the database: no command is to blame, and halving would only ask it more often
            for command in batch:
                _hear(command, Unavailable(error.reason, error.message))
        except Exception as error:
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._settle(batch[:middle])
                await self._settle(batch[middle:])
            elif isinstance(error, Refusal) and batch[0].key is not None:
                await self._refuse(batch[0], error)
            else:
                _hear(batch[0], error)
        else:
            for command, verdict in zip(batch, verdicts, strict=True):
                _hear(command, verdict)

    async def _refuse(self, command: Command, refusal: Refusal) -> None:
        """A refusal that only the write brought up: decided anew as this refusal, so that it is kept like any other."""

        def refuse(_: Snapshot) -> ChangeSet:
            raise refusal

        command.decide = refuse
        await self._settle([command])


def _shortest(batches: list[list[Command]]) -> int:
    return min(range(len(batches)), key=lambda place: len(batches[place]))


def _hear(command: Command, verdict: Message | Exception) -> None:
    if command.heard.done():
        return
    if isinstance(verdict, Exception):
        command.heard.set_exception(verdict)
    else:
        command.heard.set_result(verdict)
