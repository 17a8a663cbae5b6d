"""Four times as much as the gateway can bear: what it lets in is answered in time, the rest is sent away, and it is itself again at once.

The rate that it bears is measured first, in the same run. Its services answer from memory, so that nothing but the gateway is overloaded. A
quarter of what comes is one consumer's, who may not ask that often and hears 429; who comes when the house is full hears 503.
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
from tests.proofs._arrivals import Heard, Wave

SECONDS, TIMES = 60.0, 4
SHOPPERS = 400
GREEDY_SHARE = 3
"""For so many requests of others the greedy consumer sends one."""
RATE_PRINCIPAL = 20
CLOSED_CONNECTIONS, OPEN_CONNECTIONS, FEW_CONNECTIONS = 32, 1_024, 4
GROWTH_MB_MAX = 50.0
ANSWER_MS_MAX = 3_000.0
"""99 of 100 accepted requests are answered within it: a third of their deadline, since `operations_max` of them are under way at most."""
RECOVERY_SECONDS_MAX = 5.0
CALM_SECONDS = 1.0
CALM_MS = 50.0
"""Few requests at a time are answered within it, or within twice what they took before, when nothing is wrong."""

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
    """The gateway under load, and the process that asks it."""

    url: str
    process: psutil.Process
    arrivals: Process
    megabytes: list[float]

    async def wave(self, wave: Wave) -> Heard:
        """Sends a wave; what came of it."""
        assert self.arrivals.stdin is not None
        self.arrivals.stdin.write(msgspec.json.encode(wave) + b"\n")
        return msgspec.json.decode(await _line(self.arrivals), type=Heard)

    def weigh(self) -> float:
        """Megabytes that it holds now."""
        self.megabytes.append(self.process.memory_info().rss / 1e6)
        return self.megabytes[-1]


async def run(uri: str) -> Table:
    """Full size: a minute."""
    return await overload_is_survived(SECONDS)


async def overload_is_survived(seconds: float) -> Table:
    """Asserts the invariant; a table of what was asked and answered."""
    async with opened() as gateway:
        await gateway.wave(Wave("shoppers", seconds / 20, CLOSED_CONNECTIONS))  # warms it up
        calm = await gateway.wave(Wave("shoppers", CALM_SECONDS, FEW_CONNECTIONS))
        borne = await gateway.wave(Wave("shoppers", seconds / 10, CLOSED_CONNECTIONS))
        sustainable = borne.statuses[200] / borne.seconds
        before = gateway.weigh()
        watching = asyncio.create_task(_watching(gateway))
        flood = await gateway.wave(Wave("crowd", seconds, OPEN_CONNECTIONS, TIMES * sustainable))
        recovered, after = await _recovery(gateway, calm)
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        growth = max(gateway.megabytes) - before
    waves = {"few": calm, "all it bears": borne, f"{TIMES} times that": flood, "afterwards": after}
    table = _table(f"gateway: {seconds:.0f} s of {TIMES} times what it bears", waves)
    table.caption = f"{before:.0f} MB before, {growth:+.0f} MB at most; itself again after {recovered:.1f} s"
    for told, wave in (("before", borne), ("under load", flood)):
        assert not wave.broken, f"{told}, {wave.broken} connections broke"
        assert not wave.silent, f"{told}, {wave.silent} requests were not answered"
        assert not wave.unexplained, f"{told}, {wave.unexplained} refusals say not when to come back"
    assert borne.statuses.keys() == {200}
    assert flood.statuses.keys() == {200, 429, 503}, flood.statuses
    assert flood.sent / flood.seconds > 0.75 * TIMES * sustainable, "the load was less than it should be"
    assert flood.p99 < ANSWER_MS_MAX, f"99 of 100 took {flood.p99:.0f} ms"
    assert growth < GROWTH_MB_MAX, f"it grew by {growth:.0f} MB"
    assert recovered < RECOVERY_SECONDS_MAX, "it did not recover"
    return table


async def _recovery(gateway: Gateway, calm: Heard) -> tuple[float, Heard]:
    """Seconds until few at a time are all answered as quickly as before, and how they were."""
    started = time.perf_counter()
    while (waited := time.perf_counter() - started) < RECOVERY_SECONDS_MAX:
        heard = await gateway.wave(Wave("shoppers", CALM_SECONDS, FEW_CONNECTIONS))
        if heard.statuses.keys() == {200} and heard.p99 < max(2 * calm.p99, CALM_MS):
            return waited, heard
    return waited, heard


async def _watching(gateway: Gateway) -> None:
    """Weighs it, and asks it whether it lives, as what runs it does: one that does not say so in time would be killed."""
    async with httpx.AsyncClient(base_url=gateway.url, timeout=PROBE_SECONDS_MAX, trust_env=False) as http:
        while True:
            gateway.weigh()
            assert (await http.get("/health")).status_code == 200
            await asyncio.sleep(PROBE_EVERY_SECONDS)


@asynccontextmanager
async def opened() -> AsyncIterator[Gateway]:
    """The gateway, its services and those who ask it: three processes."""
    keys, address = new_keys(), f"127.0.0.1:{free_port()}"
    async with AsyncExitStack() as stack:
        services = await stack.enter_async_context(_process("tests.bench.peers.services", stdout=PIPE))
        stated = keys.settings_of("gateway") | {"gateway_listen": address, "rate_principal": str(RATE_PRINCIPAL)}
        stated |= dict.fromkeys([f"{name}_address" for name in SERVICES], (await _line(services)).decode().strip())
        env = {f"QUANYU_{name.upper()}": value for name, value in stated.items()}
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
    """The pages by each shopper; the crowd is the shoppers with the greedy one among them."""
    pages = itertools.cycle(PAGES.items())

    def asked(number: int) -> str:
        query, variables = next(pages)
        body = json.dumps({"query": query, "variables": variables})
        return HEAD.format(token=bearer(key, f"con_01890000-0000-7000-8000-{number:012}"), length=len(body)) + body

    shoppers = [asked(number) for number in range(1, SHOPPERS + 1)]
    crowd = [
        text for number, shopper in enumerate(shoppers) for text in ((shopper, asked(0)) if number % GREEDY_SHARE == 0 else (shopper,))
    ]
    return {"shoppers": shoppers, "crowd": crowd}


def _table(title: str, waves: dict[str, Heard]) -> Table:
    table = Table(title=title)
    for column in ("", "asked/s", "200/s", "429/s", "503/s", "unsent/s", "p50 ms", "p99 ms"):
        table.add_column(column, justify="right" if column else "left")
    for name, wave in waves.items():
        counts = (wave.sent, *(wave.statuses.get(status, 0) for status in (200, 429, 503)), wave.unsent)
        rates = (f"{count / wave.seconds:,.0f}" for count in counts)
        table.add_row(name, *rates, f"{wave.p50:,.1f}", f"{wave.p99:,.1f}")
    return table
