"""Cost of a request in each process: the three pages of the gateway's bench, with real services and MongoDB."""

import csv
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from rich.table import Table

from services.local import client
from services.local.demo import setup, tables
from services.local.folder import RunningProcess
from services.local.imports.importer import Import
from services.local.keys import Keys
from services.local.token import bearer
from tests.bench.peers.peer import OFFERS, ORDERS, TITLES, Peer, cpu_seconds, send_requests
from tests.suite import with_suite

ROUNDS, REQUESTS = 5, 100


async def run(uri: str) -> Table:
    """Returns the CPU milliseconds of gateway and services, and the milliseconds until the answer, one request at a time."""

    async def measure(processes: dict[str, RunningProcess], keys: Keys) -> dict[str, list[tuple[float, float, float]]]:
        with tempfile.TemporaryDirectory() as folder:
            shopper, offer = await _demo(processes, keys, Path(folder))
        variables: dict[str, dict[str, Any]] = {
            "one": {"id": offer},
            "page": {"first": OFFERS},
            "orders": {"id": shopper, "first": ORDERS},
        }
        peer = Peer(psutil.Process(processes["gateway"].pid), processes["gateway"].address, "ours", bearer(keys.tokens, shopper), variables)
        services = [psutil.Process(process.pid) for name, process in processes.items() if name != "gateway"]
        return {page: [await _round(peer, page, services) for _ in range(ROUNDS + 1)][1:] for page in variables}

    rounds = await with_suite(uri, measure, gateway=True, rate_principal=0.0, rate_tenant=0.0, rate_address=0.0)
    table = Table(title=f"the same with the real services, the demo world in MongoDB: medians of {ROUNDS} rounds")
    for column in ("page", "CPU ms, gateway", "CPU ms, services", "ms until the answer"):
        table.add_column(column, justify="left" if column == "page" else "right")
    table.caption = "The demo world has fewer variants per offer and fewer orders per person than the services above."
    for page, samples in rounds.items():
        table.add_row(TITLES[page], *(f"{statistics.median(each):.2f}" for each in zip(*samples, strict=True)))
    return table


async def _demo(processes: dict[str, RunningProcess], keys: Keys, folder: Path) -> tuple[str, str]:
    """Loads the demo world, and returns its consumer with the most orders, and an offer."""
    async with client.connect({name: process.address for name, process in processes.items()}, keys) as channels:

        async def settle(name: str) -> None:
            await client.wait_until_settled(channels)

        source = tables.write(folder)
        await Import(source, channels, on_progress=lambda *progress: None, settle=settle).run()
        await setup.create(channels)
    with (source / "orders.csv").open(encoding="utf-8-sig") as file:
        shopper = Counter(row["consumer_id"] for row in csv.DictReader(file)).most_common(1)[0][0]
    with (source / "products.csv").open(encoding="utf-8-sig") as file:
        offer = next(csv.DictReader(file))["product_id"].replace("prd_", "ofr_", 1)
    return shopper, offer


async def _round(peer: Peer, page: str, services: list[psutil.Process]) -> tuple[float, float, float]:
    gateway_before, services_before, started = peer.cpu_seconds(), sum(map(cpu_seconds, services)), time.perf_counter()
    answer = await send_requests(peer, page, REQUESTS)
    seconds = time.perf_counter() - started
    assert b'"errors"' not in answer and len(answer) > 100, answer[:500]
    gateway_seconds, services_seconds = peer.cpu_seconds() - gateway_before, sum(map(cpu_seconds, services)) - services_before
    return gateway_seconds * 1000 / REQUESTS, services_seconds * 1000 / REQUESTS, seconds * 1000 / REQUESTS
