"""`quanyu status`: what of the suite runs and is ready."""

import asyncio
import time
from datetime import timedelta

import click
import psutil
from rich.console import Console
from rich.table import Column, Table

from services.local.errors import LocalError
from services.local.folder import Folder, Member, Run
from services.local.mongod import MongodError, check_server
from services.local.options import data_option
from services.local.readiness import PROBES


@click.command()
@data_option
def status(folder: Folder) -> None:
    """Shows each process and whether it is ready; the exit status is 0 only if all are."""
    run = folder.running()
    ready = asyncio.run(_ask(run))
    table = Table("process", "pid", Column("address", overflow="fold"), "state", "up for", "memory", box=None, pad_edge=False)
    for process, answers in zip(run.processes, ready, strict=True):
        table.add_row(process.name, str(process.pid), process.address, *_state(process, answers))
    stands = _mongo_state(run.mongo_uri)
    table.add_row("mongo", "", _hosts(run.mongo_uri), _mark(not stands, stands or "ready"), "", "")
    console = Console()
    console.print(table)
    console.print(f"\nGraphQL: {run.gateway}/graphql", highlight=False)
    if stands or not all(ready):
        raise LocalError("not everything is ready", status=1)


async def _ask(run: Run) -> list[bool]:
    return await asyncio.gather(*(PROBES["http" if each.name == "gateway" else "grpc"](each.address) for each in run.processes))


def _state(process: Member, answers: bool) -> tuple[str, str, str]:
    try:
        found = psutil.Process(process.pid)
        memory = found.memory_info().rss
    except psutil.Error:
        return _mark(False, "gone"), "", ""
    return (
        _mark(answers, "ready" if answers else "not ready"),
        str(timedelta(seconds=int(time.time() - process.started_at))),
        f"{memory / 2**20:.0f} MiB",
    )


def _mongo_state(uri: str) -> str:
    """Empty when it is ready, else what is wrong."""
    try:
        check_server(uri)
    except MongodError as error:
        return str(error)
    return ""


def _mark(good: bool, text: str) -> str:
    return f"[{'green' if good else 'red'}]{text}[/]"


def _hosts(uri: str) -> str:
    """The part of a MongoDB URI that names no user, password or option."""
    return uri.partition("://")[2].partition("/")[0].rpartition("@")[2]
