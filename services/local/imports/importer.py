"""The import itself: items in batches, several under way, a checkpoint behind what is certain, rejects written down."""

import asyncio
import hashlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
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
UnderWay = deque[tuple[int, asyncio.Task[list[Reject]], list[Item], list[Reject]]]


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

    async def run(self) -> Imported:
        """Imports what is not imported yet."""
        new = set()
        for file in FILES:
            if file.name in TARGETS and (path := reading.find(self.folder, file.name)):
                begun = self._begin(file.name, path)
                if not begun.whole:
                    new.add(file.name)
                    await self._file(file.name, TARGETS[file.name], begun)
                await self.settle(file.name)
        earlier = None if new else self.checkpoint.finished_at
        if not earlier:
            self.checkpoint.finished_at = datetime.now(UTC)
            self.checkpoint.save(self.folder)
        return Imported({name: begun.counted for name, begun in self.checkpoint.files.items()}, frozenset(new), earlier)

    def _begin(self, name: str, path: Path) -> Begun:
        """The file as far as it came. What an earlier content of it was refused for is forgotten."""
        before = self.checkpoint.files.get(name)
        begun = self.checkpoint.begin(name, self._mark(path))
        if before and begun is not before:
            self.rejects.forget(name)
            self.checkpoint.rejects_bytes = self.rejects.size
        # The attempt must be known before its first batch is sent: whoever goes on repeats that batch.
        self.checkpoint.save(self.folder)
        return begun

    def _mark(self, path: Path) -> str:
        """Tells one content from another."""
        lines = reading.find(self.folder, "order_lines") if path.stem == "orders" else None
        marks = []
        for part in (path, *([lines] if lines else [])):
            with part.open("rb") as file:
                marks.append(hashlib.file_digest(file, "sha256").hexdigest())
        return ":".join(marks)

    async def _file(self, name: str, target: Target, begun: Begun) -> None:
        total, found = items(self.folder, name)
        resumed = begun.done
        under_way: UnderWay = deque()
        try:
            for end, batch, unread in batches(found, target.batch):
                if end <= resumed:
                    continue
                task = asyncio.create_task(self._send(name, target, begun.attempt, batch))
                under_way.append((end, task, batch, unread))
                while len(under_way) > (0 if target.alone else UNDER_WAY - 1):
                    await self._settled(name, total, begun, under_way)
            while under_way:
                await self._settled(name, total, begun, under_way)
        finally:
            for _, task, _, _ in under_way:
                task.cancel()
        begun.whole = True
        self.checkpoint.save(self.folder)

    async def _settled(self, name: str, total: int, begun: Begun, under_way: UnderWay) -> None:
        """Waits for the oldest batch; only what lies behind it counts as done."""
        end, task, batch, unread = under_way[0]
        rejected = await task
        under_way.popleft()
        if rejects := [*unread, *rejected]:
            self.rejects.add(rejects)
            self.checkpoint.rejects_bytes = self.rejects.size
        begun.counted.imported += len(batch) - len(rejected)
        begun.counted.rejected += len(rejects)
        begun.done = end
        self.checkpoint.save(self.folder)
        self.seen(name, end, total, begun.counted.rejected)

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


def batches(found: Iterator[Item | Reject], size: int) -> Iterator[tuple[int, list[Item], list[Reject]]]:
    """Items in order in batches of one group and at most `size`, each with the place behind it and what could not be read on the way."""
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
