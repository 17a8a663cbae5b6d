"""Peer: a process that answers the three pages of the gateway's bench, and the measurement of its requests."""

import asyncio
import os
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson
import psutil
from msgspec import Struct

from tests.bench.peers.services import CONSUMER, OFFERS, ORDERS, offer

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
CONNECTIONS = 4
VARIABLES: dict[str, dict[str, Any]] = {
    "one": {"id": offer(0).id},
    "page": {"first": OFFERS},
    "orders": {"id": CONSUMER, "first": ORDERS},
}
TITLES = {
    "one": "one object by id, one call",
    "page": "50 offers, 3 variants each, 1,650 leaves",
    "orders": "a consumer, the offers of their last 20 orders",
}


class Peer(Struct):
    """A process and its address. `documents` is the folder of its documents; without one, each page has its own path."""

    process: Process | psutil.Process
    address: str
    documents: str = ""
    token: str = ""
    variables: Mapping[str, dict[str, Any]] = MappingProxyType(VARIABLES)

    def request(self, page: str) -> bytes:
        """Returns the HTTP request of a page."""
        payload: dict[str, Any] = {"variables": self.variables[page]}
        if self.documents:
            payload["query"] = (HERE / self.documents / f"{page}.graphql").read_text()
        body = orjson.dumps(payload)
        path = "graphql" if self.documents else page
        head = f"POST /{path} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        if self.documents:
            head += "accept: application/graphql-response+json, application/json\r\n"
        if self.token:
            head += f"authorization: Bearer {self.token}\r\n"
        return head.encode() + b"\r\n" + body

    def cpu_seconds(self) -> float:
        """Returns the CPU seconds of the process and its children."""
        root = psutil.Process(self.process.pid)
        return sum(cpu_seconds(each) for each in (root, *root.children(recursive=True)))


def cpu_seconds(process: psutil.Process) -> float:
    """Returns the CPU seconds of one process."""
    tasks = Path(f"/proc/{process.pid}/task")
    if (tasks / str(process.pid) / "schedstat").exists():  # in nanoseconds; cpu_times has a resolution of 10 ms
        return sum(int(each.read_text().split()[0]) for each in tasks.glob("*/schedstat")) / 1e9
    times = process.cpu_times()
    return float(times.user + times.system)


@asynccontextmanager
async def run_process(*command: str, env: dict[str, str] | None = None, output: str = "stdout") -> AsyncIterator[tuple[Process, str]]:
    """Runs a process during the block; yields it and its address, which is its first line on `output`."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT, env=dict(os.environ) | (env or {}),
        stdout=PIPE if output == "stdout" else DEVNULL, stderr=PIPE if output == "stderr" else None,
    )  # fmt: skip
    try:
        line = (await (process.stdout if output == "stdout" else process.stderr).readline()).decode().strip()  # type: ignore[union-attr]
        if not re.fullmatch(r"[\d.]+:\d+", line):
            raise RuntimeError(f"{' '.join(command[:4])} printed no address: {line!r}")
        yield process, line
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def module(name: str, *arguments: str) -> tuple[str, ...]:
    """Returns the command that runs a module of this folder."""
    return (sys.executable, "-m", f"tests.bench.peers.{name}", *arguments)


async def send_requests(peer: Peer, page: str, times: int) -> bytes:
    """Sends requests one after another over one connection; returns the body of the last response."""
    host, _, port = peer.address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    request, body = peer.request(page), b""
    for _ in range(times):
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200"), head
        body = await (_chunks(reader) if b"transfer-encoding: chunked" in head else reader.readexactly(_length(head)))
    writer.close()
    return body


def _length(head: bytes) -> int:
    return next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := int((await reader.readline()).split(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return bytes(body)


async def cost(peer: Peer, page: str, requests: int) -> float:
    """Returns the CPU milliseconds per request."""
    before = peer.cpu_seconds()
    await asyncio.gather(*(send_requests(peer, page, requests // CONNECTIONS) for _ in range(CONNECTIONS)))
    return (peer.cpu_seconds() - before) * 1000 / (requests // CONNECTIONS * CONNECTIONS)
