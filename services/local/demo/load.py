"""`quanyu demo`: the command that loads the demo world into the running suite, also used by `quanyu up --demo`."""

import asyncio
from enum import StrEnum

import click
from rich.console import Console

from services.kit.errors import Refusal
from services.local import client
from services.local.demo import setup, tables
from services.local.errors import LocalError
from services.local.folder import Folder
from services.local.imports import command
from services.local.options import data_option


class LoadResult(StrEnum):
    """The result of loading, as the command prints it."""

    LOADED = "The demo world is loaded."
    RENEWED = "The demo world was already loaded. Its campaign or the targets of the month had expired and are renewed."
    UNCHANGED = "The demo world was already loaded."


async def load(folder: Folder, console: Console) -> LoadResult:
    """Loads the demo world into the suite of `folder`, or renews what has expired. An interrupted load resumes; raises `LocalError`."""
    async with client.open_channels(folder) as channels:
        try:
            if await setup.is_loaded(channels):
                return LoadResult.RENEWED if await setup.renew(channels) else LoadResult.UNCHANGED
            with folder.loading():
                await command.load(folder, tables.write(folder.path / "demo"), console)
                await setup.create(channels)
        except Refusal as refusal:
            raise LocalError(
                f"The demo world was not loaded: {refusal.message} ({refusal.reason}). The same command resumes.", status=1
            ) from refusal
    return LoadResult.LOADED


@click.command()
@data_option
def demo(folder: Folder) -> None:
    """Loads the demo world: Sanlitun with 12 invented brands and 300 invented people, 14 months of history ending yesterday.

    If it is already loaded, its campaign and targets are renewed once they have expired.
    """
    console = Console(stderr=True)
    try:
        console.print(asyncio.run(load(folder, console)))
    except KeyboardInterrupt:
        raise LocalError("Interrupted. The same command resumes where it stopped.", status=130) from None
