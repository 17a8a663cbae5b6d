"""`quanyu import`: the command that loads a folder of files into the running suite."""

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
from services.local.imports import journey, journey_district, reading
from services.local.imports.importer import Import, ImportResult
from services.local.imports.layout import FILES
from services.local.imports.rejects import REJECTS
from services.local.options import data_option

SETTLE_POLL_SECONDS = 0.2
SETTLE_SECONDS_MAX = 1800.0
"""The import waits this long for the effects of one file in all services."""


@click.command("import")
@click.argument("source", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="[FOLDER]")
@click.option("--complete-journey", is_flag=True, help="Import Dunnhumby's Complete Journey, from the extra `demo`, instead of a folder.")
@click.option("--households", type=click.IntRange(1, 2500), default=None, help="Import only this many households of the Complete Journey.")
@click.option(
    "--again", is_flag=True, help="Import from the start. Existing objects stay as they are; stock is set to the count in the file."
)
@data_option
def import_(source: Path | None, complete_journey: bool, households: int | None, again: bool, folder: Folder) -> None:
    """Loads a FOLDER of CSV or Parquet files: brands, org_units, stores, staff, products, stock, consumers, bindings, orders, order_lines.

    An interrupted import resumes with the same command. A repeated import loads the files that changed, and retries refused rows.
    Rejected rows are listed in FOLDER/rejects.csv with the reason. An order with a bad line is rejected as a whole.
    services/local/imports/README.md lists the columns.
    """
    if complete_journey == (source is not None):
        raise click.UsageError("Name a FOLDER or use --complete-journey.")
    console = Console(stderr=True)
    started = time.monotonic()
    if complete_journey:
        with console.status("Reading the Complete Journey"):
            source = journey.convert(folder.path / "complete-journey", households=households, console=console)
    assert source is not None
    if not any(reading.find_file(source, file.name) for file in FILES):
        raise LocalError(f"{source} holds no file to import. Name the files {', '.join(f'{file.name}.csv' for file in FILES)}.")
    try:
        imported = asyncio.run(_run(folder, source, again, console, complete_journey))
    except KeyboardInterrupt:
        raise LocalError("Interrupted. The same command resumes where it stopped.", status=130) from None
    if imported.earlier:
        console.print(
            f"{source} was imported on {imported.earlier.astimezone():%Y-%m-%d %H:%M} and has not changed. To repeat it use --again.",
            soft_wrap=True,
        )
    else:
        console.print(summarize(imported, time.monotonic() - started))
    if any(each.rejected for each in imported.counts.values()):
        console.print(f"{source / REJECTS} lists the rejected rows with the reason.", soft_wrap=True)


async def load(folder: Folder, source: Path, console: Console, *, again: bool = False) -> ImportResult:
    """Imports `source` into the suite of `folder` with a progress bar per file; returns once all services have applied all events."""
    installation = folder.running().installation
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    async with client.open_channels(folder) as channels:
        with Progress(*columns, console=console) as progress:
            tasks: dict[str, TaskID] = {}
            latest: dict[str, int] = {}

            def on_progress(name: str, done: int, total: int, rejected: int) -> None:
                if name not in tasks:
                    tasks[name] = progress.add_task(name, total=total, note="")
                latest[name] = done
                progress.update(tasks[name], completed=done, total=total, note=f"[red]{rejected} rejected[/]" if rejected else "")

            async def settle(name: str) -> None:
                """Waits until every published event is applied."""
                if name in tasks:
                    progress.update(tasks[name], total=latest[name])
                deadline = time.monotonic() + SETTLE_SECONDS_MAX
                task: TaskID | None = None
                while (backlog := await client.count_backlog(channels))[0]:
                    task = task if task is not None else progress.add_task("events", total=None, note="")
                    progress.update(task, note=f"{backlog[0]} events waiting")
                    if time.monotonic() > deadline:
                        raise LocalError(
                            f"{backlog[0]} events still wait after {SETTLE_SECONDS_MAX:.0f} s. `quanyu events` shows them.", status=1
                        )
                    await asyncio.sleep(SETTLE_POLL_SECONDS)
                if task is not None:
                    progress.remove_task(task)
                if backlog[1]:
                    raise LocalError(f"{backlog[1]} events are parked. `quanyu events` shows the reasons.", status=1)

            return await Import(source, channels, on_progress=on_progress, settle=settle, installation=installation, again=again).run()


async def _run(folder: Folder, source: Path, again: bool, console: Console, complete_journey: bool) -> ImportResult:
    try:
        imported = await load(folder, source, console, again=again)
        if complete_journey:
            async with client.open_channels(folder) as channels:
                await journey_district.create(source, channels)
        return imported
    except Refusal as refusal:
        raise LocalError(f"The import stopped: {refusal.message} The same command resumes.", status=1) from refusal
    except OSError as error:
        raise LocalError(
            f"{error.filename or source} cannot be written: {error.strerror}. The import keeps its progress there: make it writable."
        ) from None


def summarize(imported: ImportResult, seconds: float) -> Table:
    """Returns a table of the imported and rejected items of each file."""
    table = Table("file", Column("imported", justify="right"), Column("rejected", justify="right"), title=f"imported in {seconds:.1f} s")
    for file in FILES:
        if each := imported.counts.get(file.name):
            before = "" if file.name in imported.new else " [dim](before)[/]"
            table.add_row(f"{file.name}{before}", f"{each.imported:,}", f"[red]{each.rejected:,}[/]" if each.rejected else "0")
    return table
