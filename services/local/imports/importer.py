"""The import itself: items in batches, several under way, a checkpoint behind what is certain, rejects written down."""

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from google.protobuf.message import Message
from msgspec import Struct

from services.local.imports import reading
from services.local.imports.checkpoint import Begun, Checkpoint, Counted
from services.local.imports.items import Item, Reject, items
from services.local.imports.layout import FILES
from services.local.imports.references import References
from services.local.imports.rejects import Rejects
from services.local.imports.requests import TARGETS, Channels, Rejected, Target, patiently, request_id

UNDER_WAY = 3
"""Batches sent and not yet answered."""

Seen = Callable[[str, int, int, int], None]
"""Told of progress: file, items done, items at most, items rejected so far."""
Settle = Callable[[str], Awaitable[None]]
"""Awaited behind each file: the effects of its facts stand in the other services, on which the next file may build."""
PARTS: Mapping[str, tuple[str, ...]] = {"orders": ("orders", "order_lines")}
"""Files that are imported together, by the name of the one."""
Batch = tuple[int, list[Item], list[Reject]]
"""The place behind it, its items, and what could not be read on the way."""


class Imported(Struct, frozen=True):
    """What became of each file, this time and before. `earlier`: when all of it was imported, if nothing was left to do."""

    counts: Mapping[str, Counted]
    new: frozenset[str]
    """The files of which something was imported this time."""
    earlier: datetime | None = None


class Import:
    """One folder into one suite.

    `installation` is where it goes: what was imported into another one says nothing here. `anew` forgets an earlier run's checkpoint;
    repeating what was imported is harmless.
    """

    def __init__(self, folder: Path, channels: Channels, *, seen: Seen, settle: Settle, installation: str = "", anew: bool = False) -> None:
        self.folder, self.channels, self.seen, self.settle = folder, channels, seen, settle
        self.checkpoint = Checkpoint() if anew else Checkpoint.read(folder)
        if self.checkpoint.installation != installation:
            self.checkpoint = Checkpoint()
        self.checkpoint.installation = installation
        self.rejects = Rejects(folder)
        self.rejects.cut(self.checkpoint.rejects_bytes)
        self.references = References(channels)
        self.marks = {file.name: _mark(path) for file in FILES if (path := reading.find(folder, file.name))}
        self.mark = hashlib.sha256(repr(self.marks).encode()).hexdigest()

    async def run(self) -> Imported:
        """Imports what is not imported yet, and what was refused before other files changed."""
        new = set()
        for file in FILES:
            if file.name in TARGETS and file.name in self.marks:
                begun = self._begin(file.name)
                if not begun.whole:
                    new.add(file.name)
                    await self._file(file.name, TARGETS[file.name], begun)
                if begun.refused and begun.folder != self.mark:
                    new.add(file.name)
                    await self._again(file.name, TARGETS[file.name], begun)
                await self.settle(file.name)
        earlier = None if new else self.checkpoint.finished_at
        if not earlier:
            self.checkpoint.finished_at = datetime.now(UTC)
            self.checkpoint.save(self.folder)
        return Imported({name: begun.counted for name, begun in self.checkpoint.files.items()}, frozenset(new), earlier)

    def _begin(self, name: str) -> Begun:
        """The file as far as it came. What an earlier content of it was refused for is forgotten."""
        parts = PARTS.get(name, (name,))
        before = self.checkpoint.files.get(name)
        begun = self.checkpoint.begin(name, ":".join(self.marks[part] for part in parts if part in self.marks), self.mark)
        if before and begun is not before:
            for part in parts:
                self.rejects.forget(part)
            self.checkpoint.rejects_bytes = self.rejects.size
        # The attempt must be known before its first batch is sent: whoever goes on repeats that batch.
        self.checkpoint.save(self.folder)
        return begun

    async def _file(self, name: str, target: Target, begun: Begun) -> None:
        total, found = items(self.folder, name)
        resumed = begun.done
        left = (batch for batch in batches(found, target.batch) if batch[0] > resumed)
        async with aclosing(self._answered(name, target, begun.attempt, left)) as answers:
            async for (end, batch, unread), refused in answers:
                self._note([*unread, *refused])
                begun.refused += [reject.row for reject in refused]
                begun.counted.imported += len(batch) - len(refused)
                begun.counted.rejected += len(unread) + len(refused)
                begun.done = end
                self.checkpoint.save(self.folder)
                self.seen(name, end, total, begun.counted.rejected)
        begun.whole = True
        self.checkpoint.save(self.folder)

    async def _again(self, name: str, target: Target, begun: Begun) -> None:
        """Sends what was refused once more, and nothing else: stock that was taken has been sold from since.

        It stands in the checkpoint when all of it is answered. Until then the whole of it is repeated, in the same batches.
        """
        rows = set(begun.refused)
        attempt = hashlib.sha256(f"{begun.attempt} {self.mark}".encode()).hexdigest()
        found = (item for item in items(self.folder, name)[1] if isinstance(item, Item) and item.row in rows)
        refused: list[Reject] = []
        async with aclosing(self._answered(name, target, attempt, batches(found, target.batch))) as answers:
            async for (end, _, _), more in answers:
                refused += more
                self.seen(name, end, len(rows), begun.counted.rejected - len(rows) + len(refused))
        self.rejects.forget(name, rows)
        self._note(refused)
        begun.counted.imported += len(rows) - len(refused)
        begun.counted.rejected -= len(rows) - len(refused)
        begun.attempt, begun.folder, begun.refused = attempt, self.mark, [reject.row for reject in refused]
        self.checkpoint.save(self.folder)

    def _note(self, rejects: Sequence[Reject]) -> None:
        """Writes rejects down; from the next checkpoint on they stand."""
        if rejects:
            self.rejects.add(rejects)
        self.checkpoint.rejects_bytes = self.rejects.size

    async def _answered(
        self, name: str, target: Target, attempt: str, found: Iterable[Batch]
    ) -> AsyncGenerator[tuple[Batch, list[Reject]], None]:
        """Sends batches, several at a time, and gives each with what was refused of it, in their order: whatever lies behind is certain."""
        under_way: deque[tuple[Batch, asyncio.Task[list[Reject]]]] = deque()
        most = 0 if target.alone else UNDER_WAY - 1
        try:
            for batch in found:
                under_way.append((batch, asyncio.create_task(self._send(name, target, attempt, batch[1]))))
                while len(under_way) > most:
                    yield await _oldest(under_way)
            while under_way:
                yield await _oldest(under_way)
        finally:
            for _, task in under_way:
                task.cancel()

    async def _send(self, name: str, target: Target, attempt: str, batch: list[Item]) -> list[Reject]:
        if not batch:
            return []
        group, messages = batch[0].group, [item.message for item in batch]
        rejected = list(await patiently(partial(self.references.missing, name, group, messages)))
        missing = {index for index, _, _ in rejected}
        kept = [index for index in range(len(batch)) if index not in missing]
        if kept:
            rejected += await patiently(partial(self._sent, target, attempt, group, messages, kept))
        return [Reject(name, batch[index].row, batch[index].id, reason, message) for index, reason, message in sorted(rejected)]

    async def _sent(self, target: Target, attempt: str, group: str, messages: Sequence[Message], kept: Sequence[int]) -> Rejected:
        """Sends those of a batch that are kept; what is refused has its index in the batch."""
        sent = [messages[index] for index in kept]
        answer = await target.send(self.channels, group, sent, request_id(attempt, group, sent))
        return [(kept[index], reason, message) for index, reason, message in answer]


async def _oldest(under_way: deque[tuple[Batch, asyncio.Task[list[Reject]]]]) -> tuple[Batch, list[Reject]]:
    batch, task = under_way[0]
    refused = await task
    under_way.popleft()
    return batch, refused


def _mark(path: Path) -> str:
    """Tells one content of a file from another."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def batches(found: Iterator[Item | Reject], size: int) -> Iterator[Batch]:
    """Items in order in batches of one group and at most `size`."""
    batch: list[Item] = []
    unread: list[Reject] = []
    place = 0
    for item in found:
        if isinstance(item, Item) and batch and (len(batch) == size or batch[-1].group != item.group):
            yield place, batch, unread
            batch, unread = [], []
        place += 1
        if isinstance(item, Item):
            batch.append(item)
        else:
            unread.append(item)
    if batch or unread:
        yield place, batch, unread
