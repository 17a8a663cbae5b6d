"""Group commit: commands on documents that many requests change share transactions instead of conflicting with each other.

Commands wait in one queue. Those that arrive while a transaction with one of their documents is in flight form a later transaction. So an
idle group commit adds no wait, and a hundred concurrent commands on one stock document cost one commit. Commands on other documents run in
concurrent transactions. The result is exact with any number of replicas: if another process has changed a document, the batch is decided
again on the new state.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from datetime import timedelta
from typing import TypeVar

from google.protobuf.message import Message
from msgspec import Struct

from services.kit.clock import Clock
from services.kit.errors import Overloaded, Refusal, Unavailable
from services.kit.mongo.client import Database, Session
from services.kit.transactions.group_commit_batch import Batch, ChangeSet, Command, DocumentRef, Snapshot
from services.kit.transactions.idempotency import IdempotencyKey
from services.kit.transactions.outbox import Outbox

__all__ = ["ChangeSet", "DocumentRef", "GroupCommit", "Snapshot"]

QUEUE_MAX = 10_000
"""The queue takes at most this many commands, about half a second of work on one document."""
BATCH_MAX = 500
"""A transaction has at most this many commands."""
TRANSACTIONS_MAX = 4
"""At most this many transactions are in flight; they have no document in common."""
BLOCKED = -1
"""Instead of the index of a batch: commands on this document must wait for a later transaction."""
RETRY_AFTER = timedelta(milliseconds=500)
"""A client retries after this long if the queue is full."""

Answer = TypeVar("Answer", bound=Message)


class GroupCommit:
    """The group commit of one process and database: `answer = await group_commit.run(key, refs, decide, Answer)`."""

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        clock: Clock,
        *,
        queue_max: int = QUEUE_MAX,
        batch_max: int = BATCH_MAX,
        transactions_max: int = TRANSACTIONS_MAX,
    ) -> None:
        self.database, self.outbox, self.clock = database, outbox, clock
        self.queue_max, self.batch_max, self.transactions_max = queue_max, batch_max, transactions_max
        self._queue: deque[Command] = deque()
        self._refs_in_flight: set[DocumentRef] = set()
        self._transactions: set[asyncio.Task[None]] = set()
        self._is_launch_scheduled = False
        self._is_closed = False

    async def run(
        self,
        key: IdempotencyKey | None,
        refs: Sequence[DocumentRef],
        decide: Callable[[Snapshot], ChangeSet],
        answer_type: type[Answer],
    ) -> Answer:
        """Returns the answer of `decide` once its change set is committed, or the recorded answer if `key` has a record.

        `decide` is pure and synchronous, and may run several times. It refuses by raising a Refusal, which changes nothing. It runs in the
        context of the caller and sees the documents of `refs`.

        Raises Conflict REQUEST_ID_REUSED, ALREADY_EXISTS and STATE_CHANGED (see `ChangeSet`), Overloaded if the queue is full, and
        Unavailable if the database does not respond or the group commit is closed. A command whose caller is cancelled before its
        transaction starts has no effect. Later it takes effect, and a repeat with `key` gets its answer.
        """
        if self._is_closed:
            raise Unavailable("CLOSING", "This process is stopping. Repeat the same request.")
        if len(self._queue) >= self.queue_max:
            message = "Too many requests wait for the same document. Repeat the same request shortly."
            raise Overloaded("QUEUE_FULL", message, retry_after=RETRY_AFTER)
        loop = asyncio.get_running_loop()
        command = Command(key, refs, decide, answer_type, self.clock(), copy_context(), loop.create_future())
        self._queue.append(command)
        if not self._is_launch_scheduled and self._refs_in_flight.isdisjoint(refs):
            # At the end of this turn of the event loop, so that callers of the same turn share a transaction.
            self._is_launch_scheduled = True
            loop.call_soon(self._launch)
        answer: Answer = await command.future
        return answer

    async def close(self) -> None:
        """Rejects new commands; returns when all queued commands have a result."""
        self._is_closed = True
        self._launch()
        while self._transactions:
            await asyncio.wait(self._transactions)

    def _launch(self) -> None:
        self._is_launch_scheduled = False
        for batch in self._next_batches():
            refs = {ref for command in batch for ref in command.refs}
            self._refs_in_flight |= refs
            # An empty context: the clock offset and the caller of the first command are not those of the others.
            self._transactions.add(asyncio.create_task(self._run_batch(batch, refs), context=Context()))

    def _next_batches(self) -> list[list[Command]]:
        """Takes the commands that may run now from the queue, one batch for each free transaction.

        Commands with a common document go into one batch; the others are spread evenly. A command stays in the queue if its documents are
        in flight, belong to two of these batches, or are needed by a command that stays before it.
        """
        batches: list[list[Command]] = [[] for _ in range(self.transactions_max - len(self._transactions))]
        if not batches:
            return []
        batch_of = dict.fromkeys(self._refs_in_flight, BLOCKED)
        staying: list[Command] = []
        for _ in range(min(len(self._queue), self.transactions_max * self.batch_max)):
            command = self._queue.popleft()
            if command.future.cancelled():
                continue
            candidates = {batch_of[ref] for ref in command.refs if ref in batch_of} or {_shortest(batches)}
            index = candidates.pop() if len(candidates) == 1 else BLOCKED
            if index != BLOCKED and len(batches[index]) < self.batch_max:
                batches[index].append(command)
            else:
                index = BLOCKED
                staying.append(command)
            batch_of.update(dict.fromkeys(command.refs, index))
        self._queue.extendleft(reversed(staying))
        return [batch for batch in batches if batch]

    async def _run_batch(self, batch: list[Command], refs: set[DocumentRef]) -> None:
        try:
            await self._execute(batch)
        finally:
            for command in batch:
                command.future.cancel()  # without effect on futures that are done
            self._refs_in_flight -= refs
            self._transactions -= {asyncio.current_task()}
            self._launch()

    async def _execute(self, batch: list[Command]) -> None:
        """Executes commands in one transaction. If it fails because of one command, finds that command by halving the batch."""

        async def attempt(session: Session) -> list[Message | Exception]:
            return await Batch(self.database, self.outbox, batch).run(session)

        try:
            results = await self.database.transact(attempt)
        except Unavailable as error:  # the database failed, not a command: halving would only add load
            for command in batch:
                _resolve(command, Unavailable(error.reason, error.message))
        except Exception as error:
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._execute(batch[:middle])
                await self._execute(batch[middle:])
            elif isinstance(error, Refusal) and batch[0].key is not None:
                await self._record_refusal(batch[0], error)
            else:
                _resolve(batch[0], error)
        else:
            for command, result in zip(batch, results, strict=True):
                _resolve(command, result)

    async def _record_refusal(self, command: Command, refusal: Refusal) -> None:
        """Executes the command again with a decision that refuses, so that a refusal of the write is recorded like one of a decision."""
        command.decide = Refuse(refusal)
        await self._execute([command])


class Refuse(Struct, frozen=True):
    """A decision that always refuses."""

    refusal: Refusal

    def __call__(self, snapshot: Snapshot) -> ChangeSet:
        raise self.refusal


def _shortest(batches: list[list[Command]]) -> int:
    return min(range(len(batches)), key=lambda index: len(batches[index]))


def _resolve(command: Command, result: Message | Exception) -> None:
    if command.future.done():
        return
    if isinstance(result, Exception):
        command.future.set_exception(result)
    else:
        command.future.set_result(result)
