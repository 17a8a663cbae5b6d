"""Overload: at four times its capacity, the gateway answers accepted requests in time, rejects the rest, and recovers at once.

The capacity is measured first, in the same run. The services answer from memory, so that only the gateway is overloaded. A quarter of the
requests are those of one consumer, who exceeds the rate limit and gets 429. Requests above the concurrency limit get 503.
"""

import asyncio
import itertools
import json
import os
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process, create_subprocess_exec
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
from msgspec import Struct
from rich.table import Table

from services.kit.runtime.runtime import SERVICES
from services.local.keys import Jwk, new_keys
from services.local.mongod import free_port
from services.local.token import bearer
from tests.bench.peers.services import CONSUMER, OFFERS, ORDERS, offer
from tests.proofs._arrivals import Wave, WaveResult

SECONDS, TIMES = 60.0, 4
SHOPPERS = 400
GREEDY_SHARE = 3
"""The greedy consumer sends one request for this many requests of others."""
RATE_PRINCIPAL = 20
CLOSED_CONNECTIONS, OPEN_CONNECTIONS, FEW_CONNECTIONS = 32, 1_024, 4
GROWTH_MB_MAX = 50.0
ANSWER_MS_MAX = 3_000.0
"""99 % of the accepted requests are answered within this time, a third of their deadline."""
RECOVERY_SECONDS_MAX = 5.0
CALM_SECONDS = 1.0
CALM_MS = 50.0
"""Without load, a request is answered within this time, or within twice its time before the overload."""

PROBE_EVERY_SECONDS, PROBE_SECONDS_MAX = 0.25, 2.0
LINE_SECONDS_MAX = 120.0
ROOT = Path(__file__).parents[2]
HEAD = (
    "POST /graphql HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {token}\r\naccept: application/graphql-response+json\r\n"
    "content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
)
OFFER = "offer { id category name { zh en } priceFrom { amount currency } }"
PAGES: dict[str, dict[str, Any]] = {
    "query One($id: ID!) {" + OFFER.replace("offer", "offer(id: $id)") + "}": {"id": offer(0).id},
    "query Page($first: Int!) { offers(first: $first) { nodes { id name { zh en } goods { variantId price { amount } } } } }": {
        "first": OFFERS
    },
    "query Orders($id: ID!, $first: Int!) { consumer(id: $id) { id displayName } orders(consumerId: $id, first: $first) {"
    " nodes { id state placedAt total { amount } lines { quantity " + OFFER + " } } } }": {"id": CONSUMER, "first": ORDERS},
}


class Gateway(Struct):
    """The gateway under load, and the process of the load generator."""

    url: str
    process: psutil.Process
    arrivals: Process
    megabytes: list[float]

    async def send_wave(self, wave: Wave) -> WaveResult:
        """Sends a wave and returns its result."""
        assert self.arrivals.stdin is not None
        self.arrivals.stdin.write(msgspec.json.encode(wave) + b"\n")
        return msgspec.json.decode(await _line(self.arrivals), type=WaveResult)

    def measure_memory(self) -> float:
        """Returns the memory of the process in megabytes."""
        self.megabytes.append(self.process.memory_info().rss / 1e6)
        return self.megabytes[-1]


async def run(uri: str) -> Table:
    """Runs the proof at full size: one minute."""
    return await assert_overload_is_survived(SECONDS)


async def assert_overload_is_survived(seconds: float) -> Table:
    """Asserts the invariant. Returns a table of requests and responses."""
    async with open_gateway() as gateway:
        await gateway.send_wave(Wave("shoppers", seconds / 20, CLOSED_CONNECTIONS))  # warm-up
        calm = await gateway.send_wave(Wave("shoppers", CALM_SECONDS, FEW_CONNECTIONS))
        capacity = await gateway.send_wave(Wave("shoppers", seconds / 10, CLOSED_CONNECTIONS))
        sustainable = capacity.statuses[200] / capacity.seconds
        before = gateway.measure_memory()
        watch = asyncio.create_task(_watch(gateway))
        flood = await gateway.send_wave(Wave("crowd", seconds, OPEN_CONNECTIONS, TIMES * sustainable))
        recovered, after = await _recovery(gateway, calm)
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
        growth = max(gateway.megabytes) - before
    waves = {"without load": calm, "at capacity": capacity, f"{TIMES} times that": flood, "afterwards": after}
    table = _table(f"gateway: {seconds:.0f} s of {TIMES} times its capacity", waves)
    table.caption = f"{before:.0f} MB before, {growth:+.0f} MB at most; recovered after {recovered:.1f} s"
    for phase, wave in (("before", capacity), ("under load", flood)):
        assert not wave.broken, f"{phase}, {wave.broken} connections broke"
        assert not wave.silent, f"{phase}, {wave.silent} requests were not answered"
        assert not wave.unexplained, f"{phase}, {wave.unexplained} refusals have no Retry-After"
    assert capacity.statuses.keys() == {200}
    assert flood.statuses.keys() == {200, 429, 503}, flood.statuses
    assert flood.sent / flood.seconds > 0.75 * TIMES * sustainable, "the load was less than it should be"
    assert flood.p99 < ANSWER_MS_MAX, f"99 of 100 took {flood.p99:.0f} ms"
    assert growth < GROWTH_MB_MAX, f"it grew by {growth:.0f} MB"
    assert recovered < RECOVERY_SECONDS_MAX, "it did not recover"
    return table


async def _recovery(gateway: Gateway, calm: WaveResult) -> tuple[float, WaveResult]:
    """Returns the seconds until requests are answered as quickly as before, and the last wave."""
    started = time.perf_counter()
    while (waited := time.perf_counter() - started) < RECOVERY_SECONDS_MAX:
        result = await gateway.send_wave(Wave("shoppers", CALM_SECONDS, FEW_CONNECTIONS))
        if result.statuses.keys() == {200} and result.p99 < max(2 * calm.p99, CALM_MS):
            return waited, result
    return waited, result


async def _watch(gateway: Gateway) -> None:
    """Measures the memory and probes the health of the gateway, as its orchestrator does."""
    async with httpx.AsyncClient(base_url=gateway.url, timeout=PROBE_SECONDS_MAX, trust_env=False) as http:
        while True:
            gateway.measure_memory()
            assert (await http.get("/health")).status_code == 200
            await asyncio.sleep(PROBE_EVERY_SECONDS)


@asynccontextmanager
async def open_gateway() -> AsyncIterator[Gateway]:
    """Yields the gateway, with its services and the load generator: three processes."""
    keys, address = new_keys(), f"127.0.0.1:{free_port()}"
    async with AsyncExitStack() as stack:
        services = await stack.enter_async_context(_process("tests.bench.peers.services", stdout=PIPE))
        settings = keys.settings_of("gateway") | {"gateway_listen": address, "rate_principal": str(RATE_PRINCIPAL)}
        settings |= dict.fromkeys([f"{name}_address" for name in SERVICES], (await _line(services)).decode().strip())
        env = {f"QUANYU_{name.upper()}": value for name, value in settings.items()}
        process = await stack.enter_async_context(_process("gateway", stdout=DEVNULL, env=env))
        arrivals = await stack.enter_async_context(_process("tests.proofs._arrivals", address, stdin=PIPE, stdout=PIPE))
        assert arrivals.stdin is not None
        arrivals.stdin.write(msgspec.json.encode(_requests(keys.tokens)) + b"\n")
        yield Gateway(f"http://{address}", psutil.Process(process.pid), arrivals, [])


@asynccontextmanager
async def _process(module: str, *arguments: str, env: dict[str, str] | None = None, **pipes: int) -> AsyncIterator[Process]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("QUANYU_")}
    process = await create_subprocess_exec(sys.executable, "-m", module, *arguments, cwd=ROOT, env=inherited | (env or {}), **pipes)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _line(process: Process) -> bytes:
    assert process.stdout is not None
    return await asyncio.wait_for(process.stdout.readline(), LINE_SECONDS_MAX)


def _requests(key: Jwk) -> dict[str, list[str]]:
    """Returns the requests of each shopper; `crowd` adds those of the greedy consumer."""
    pages = itertools.cycle(PAGES.items())

    def create_request(number: int) -> str:
        query, variables = next(pages)
        body = json.dumps({"query": query, "variables": variables})
        return HEAD.format(token=bearer(key, f"con_01890000-0000-7000-8000-{number:012}"), length=len(body)) + body

    shoppers = [create_request(number) for number in range(1, SHOPPERS + 1)]
    crowd = [
        text
        for number, shopper in enumerate(shoppers)
        for text in ((shopper, create_request(0)) if number % GREEDY_SHARE == 0 else (shopper,))
    ]
    return {"shoppers": shoppers, "crowd": crowd}


def _table(title: str, waves: dict[str, WaveResult]) -> Table:
    table = Table(title=title)
    for column in ("", "sent/s", "200/s", "429/s", "503/s", "unsent/s", "p50 ms", "p99 ms"):
        table.add_column(column, justify="right" if column else "left")
    for name, wave in waves.items():
        counts = (wave.sent, *(wave.statuses.get(status, 0) for status in (200, 429, 503)), wave.unsent)
        rates = (f"{count / wave.seconds:,.0f}" for count in counts)
        table.add_row(name, *rates, f"{wave.p50:,.1f}", f"{wave.p99:,.1f}")
    return table
