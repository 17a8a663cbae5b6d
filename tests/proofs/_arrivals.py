"""Requests that arrive whether or not those before them are answered, from a process of its own, over connections that are kept.

python -m tests.proofs._arrivals HOST:PORT     one JSON `Wave` a line on its input, one JSON `Heard` a line on its output

The first line of its input is the requests themselves: JSON of lists of texts by the name a wave calls them by, sent in turn.
"""

import asyncio
import re
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import cycle
from statistics import quantiles

import msgspec
import uvloop
from msgspec import Struct, field

TICK_SECONDS = 0.002
ANSWER_SECONDS_MAX = 30.0
"""How long the last answers of a wave are waited for."""
LINE_BYTES_MAX = 64 * 1024 * 1024
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)")


class Wave(Struct, frozen=True):
    """What is sent: `per_second` requests of a list, or (0) on each connection the next one as soon as the last is answered."""

    requests: str
    seconds: float
    connections: int
    per_second: float = 0.0


class Heard(Struct):
    """What came of a wave. Times in milliseconds, from when a request was sent to the last byte of its answer."""

    seconds: float = 0.0
    sent: int = 0
    unsent: int = 0
    """Requests whose time came while all connections waited for an answer."""
    statuses: dict[int, int] = field(default_factory=Counter)
    broken: int = 0
    """Connections that ended before the answer did, or that were not made."""
    silent: int = 0
    """Requests that were not answered at all."""
    unexplained: int = 0
    """429 and 503 without Retry-After."""
    p50: float = 0.0
    """Of those that were answered with 200."""
    p99: float = 0.0


class Line(asyncio.Protocol):
    """A connection: one request at a time."""

    def __init__(self, source: "Source") -> None:
        self.source, self.transport = source, None
        self.asked_at, self.buffer = 0.0, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.source.free.append(self)

    def ask(self, request: bytes) -> None:
        self.asked_at = time.perf_counter()
        self.transport.write(request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.buffer = self.buffer + data if self.buffer else data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        head = head.lower()
        length = LENGTH.search(head)
        if length is None or len(body) >= int(length[1]):
            self.buffer = b""
            self.source.answered(self, head)

    def connection_lost(self, exc: Exception | None) -> None:
        self.source.lost(self)


class Source:
    """All connections to one address, and the wave that is under way."""

    def __init__(self, address: str, lists: dict[str, list[str]]) -> None:
        host, _, port = address.partition(":")
        self.address = (host, int(port))
        self.lists = {name: cycle([text.encode() for text in texts]) for name, texts in lists.items()}
        self.free: deque[Line] = deque()
        self.lines = 0
        self.requests: Iterator[bytes] = iter(())
        self.heard, self.took = Heard(), [0.0]
        self.closed_loop = self.ended = False
        self.all_answered = asyncio.Event()
        self.opening: set[asyncio.Task[None]] = set()

    async def wave(self, wave: Wave) -> Heard:
        """Sends a wave and tells what came of it."""
        while self.lines < wave.connections:
            await self._open()
            self.lines += 1
        self.heard, self.took, self.requests = Heard(), [], self.lists[wave.requests]
        self.ended, self.closed_loop = False, not wave.per_second
        self.all_answered.clear()
        started = now = time.perf_counter()
        due = 0
        while (now := time.perf_counter()) < started + wave.seconds:
            due = int((now - started) * wave.per_second)
            while self.free and (self._waiting() < wave.connections if self.closed_loop else self.heard.sent + self.heard.unsent < due):
                self._ask(self.free.popleft())
            if not self.closed_loop and not self.free:
                self.heard.unsent = max(0, due - self.heard.sent)
            await asyncio.sleep(TICK_SECONDS)
        self.ended, self.heard.seconds = True, now - started
        self._look()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.all_answered.wait(), ANSWER_SECONDS_MAX)
        return self._told()

    def _waiting(self) -> int:
        return self.heard.sent - sum(self.heard.statuses.values()) - self.heard.broken

    def _look(self) -> None:
        if self.ended and self._waiting() <= 0:
            self.all_answered.set()

    def _told(self) -> Heard:
        heard, took = self.heard, sorted(self.took)
        heard.silent = self._waiting()
        if len(took) > 1:
            cuts = quantiles(took, n=100)
            heard.p50, heard.p99 = cuts[49] * 1000, cuts[98] * 1000
        return heard

    def _ask(self, line: Line) -> None:
        self.heard.sent += 1
        line.ask(next(self.requests))

    def answered(self, line: Line, head: bytes) -> None:
        status = int(head[9:12])
        self.heard.statuses[status] += 1
        if status == 200:
            self.took.append(time.perf_counter() - line.asked_at)
        elif status in (429, 503) and b"\r\nretry-after:" not in head:
            self.heard.unexplained += 1
        line.asked_at = 0.0
        if b"\r\nconnection: close" in head:
            line.transport.close()  # type: ignore[attr-defined]
        elif self.closed_loop and not self.ended:
            self._ask(line)
        else:
            self.free.append(line)
        self._look()

    def lost(self, line: Line) -> None:
        """Makes another connection in its place."""
        if line.asked_at:
            self.heard.broken += 1
            self._look()
        elif line in self.free:
            self.free.remove(line)
        task = asyncio.create_task(self._open())
        self.opening.add(task)
        task.add_done_callback(self.opening.discard)

    async def _open(self) -> None:
        """Makes a connection, however often that takes."""
        while True:
            try:
                await asyncio.get_running_loop().create_connection(lambda: Line(self), *self.address)
                return
            except OSError:
                self.heard.broken += 1
                await asyncio.sleep(TICK_SECONDS)


async def main(address: str) -> None:
    """Sends wave after wave until its input ends."""
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    source = Source(address, msgspec.json.decode(await reader.readline(), type=dict[str, list[str]]))
    while line := await reader.readline():
        heard = await source.wave(msgspec.json.decode(line, type=Wave))
        sys.stdout.buffer.write(msgspec.json.encode(heard) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
