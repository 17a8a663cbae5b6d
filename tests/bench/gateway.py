"""What the gateway costs: CPU milliseconds per request of its own process, before services that answer from memory.

Floor: the same three pages written by hand (`peers/floor.py`), with the same gRPC calls, in the same run. The gateway does everything
it does for anybody: checks the bearer token, counts, signs who asks to the services, writes its log line.
"""

import asyncio
import os
import statistics
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import psutil
from graphql import parse, validate
from msgspec import Struct
from rich.table import Table

from gateway import schema
from gateway.engine.engine import Compiled
from services.kit.house import SERVICES
from services.local.keys import new_keys
from services.local.token import bearer
from tests.bench.peers.services import CONSUMER, OFFERS, ORDERS, offer

ROOT = Path(__file__).parents[2]
ROUNDS, REQUESTS, CONNECTIONS = 5, 400, 4
GOAL = 1.15
COLD_ROUNDS, COLD_GOAL_MS = 30, 3.0
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
WAYS = ("floor", "engine", "core")


def document(page: str) -> str:
    return (Path(__file__).parent / "operations" / f"{page}.graphql").read_text()


class Peer(Struct):
    """A process that answers the three pages."""

    process: Process
    address: str
    gateway: bool
    token: str = ""

    def request(self, page: str) -> bytes:
        """The HTTP request of a page."""
        body = orjson.dumps({"variables": VARIABLES[page]} | ({"query": document(page)} if self.gateway else {}))
        path = "graphql" if self.gateway else page
        head = f"POST /{path} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        if self.gateway:
            head += f"accept: application/graphql-response+json\r\nauthorization: Bearer {self.token}\r\n"
        return head.encode() + b"\r\n" + body

    def cpu_seconds(self) -> float:
        """What the process has used, by its own clock."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        if (tasks / str(self.process.pid) / "schedstat").exists():  # nanoseconds; the other clock ticks a hundred times a second
            return sum(int(each.read_text().split()[0]) for each in tasks.glob("*/schedstat")) / 1e9
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system


@asynccontextmanager
async def started(module: str, *arguments: str, env: dict[str, str] | None = None, says: str = "stdout") -> AsyncIterator[Any]:
    """A process of `peers`, and the address that it says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"tests.bench.peers.{module}", *arguments,
        cwd=ROOT, env=dict(os.environ) | (env or {}),
        stdout=PIPE if says == "stdout" else DEVNULL, stderr=PIPE if says == "stderr" else None,
    )  # fmt: skip
    try:
        line = await (process.stdout if says == "stdout" else process.stderr).readline()  # type: ignore[union-attr]
        yield process, line.decode().strip()
    finally:
        process.kill()
        await process.wait()


async def connected(peer: Peer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection, as soon as the process takes one."""
    host, _, port = peer.address.partition(":")
    return await asyncio.open_connection(host, int(port))


async def asked(peer: Peer, page: str, times: int) -> bytes:
    """Asks one after the other over one connection; the last answer's body."""
    reader, writer = await connected(peer)
    request, body = peer.request(page), b""
    for _ in range(times):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await reader.readexactly(length)
    writer.close()
    return body


async def cost(peer: Peer, page: str, requests: int) -> float:
    """CPU milliseconds per request."""
    before = peer.cpu_seconds()
    await asyncio.gather(*(asked(peer, page, requests // CONNECTIONS) for _ in range(CONNECTIONS)))
    return (peer.cpu_seconds() - before) * 1000 / (requests // CONNECTIONS * CONNECTIONS)


@asynccontextmanager
async def peers() -> AsyncIterator[dict[str, Peer]]:
    """The floor and the gateway, both ways, before the same services."""
    keys = new_keys()
    async with AsyncExitStack() as stack:
        _, services = await stack.enter_async_context(started("services"))
        floor = await stack.enter_async_context(started("floor", services))
        found = {"floor": Peer(*floor, False)}
        env = {f"QUANYU_{name.upper()}_ADDRESS": services for name in SERVICES}
        env |= {f"QUANYU_{name.upper()}": value for name, value in keys.settings_of("gateway").items()}
        env |= {f"QUANYU_RATE_{name}": "0" for name in ("PRINCIPAL", "TENANT", "ADDRESS")}
        for way in ("engine", "core"):
            process = await stack.enter_async_context(started("gateway", way, env=env, says="stderr"))
            found[way] = Peer(*process, True, bearer(keys.tokens, CONSUMER))
        yield found


async def run(uri: str) -> Table:
    async with peers() as found:
        for page in VARIABLES:
            answers = [orjson.loads(await asked(found[way], page, 50)) for way in WAYS]
            assert answers[0] == answers[1] == answers[2], f"the ways to answer {page} differ"
        measured = {
            (page, way): statistics.median(values)
            for page in VARIABLES
            for way, values in zip(WAYS, zip(*[await _round(found, page) for _ in range(ROUNDS)], strict=True), strict=True)
        }
    table = Table(title=f"gateway: CPU ms per request, medians of {ROUNDS} rounds (goal: at most {GOAL} of the floor)")
    for column in ("page", *WAYS, "engine / floor", "core / floor"):
        table.add_column(column, justify="left" if column == "page" else "right")
    for page, title in TITLES.items():
        floor, engine, core = (measured[page, way] for way in WAYS)
        table.add_row(title, *(f"{value:.3f}" for value in (floor, engine, core)), f"{engine / floor:.2f}", f"{core / floor:.2f}")
    parsed, compiled = cold()
    table.caption = (
        f"cold document of the 1,650 leaves: parse and validate {parsed:.2f} ms, compile {compiled:.2f} ms (goal: {COLD_GOAL_MS} in sum)"
    )
    return table


async def _round(found: dict[str, Peer], page: str) -> list[float]:
    return [await cost(found[way], page, REQUESTS) for way in WAYS]


def cold() -> tuple[float, float]:
    """Milliseconds to parse and validate the page's document, and to compile it."""
    built = schema.build()
    samples = []
    for _ in range(COLD_ROUNDS):
        start = time.process_time()
        parsed = parse(document("page"))
        assert not validate(built._schema, parsed)
        middle = time.process_time()
        Compiled(built, parsed, parsed.definitions[0], suggestions=False).plan({})  # type: ignore[arg-type]
        samples.append((middle - start, time.process_time() - middle))
    return statistics.median(each[0] for each in samples) * 1000, statistics.median(each[1] for each in samples) * 1000
