"""Bench: rows per second of an import of real purchases, with all effects in the services. Floor: bare inserts of the same orders.

QUANYU_TEST_HOUSEHOLDS is the number of households of the Complete Journey, or `all`. Default: 300.
"""

import asyncio
import multiprocessing
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.table import Table

from services.kit.mongo.client import Database
from services.kit.settings import Settings
from services.local import client
from services.local.folder import RunningProcess
from services.local.imports import journey
from services.local.imports.importer import Import
from services.local.imports.items import Item, read_items
from services.local.imports.layout import FILES
from services.local.imports.requests import TARGETS
from services.local.keys import Keys
from tests.suite import with_suite

HOUSEHOLDS = 300
SETTLE_POLL_SECONDS = 0.1
BATCH = 400
MEBIBYTE = 2**20


async def run(uri: str) -> Table:
    households = _households()
    with tempfile.TemporaryDirectory() as folder:
        # Another process, so that the memory of the conversion does not count as memory of the import.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            source = pool.submit(_convert, Path(folder), households).result()
        rows = _rows(source)
        floor = await _insert_orders(uri, source)

        async def load(processes: dict[str, RunningProcess], keys: Keys) -> tuple[dict[str, float], str]:
            return await _measure_import(source, processes, keys)

        seconds, cost = await with_suite(uri, load)
    table = Table(title=f"import of {households or 'all'} households, with effects in all services")
    for column in ("what", "rows", "seconds", "rows/s"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, duration in seconds.items():
        table.add_row(name, f"{rows[name]:,}", f"{duration:.1f}", f"{rows[name] / duration:,.0f}")
    total, count = sum(seconds.values()), sum(rows.values())
    table.add_section()
    table.add_row("all", f"{count:,}", f"{total:.1f}", f"{count / total:,.0f}")
    table.add_row("floor: bare inserts of orders", f"{rows['orders']:,}", f"{floor:.1f}", f"{rows['orders'] / floor:,.0f}")
    table.caption = cost
    return table


def _households() -> int | None:
    """Returns the number of households; None means all."""
    setting = os.environ.get("QUANYU_TEST_HOUSEHOLDS", str(HOUSEHOLDS))
    if setting != "all" and not setting.isdecimal():
        sys.exit(f"QUANYU_TEST_HOUSEHOLDS must be a number of households or `all`, not {setting}.")
    return None if setting == "all" else int(setting)


def _convert(folder: Path, households: int | None) -> Path:
    return journey.convert(folder, households=households, console=Console())


def _orders(source: Path) -> Iterator[Any]:
    """Yields the orders of the folder as messages."""
    return (item.message for item in read_items(source, "orders")[1] if isinstance(item, Item))


def _rows(source: Path) -> dict[str, int]:
    """Returns the number of rows of each file. An order counts with its lines."""
    counts = {file.name: read_items(source, file.name)[0] for file in FILES if file.name in TARGETS and file.name != "orders"}
    return counts | {"orders": sum(1 + len(order.lines) for order in _orders(source))}


async def _insert_orders(uri: str, source: Path) -> float:
    """Returns the seconds to insert the orders as documents, unordered, 400 at a time."""
    database = Database(Settings(mongo_uri=uri), f"bench{secrets.token_hex(4)}")
    seconds, orders = 0.0, _orders(source)
    while documents := [MessageToDict(order) for order in islice(orders, BATCH)]:
        started = time.perf_counter()
        await database["orders"].insert_many(documents, ordered=False)
        seconds += time.perf_counter() - started
    await database.client.drop_database(database.name)
    await database.close()
    return seconds


async def _measure_import(source: Path, processes: dict[str, RunningProcess], keys: Keys) -> tuple[dict[str, float], str]:
    """Returns the seconds of each file until all its effects are applied, and the CPU time and memory of each process."""
    seconds: dict[str, float] = {}
    watched = {name: psutil.Process(process.pid) for name, process in processes.items()} | {"importer": psutil.Process()}
    peaks = dict.fromkeys(watched, 0)
    before = {name: _cpu_seconds(process) for name, process in watched.items()}

    async def watch() -> None:
        while True:
            for name, process in watched.items():
                peaks[name] = max(peaks[name], process.memory_info().rss)
            await asyncio.sleep(SETTLE_POLL_SECONDS)

    async with client.connect({name: process.address for name, process in processes.items()}, keys) as channels:
        watching = asyncio.create_task(watch())
        marks = [time.perf_counter()]

        async def settle(name: str) -> None:
            await _settled(channels)
            marks.append(time.perf_counter())
            seconds[name] = marks[-1] - marks[-2]

        await Import(source, channels, on_progress=lambda *progress: None, settle=settle, again=True).run()
        watching.cancel()
    costs = (f"{name} {_cpu_seconds(process) - before[name]:.0f} s, {peaks[name] / MEBIBYTE:,.0f} MB" for name, process in watched.items())
    return seconds, "\n".join(["CPU time and highest memory", *costs])


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _settled(channels: Mapping[str, Any]) -> None:
    while (await client.count_backlog(channels))[0]:  # noqa: ASYNC110 - other processes do the work
        await asyncio.sleep(SETTLE_POLL_SECONDS)
