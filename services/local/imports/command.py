"""`quanyu import`: purchase history and what it stands on, from a folder into the running suite."""

import asyncio
import time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from services.kit.errors import Refusal
from services.local import client
from services.local.errors import LocalError
from services.local.folder import Folder
from services.local.imports import journey, journey_stage, reading
from services.local.imports.importer import Import, Imported
from services.local.imports.layout import FILES
from services.local.imports.rejects import REJECTS
from services.local.options import data_option

SETTLE_POLL_SECONDS = 0.2
SETTLE_SECONDS_MAX = 1800.0


@click.command("import")
@click.argument("source", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="[FOLDER]")
@click.option("--complete-journey", is_flag=True, help="Dunnhumby's Complete Journey, from the extra `demo`, instead of a folder.")
@click.option("--households", type=click.IntRange(1, 2500), default=None, help="Only that many households of the Complete Journey.")
@click.option(
    "--anew", is_flag=True, help="From the start, whatever was imported before. What stands stays; stock is as the file counts it."
)
@data_option
def import_(source: Path | None, complete_journey: bool, households: int | None, anew: bool, folder: Folder) -> None:
    """Loads a FOLDER of CSV or Parquet files: brands, units, stores, staff, products, stock, consumers, bindings, orders, order_lines.

    Batches are carried out once, so an import that stopped goes on where it stopped; called again, it takes files that changed since,
    and rows that were refused before any did.
    Rows that cannot be taken stand in FOLDER/rejects.csv with the reason; an order is taken whole or not at all. The columns are
    described in the README.
    """
    if complete_journey == (source is not None):
        raise click.UsageError("name a FOLDER or --complete-journey")
    console = Console(stderr=True)
    started = time.monotonic()
    if complete_journey:
        with console.status("reading the Complete Journey"):
            source = journey.convert(folder.path / "complete-journey", households=households, console=console)
    assert source is not None
    if not any(reading.find(source, file.name) for file in FILES):
        raise LocalError(f"{source} holds none of the files; they are called {', '.join(f'{file.name}.csv' for file in FILES)}")
    try:
        imported = asyncio.run(_run(folder, source, anew, console, complete_journey))
    except KeyboardInterrupt:
        raise LocalError("interrupted; the same command goes on where it stopped", status=130) from None
    if imported.earlier:
        console.print(
            f"{source} was imported on {imported.earlier.astimezone():%Y-%m-%d %H:%M}; nothing in it is new. --anew repeats it.",
            soft_wrap=True,
        )
    else:
        console.print(summary(imported, time.monotonic() - started))
    if any(each.rejected for each in imported.counts.values()):
        console.print(f"What was not taken stands in {source / REJECTS}, with the reason.", soft_wrap=True)


async def load(folder: Folder, source: Path, console: Console, *, anew: bool = False) -> Imported:
    """Imports `source` into the suite on `folder` with a progress bar per file; returns when all effects stand in all services."""
    installation = folder.running().installation
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    async with client.channels(folder) as channels:
        with Progress(*columns, console=console) as progress:
            tasks: dict[str, TaskID] = {}
            latest: dict[str, int] = {}

            def seen(name: str, done: int, total: int, rejected: int) -> None:
                if name not in tasks:
                    tasks[name] = progress.add_task(name, total=total, note="")
                latest[name] = done
                progress.update(tasks[name], completed=done, total=total, note=f"[red]{rejected} rejected[/]" if rejected else "")

            async def settle(name: str) -> None:
                """Waits until what was told is applied everywhere."""
                if name in tasks:
                    progress.update(tasks[name], total=latest[name])
                deadline = time.monotonic() + SETTLE_SECONDS_MAX
                task: TaskID | None = None
                while (backlog := await client.backlog(channels))[0]:
                    task = task if task is not None else progress.add_task("effects", total=None, note="")
                    progress.update(task, note=f"{backlog[0]} facts under way")
                    if time.monotonic() > deadline:
                        raise LocalError(f"{backlog[0]} facts are still under way; `quanyu facts` shows why", status=1)
                    await asyncio.sleep(SETTLE_POLL_SECONDS)
                if task is not None:
                    progress.remove_task(task)
                if backlog[1]:
                    raise LocalError(f"{backlog[1]} facts are parked; `quanyu facts` shows why", status=1)

            return await Import(source, channels, seen=seen, settle=settle, installation=installation, anew=anew).run()


async def _run(folder: Folder, source: Path, anew: bool, console: Console, complete_journey: bool) -> Imported:
    try:
        imported = await load(folder, source, console, anew=anew)
        if complete_journey:
            async with client.channels(folder) as channels:
                await journey_stage.stage(source, channels)
        return imported
    except Refusal as refusal:
        raise LocalError(f"the import stopped: {refusal.message}; the same command goes on where it stopped", status=1) from refusal
    except OSError as error:
        raise LocalError(
            f"{error.filename or source} cannot be written: {error.strerror}; the import keeps how far it came there"
        ) from None


def summary(imported: Imported, seconds: float) -> Table:
    """What became of each file."""
    table = Table("file", Column("taken", justify="right"), Column("rejected", justify="right"), title=f"imported in {seconds:.1f} s")
    for file in FILES:
        if each := imported.counts.get(file.name):
            before = "" if file.name in imported.new else " [dim](before)[/]"
            table.add_row(f"{file.name}{before}", f"{each.imported:,}", f"[red]{each.rejected:,}[/]" if each.rejected else "0")
    return table
