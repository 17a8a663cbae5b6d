"""`quanyu demo` and `quanyu up --demo`: the demo world into the running suite."""

import asyncio

import click
from rich.console import Console

from services.kit.errors import Refusal
from services.local import client
from services.local.demo import stage, tables
from services.local.errors import LocalError
from services.local.folder import Folder
from services.local.imports import command
from services.local.options import data_option


async def load(folder: Folder, console: Console) -> bool:
    """Loads the demo world into the suite on `folder`, unless it stands there; whether it was loaded. Going on where it stopped is safe."""
    async with client.channels(folder) as channels:
        if await stage.is_there(channels):
            return False
        source = tables.write(folder.path / "demo")
        try:
            await command.load(folder, source, console)
            await stage.stage(channels)
        except Refusal as refusal:
            raise LocalError(f"the demo world was not loaded: {refusal.message} ({refusal.reason})", status=1) from refusal
    return True


@click.command()
@data_option
def demo(folder: Folder) -> None:
    """Loads the demo world: Sanlitun with 12 invented brands and 300 invented people, 14 months of history ending yesterday."""
    console = Console(stderr=True)
    loaded = asyncio.run(load(folder, console))
    console.print("the demo world stands" if loaded else "the demo world stood already")
