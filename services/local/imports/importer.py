"""The import itself: items in batches, several under way, a checkpoint behind what is certain, rejects written down."""

import asyncio
import csv
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec
from msgspec import Struct

from services.local.imports import reading
from services.local.imports.items import Item, Reject, items
from services.local.imports.layout import FILES
from services.local.imports.requests import TARGETS, Channels, Target, patiently, request_id

UNDER_WAY = 3
"""Batches sent and not yet answered."""
CHECKPOINT, REJECTS = ".quanyu-import.json", "rejects.csv"
BOM = "﻿"

Seen = Callable[[str, int, int, int], None]
"""Told of progress: file, items done, items at most, items rejected so far."""
Settle = Callable[[str], Awaitable[None]]
"""Awaited behind each file: the effects of its facts stand in the other services, on which the next file may build."""


class Counted(Struct):
    """What became of one file: items taken and rejected."""

    imported: int = 0
    rejected: int = 0


class Checkpoint(Struct):
    """How far an import came: files by name, each with the mark of its content and the items that are certain."""

    marks: dict[str, str] = {}
    done: dict[str, int] = {}
    counts: dict[str, Counted] = {}
    rejects_bytes: int = 0


UnderWay = deque[tuple[int, asyncio.Task[list[Reject]], list[Item], list[Reject]]]


class Import:
    """One folder into one suite. `anew` forgets an earlier run's checkpoint; repeating what was imported is harmless."""

    def __init__(self, folder: Path, channels: Channels, *, seen: Seen, settle: Settle, anew: bool = False) -> None:
        self.folder, self.channels, self.seen, self.settle = folder, channels, seen, settle
        self.path = folder / CHECKPOINT
        self.checkpoint = Checkpoint()
        if self.path.exists() and not anew:
            self.checkpoint = msgspec.json.decode(self.path.read_bytes(), type=Checkpoint)
        rejects = folder / REJECTS
        if not self.checkpoint.rejects_bytes:
            rejects.unlink(missing_ok=True)
        elif rejects.exists():
            # What was written behind the checkpoint is written again.
            os.truncate(rejects, self.checkpoint.rejects_bytes)

    async def run(self) -> dict[str, Counted]:
        """Imports what is not imported yet; what became of each file."""
        for file in FILES:
            if file.name in TARGETS and (path := reading.find(self.folder, file.name)):
                mark = self._mark(path)
                if self.checkpoint.marks.get(file.name) != mark:
                    # Another file than the one that was begun: from its start, which repeats harmlessly what stands already.
                    self.checkpoint.marks[file.name], self.checkpoint.done[file.name] = mark, 0
                    self.checkpoint.counts[file.name] = Counted()
                await self._file(file.name, TARGETS[file.name])
                await self.settle(file.name)
        return self.checkpoint.counts

    def _mark(self, path: Path) -> str:
        stats = [path.stat()]
        if path.stem == "orders" and (lines := reading.find(self.folder, "order_lines")):
            stats.append(lines.stat())
        return ":".join(f"{stat.st_size}.{stat.st_mtime_ns}" for stat in stats)

    async def _file(self, name: str, target: Target) -> None:
        total, found = items(self.folder, name)
        begun = self.checkpoint.done.get(name, 0)
        under_way: UnderWay = deque()
        try:
            for end, batch, unread in batches(found, target.batch):
                if end <= begun:
                    continue
                task = asyncio.create_task(self._send(name, target, batch))
                under_way.append((end, task, batch, unread))
                while len(under_way) > (0 if target.alone else UNDER_WAY - 1):
                    await self._settled(name, total, under_way)
            while under_way:
                await self._settled(name, total, under_way)
        finally:
            for _, task, _, _ in under_way:
                task.cancel()

    async def _settled(self, name: str, total: int, under_way: UnderWay) -> None:
        """Waits for the oldest batch; only what lies behind it counts as done."""
        end, task, batch, unread = under_way[0]
        rejected = await task
        under_way.popleft()
        self._reject(name, [*unread, *rejected])
        counts = self.checkpoint.counts[name]
        counts.imported += len(batch) - len(rejected)
        self.checkpoint.done[name] = end
        self.path.write_bytes(msgspec.json.encode(self.checkpoint))
        self.seen(name, end, total, counts.rejected)

    async def _send(self, name: str, target: Target, batch: list[Item]) -> list[Reject]:
        if not batch:
            return []
        messages = [item.message for item in batch]
        group = batch[0].group
        call = partial(target.send, self.channels, group, messages, request_id(group, messages))
        rejected = await patiently(call, lambda refusal: refusal.retryable)
        return [Reject(name, batch[index].row, batch[index].id, reason) for index, reason in rejected]

    def _reject(self, name: str, rejects: list[Reject]) -> None:
        if not rejects:
            return
        path = self.folder / REJECTS
        fresh = not path.exists()
        # A BOM, so that spreadsheets show Chinese.
        with path.open("a", encoding="utf-8", newline="") as file:
            if fresh:
                file.write(BOM)
            writer = csv.writer(file)
            if fresh:
                writer.writerow(["file", "row", "id", "reason"])
            writer.writerows([reject.file, reject.row, reject.id, reject.reason] for reject in rejects)
        self.checkpoint.counts[name].rejected += len(rejects)
        self.checkpoint.rejects_bytes = path.stat().st_size


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
