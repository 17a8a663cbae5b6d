"""`quanyu demo` and `quanyu up --demo`: the demo world into the running suite."""

import asyncio
from enum import StrEnum

import click
from rich.console import Console

from services.kit.errors import Refusal
from services.local import client
from services.local.demo import stage, tables
from services.local.errors import LocalError
from services.local.folder import Folder
from services.local.imports import command
from services.local.options import data_option


class Loaded(StrEnum):
    """What became of it, as the command says it."""

    NOW = "The demo world stands."
    RENEWED = "The demo world stood already. What had run out is renewed: its campaign, or the targets of the month."
    BEFORE = "The demo world stood already."


async def load(folder: Folder, console: Console) -> Loaded:
    """Loads the demo world into the suite on `folder`, or renews what time took from one that stands. Going on where it stopped is safe."""
    async with client.channels(folder) as channels:
        try:
            if await stage.is_there(channels):
                return Loaded.RENEWED if await stage.renew(channels) else Loaded.BEFORE
            with folder.loading():
                await command.load(folder, tables.write(folder.path / "demo"), console)
                await stage.stage(channels)
        except Refusal as refusal:
            raise LocalError(f"the demo world was not loaded: {refusal.message} ({refusal.reason})", status=1) from refusal
    return Loaded.NOW


@click.command()
@data_option
def demo(folder: Folder) -> None:
    """Loads the demo world: Sanlitun with 12 invented brands and 300 invented people, 14 months of history ending yesterday.

    Where it stands already, what has run out since (its campaign, targets) is renewed.
    """
    console = Console(stderr=True)
    try:
        console.print(asyncio.run(load(folder, console)))
    except KeyboardInterrupt:
        raise LocalError("interrupted; the same command goes on where it stopped", status=130) from None
