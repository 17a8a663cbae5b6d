"""Importer: sends the items of a folder in batches, several at a time, with a checkpoint after each answer and a rejects file."""

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
from services.local.imports.checkpoint import Checkpoint, Counts, FileProgress
from services.local.imports.items import Item, Reject, read_items
from services.local.imports.layout import FILES
from services.local.imports.references import ReferenceCheck
from services.local.imports.rejects import Rejects
from services.local.imports.requests import TARGETS, Channels, Rejected, Target, call_with_retries, request_id

BATCHES_IN_FLIGHT_MAX = 3
"""At most this many batches wait for their answer."""

OnProgress = Callable[[str, int, int, int], None]
"""Called with the file, the answered items, the most items there can be, and the rejected items so far."""
Settle = Callable[[str], Awaitable[None]]
"""Awaited after each file, until the other services have applied its events: the next file may depend on them."""
PARTS: Mapping[str, tuple[str, ...]] = {"orders": ("orders", "order_lines")}
"""Files that are imported together, by the name of the first."""
Batch = tuple[int, list[Item], list[Reject]]
"""The position after the batch, its items, and the rows before it that could not be read."""


class ImportResult(Struct, frozen=True):
    """The counts of each file, including earlier runs. `earlier` is the time of the last import if nothing has changed since."""

    counts: Mapping[str, Counts]
    new: frozenset[str]
    """The files of which this run imported something."""
    earlier: datetime | None = None


class Import:
    """An import of one folder into one suite.

    A checkpoint of another `installation` is ignored. `again` ignores the checkpoint of an earlier run; a repeated import is harmless.
    """

    def __init__(
        self, folder: Path, channels: Channels, *, on_progress: OnProgress, settle: Settle, installation: str = "", again: bool = False
    ) -> None:
        self.folder, self.channels, self.on_progress, self.settle = folder, channels, on_progress, settle
        self.checkpoint = Checkpoint() if again else Checkpoint.read(folder)
        if self.checkpoint.installation != installation:
            self.checkpoint = Checkpoint()
        self.checkpoint.installation = installation
        self.rejects = Rejects(folder)
        self.rejects.truncate(self.checkpoint.rejects_bytes)
        self.references = ReferenceCheck(channels)
        self.file_hashes = {file.name: _content_hash(path) for file in FILES if (path := reading.find_file(folder, file.name))}
        self.folder_hash = hashlib.sha256(repr(self.file_hashes).encode()).hexdigest()

    async def run(self) -> ImportResult:
        """Imports new and changed files, and retries refused rows if another file has changed."""
        new = set()
        for file in FILES:
            if file.name in TARGETS and file.name in self.file_hashes:
                progress = self._begin(file.name)
                if not progress.whole:
                    new.add(file.name)
                    await self._import_file(file.name, TARGETS[file.name], progress)
                if progress.refused and progress.folder != self.folder_hash:
                    new.add(file.name)
                    await self._retry_refused(file.name, TARGETS[file.name], progress)
                await self.settle(file.name)
        earlier = None if new else self.checkpoint.finished_at
        if not earlier:
            self.checkpoint.finished_at = datetime.now(UTC)
            self.checkpoint.save(self.folder)
        return ImportResult({name: progress.counted for name, progress in self.checkpoint.files.items()}, frozenset(new), earlier)

    def _begin(self, name: str) -> FileProgress:
        """Returns the progress of a file. The rejects of an earlier content are removed."""
        parts = PARTS.get(name, (name,))
        before = self.checkpoint.files.get(name)
        progress = self.checkpoint.begin(
            name, ":".join(self.file_hashes[part] for part in parts if part in self.file_hashes), self.folder_hash
        )
        if before and progress is not before:
            for part in parts:
                self.rejects.remove(part)
            self.checkpoint.rejects_bytes = self.rejects.size
        # The attempt is saved before its first batch is sent, so that a resumed import repeats the batch under the same request id.
        self.checkpoint.save(self.folder)
        return progress

    async def _import_file(self, name: str, target: Target, progress: FileProgress) -> None:
        total, found = read_items(self.folder, name)
        resumed = progress.done
        left = (batch for batch in batches(found, target.batch) if batch[0] > resumed)
        async with aclosing(self._send_batches(name, target, progress.attempt, left)) as answers:
            async for (end, batch, unread), refused in answers:
                self._record_rejects([*unread, *refused])
                progress.refused += [reject.row for reject in refused]
                progress.counted.imported += len(batch) - len(refused)
                progress.counted.rejected += len(unread) + len(refused)
                progress.done = end
                self.checkpoint.save(self.folder)
                self.on_progress(name, end, total, progress.counted.rejected)
        progress.whole = True
        self.checkpoint.save(self.folder)

    async def _retry_refused(self, name: str, target: Target, progress: FileProgress) -> None:
        """Sends only the refused rows again, since an imported stock count may have been sold from meanwhile.

        The checkpoint is saved once all of them are answered. An interrupted retry repeats all of them, in the same batches.
        """
        rows = set(progress.refused)
        attempt = hashlib.sha256(f"{progress.attempt} {self.folder_hash}".encode()).hexdigest()
        found = (item for item in read_items(self.folder, name)[1] if isinstance(item, Item) and item.row in rows)
        refused: list[Reject] = []
        async with aclosing(self._send_batches(name, target, attempt, batches(found, target.batch))) as answers:
            async for (end, _, _), more in answers:
                refused += more
                self.on_progress(name, end, len(rows), progress.counted.rejected - len(rows) + len(refused))
        self.rejects.remove(name, rows)
        self._record_rejects(refused)
        progress.counted.imported += len(rows) - len(refused)
        progress.counted.rejected -= len(rows) - len(refused)
        progress.attempt, progress.folder, progress.refused = attempt, self.folder_hash, [reject.row for reject in refused]
        self.checkpoint.save(self.folder)

    def _record_rejects(self, rejects: Sequence[Reject]) -> None:
        """Appends rejects to the file. They count from the next checkpoint."""
        if rejects:
            self.rejects.add(rejects)
        self.checkpoint.rejects_bytes = self.rejects.size

    async def _send_batches(
        self, name: str, target: Target, attempt: str, found: Iterable[Batch]
    ) -> AsyncGenerator[tuple[Batch, list[Reject]], None]:
        """Sends several batches at a time and yields each with its refused items, in order, so that a checkpoint covers all before it."""
        in_flight: deque[tuple[Batch, asyncio.Task[list[Reject]]]] = deque()
        waiting_max = 0 if target.alone else BATCHES_IN_FLIGHT_MAX - 1
        try:
            for batch in found:
                in_flight.append((batch, asyncio.create_task(self._send(name, target, attempt, batch[1]))))
                while len(in_flight) > waiting_max:
                    yield await _await_oldest(in_flight)
            while in_flight:
                yield await _await_oldest(in_flight)
        finally:
            for _, task in in_flight:
                task.cancel()

    async def _send(self, name: str, target: Target, attempt: str, batch: list[Item]) -> list[Reject]:
        if not batch:
            return []
        group, messages = batch[0].group, [item.message for item in batch]
        rejected = list(await call_with_retries(partial(self.references.find_missing, name, group, messages)))
        missing = {index for index, _, _ in rejected}
        kept = [index for index in range(len(batch)) if index not in missing]
        if kept:
            rejected += await call_with_retries(partial(self._send_kept, target, attempt, group, messages, kept))
        return [Reject(name, batch[index].row, batch[index].id, reason, message) for index, reason, message in sorted(rejected)]

    async def _send_kept(self, target: Target, attempt: str, group: str, messages: Sequence[Message], kept: Sequence[int]) -> Rejected:
        """Sends the kept items of a batch; returns the refused ones by their index in the batch."""
        sent = [messages[index] for index in kept]
        answer = await target.send(self.channels, group, sent, request_id(attempt, group, sent))
        return [(kept[index], reason, message) for index, reason, message in answer]


async def _await_oldest(in_flight: deque[tuple[Batch, asyncio.Task[list[Reject]]]]) -> tuple[Batch, list[Reject]]:
    batch, task = in_flight[0]
    refused = await task
    in_flight.popleft()
    return batch, refused


def _content_hash(path: Path) -> str:
    """Returns a hash of the file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def batches(rows: Iterator[Item | Reject], size: int) -> Iterator[Batch]:
    """Yields the items in order, in batches of one group and at most `size` items."""
    batch: list[Item] = []
    unread: list[Reject] = []
    position = 0
    for item in rows:
        if isinstance(item, Item) and batch and (len(batch) == size or batch[-1].group != item.group):
            yield position, batch, unread
            batch, unread = [], []
        position += 1
        if isinstance(item, Item):
            batch.append(item)
        else:
            unread.append(item)
    if batch or unread:
        yield position, batch, unread
