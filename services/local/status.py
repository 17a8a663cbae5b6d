"""`quanyu status`: the command that shows which processes run and are ready."""

import asyncio
import time
from datetime import timedelta

import click
import psutil
from rich.console import Console
from rich.table import Column, Table

from services.local.errors import LocalError
from services.local.folder import Folder, Run, RunningProcess
from services.local.mongod import MongodError, check_server
from services.local.options import data_option
from services.local.readiness import PROBES


@click.command()
@data_option
def status(folder: Folder) -> None:
    """Shows each process and whether it is ready. The exit status is 0 only if all are."""
    run = folder.running()
    ready = asyncio.run(_probe(run))
    table = Table("process", "pid", Column("address", overflow="fold"), "state", "up for", "memory", box=None, pad_edge=False)
    for process, is_ready in zip(run.processes, ready, strict=True):
        table.add_row(process.name, str(process.pid), process.address, *_state(process, is_ready))
    problem = _mongo_problem(run.mongo_uri)
    table.add_row("mongo", "", _hosts(run.mongo_uri), _colour(not problem, problem or "ready"), "", "")
    console = Console()
    console.print(table)
    console.print(f"\nGraphQL: {run.gateway}/graphql", highlight=False)
    if problem or not all(ready):
        raise LocalError("Not every process is ready. The log of `quanyu up` shows why.", status=1)


async def _probe(run: Run) -> list[bool]:
    return await asyncio.gather(*(PROBES["http" if each.name == "gateway" else "grpc"](each.address) for each in run.processes))


def _state(process: RunningProcess, is_ready: bool) -> tuple[str, str, str]:
    try:
        found = psutil.Process(process.pid)
        memory = found.memory_info().rss
    except psutil.Error:
        return _colour(False, "ended"), "", ""
    return (
        _colour(is_ready, "ready" if is_ready else "not ready"),
        str(timedelta(seconds=int(time.time() - process.started_at))),
        f"{memory / 2**20:.0f} MiB",
    )


def _mongo_problem(uri: str) -> str:
    """Returns what is wrong with MongoDB; an empty string if it is ready."""
    try:
        check_server(uri)
    except MongodError as error:
        return str(error)
    return ""


def _colour(is_good: bool, text: str) -> str:
    return f"[{'green' if is_good else 'red'}]{text}[/]"


def _hosts(uri: str) -> str:
    """Returns the hosts of a MongoDB URI, without user, password and options."""
    return uri.partition("://")[2].partition("/")[0].rpartition("@")[2]
