"""Rows per second of an import of real purchases, effects in all services included, against bare inserts of the same rows."""

import asyncio
import secrets
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.table import Table

from services.kit.mongo import Database
from services.kit.settings import Settings
from services.local import client
from services.local.folder import Member
from services.local.imports import journey
from services.local.imports.importer import Import
from services.local.imports.items import Item, items
from services.local.keys import Keys
from tests.suite import with_suite

HOUSEHOLDS = 300
SETTLE_POLL_SECONDS = 0.1


async def run(uri: str) -> Table:
    with tempfile.TemporaryDirectory() as folder:
        source = journey.convert(Path(folder), households=HOUSEHOLDS, console=Console())
        rows = _rows(source)
        floor = await _bare(uri, source)

        async def load(processes: dict[str, Member], keys: Keys) -> tuple[dict[str, float], dict[str, float]]:
            return await _through(source, processes, keys)

        seconds, cpu = await with_suite(uri, load)
    table = Table(title=f"import of {HOUSEHOLDS} households, effects in all services included (goal: within 60 s)")
    for column in ("what", "rows", "seconds", "rows/s"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, took in seconds.items():
        table.add_row(name, f"{rows[name]:,}", f"{took:.1f}", f"{rows[name] / took:,.0f}")
    total, count = sum(seconds.values()), sum(rows.values())
    table.add_section()
    table.add_row("all", f"{count:,}", f"{total:.1f}", f"{count / total:,.0f}")
    table.add_row("floor: bare inserts of orders", f"{rows['orders']:,}", f"{floor:.1f}", f"{rows['orders'] / floor:,.0f}")
    table.caption = "CPU seconds: " + ", ".join(f"{name} {used:.0f}" for name, used in cpu.items())
    return table


def _rows(source: Path) -> dict[str, int]:
    """Rows per file; an order counts with its lines."""
    counts = {}
    for name in ("brands", "stores", "staff", "products", "stock", "consumers", "bindings"):
        counts[name] = items(source, name)[0]
    orders = [item.message for item in items(source, "orders")[1] if isinstance(item, Item)]
    counts["orders"] = len(orders) + sum(len(order.lines) for order in orders)  # type: ignore[attr-defined]
    return counts


async def _bare(uri: str, source: Path) -> float:
    """Seconds to insert the orders as documents, unordered, 400 at a time, and nothing else."""
    documents: list[dict[str, Any]] = [MessageToDict(item.message) for item in items(source, "orders")[1] if isinstance(item, Item)]
    database = Database(Settings(mongo_uri=uri), f"bench{secrets.token_hex(4)}")
    started = time.perf_counter()
    for start in range(0, len(documents), 400):
        await database["orders"].insert_many(documents[start : start + 400], ordered=False)
    seconds = time.perf_counter() - started
    await database.client.drop_database(database.name)
    await database.close()
    return seconds


async def _through(source: Path, processes: dict[str, Member], keys: Keys) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds per file until its effects stand everywhere, and CPU seconds per process."""
    seconds: dict[str, float] = {}
    async with client.connected({name: member.address for name, member in processes.items()}, keys) as channels:
        marks = [time.perf_counter()]

        async def settle(name: str) -> None:
            await _settled(channels)
            marks.append(time.perf_counter())
            seconds[name] = marks[-1] - marks[-2]

        await Import(source, channels, seen=lambda *progress: None, settle=settle, anew=True).run()
    cpu = {}
    for name, member in processes.items():
        times = psutil.Process(member.pid).cpu_times()
        cpu[name] = times.user + times.system
    return seconds, cpu


async def _settled(channels: Mapping[str, Any]) -> None:
    while (await client.backlog(channels))[0]:  # noqa: ASYNC110 - other processes do the work
        await asyncio.sleep(SETTLE_POLL_SECONDS)
