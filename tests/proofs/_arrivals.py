"""Open-loop load generator: requests arrive at a rate that does not depend on the responses, over kept connections, from another process.

python -m tests.proofs._arrivals HOST:PORT     reads one JSON `Wave` per line, writes one JSON `WaveResult` per line

The first line of its input has the requests: a JSON object of lists of texts, by the name that a wave refers to. They are sent in turn.
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
"""The last responses of a wave must arrive within this time."""
LINE_BYTES_MAX = 64 * 1024 * 1024
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)")


class Wave(Struct, frozen=True):
    """A wave sends `per_second` requests of a list; 0: each connection sends its next request after the last response."""

    requests: str
    seconds: float
    connections: int
    per_second: float = 0.0


class WaveResult(Struct):
    """The result of a wave. Times are in milliseconds, from the start of a request to the last byte of its response."""

    seconds: float = 0.0
    sent: int = 0
    unsent: int = 0
    """Requests that were due while all connections waited for a response."""
    statuses: dict[int, int] = field(default_factory=Counter)
    broken: int = 0
    """Connections that ended before the response, or that could not be opened."""
    silent: int = 0
    """Requests without a response."""
    unexplained: int = 0
    """Responses 429 and 503 without Retry-After."""
    p50: float = 0.0
    """The median of the responses with 200."""
    p99: float = 0.0


class Connection(asyncio.Protocol):
    """A connection, with one request at a time."""

    def __init__(self, generator: "LoadGenerator") -> None:
        self.generator, self.transport = generator, None
        self.sent_at, self.buffer = 0.0, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.generator.free.append(self)

    def send(self, request: bytes) -> None:
        self.sent_at = time.perf_counter()
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
            self.generator.record_response(self, head)

    def connection_lost(self, exc: Exception | None) -> None:
        self.generator.replace_connection(self)


class LoadGenerator:
    """All connections to one address, and the current wave."""

    def __init__(self, address: str, lists: dict[str, list[str]]) -> None:
        host, _, port = address.partition(":")
        self.address = (host, int(port))
        self.lists = {name: cycle([text.encode() for text in texts]) for name, texts in lists.items()}
        self.free: deque[Connection] = deque()
        self.connections = 0
        self.requests: Iterator[bytes] = iter(())
        self.result, self.seconds = WaveResult(), [0.0]
        self.closed_loop = self.ended = False
        self.all_answered = asyncio.Event()
        self.opening: set[asyncio.Task[None]] = set()

    async def run_wave(self, wave: Wave) -> WaveResult:
        """Sends a wave and returns its result."""
        while self.connections < wave.connections:
            await self._open()
            self.connections += 1
        self.result, self.seconds, self.requests = WaveResult(), [], self.lists[wave.requests]
        self.ended, self.closed_loop = False, not wave.per_second
        self.all_answered.clear()
        started = now = time.perf_counter()
        due = 0
        while (now := time.perf_counter()) < started + wave.seconds:
            due = int((now - started) * wave.per_second)
            while self.free and (
                self._count_pending() < wave.connections if self.closed_loop else self.result.sent + self.result.unsent < due
            ):
                self._send(self.free.popleft())
            if not self.closed_loop and not self.free:
                self.result.unsent = max(0, due - self.result.sent)
            await asyncio.sleep(TICK_SECONDS)
        self.ended, self.result.seconds = True, now - started
        self._check_completion()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.all_answered.wait(), ANSWER_SECONDS_MAX)
        return self._summarize()

    def _count_pending(self) -> int:
        return self.result.sent - sum(self.result.statuses.values()) - self.result.broken

    def _check_completion(self) -> None:
        if self.ended and self._count_pending() <= 0:
            self.all_answered.set()

    def _summarize(self) -> WaveResult:
        result, seconds = self.result, sorted(self.seconds)
        result.silent = self._count_pending()
        if len(seconds) > 1:
            cuts = quantiles(seconds, n=100)
            result.p50, result.p99 = cuts[49] * 1000, cuts[98] * 1000
        return result

    def _send(self, connection: Connection) -> None:
        self.result.sent += 1
        connection.send(next(self.requests))

    def record_response(self, connection: Connection, head: bytes) -> None:
        status = int(head[9:12])
        self.result.statuses[status] += 1
        if status == 200:
            self.seconds.append(time.perf_counter() - connection.sent_at)
        elif status in (429, 503) and b"\r\nretry-after:" not in head:
            self.result.unexplained += 1
        connection.sent_at = 0.0
        if b"\r\nconnection: close" in head:
            connection.transport.close()  # type: ignore[attr-defined]
        elif self.closed_loop and not self.ended:
            self._send(connection)
        else:
            self.free.append(connection)
        self._check_completion()

    def replace_connection(self, connection: Connection) -> None:
        """Replaces a lost connection."""
        if connection.sent_at:
            self.result.broken += 1
            self._check_completion()
        elif connection in self.free:
            self.free.remove(connection)
        task = asyncio.create_task(self._open())
        self.opening.add(task)
        task.add_done_callback(self.opening.discard)

    async def _open(self) -> None:
        """Opens a connection; repeats failed attempts."""
        while True:
            try:
                await asyncio.get_running_loop().create_connection(lambda: Connection(self), *self.address)
                return
            except OSError:
                self.result.broken += 1
                await asyncio.sleep(TICK_SECONDS)


async def main(address: str) -> None:
    """Sends the waves of its input."""
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    generator = LoadGenerator(address, msgspec.json.decode(await reader.readline(), type=dict[str, list[str]]))
    while line := await reader.readline():
        result = await generator.run_wave(msgspec.json.decode(line, type=Wave))
        sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
