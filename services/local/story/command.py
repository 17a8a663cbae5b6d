"""`quanyu story`: plays the walk on the running suite."""

import asyncio

import click
from rich.console import Console

from services.kit.errors import Refusal
from services.local import client
from services.local.folder import Folder
from services.local.keys import Keys
from services.local.options import data_option
from services.local.story import demo_cast, journey_cast
from services.local.story.stage import Stage, Surprise
from services.local.story.timeline import Timeline
from services.local.story.walk import Walk

WORLDS = {"demo": demo_cast.cast, "complete-journey": journey_cast.cast}


@click.command()
@click.option("--world", type=click.Choice(list(WORLDS)), default="demo", show_default=True, help="Where it is played.")
@click.option("--verbose", is_flag=True, help="Show each operation, its variables and its answer.")
@data_option
def story(folder: Folder, world: str, verbose: bool) -> None:
    """Plays the first walk through the gateway and tells it as one timeline: who, what, why, refusals included.

    It can be played again at any hour: in the demo world with a fresh consumer each time, on a clock that shows 21:40 in Shanghai when
    the shirt is stained.
    """
    asyncio.run(play(folder, world, Console(highlight=False), verbose=verbose))


async def play(folder: Folder, world: str, console: Console, *, verbose: bool = False) -> Timeline:
    """The timeline of one walk on the suite that runs on `folder`; `LocalError` where it goes another way than it is told."""
    run = folder.running()
    timeline = Timeline(console)
    stage = Stage(run.gateway, folder.read_keys(Keys).tokens, console, verbose=verbose)
    try:
        async with client.channels(folder) as channels:
            try:
                cast = await WORLDS[world](stage, channels)
                await client.settled(channels)
            except Refusal as refusal:
                raise Surprise(f"{refusal.message} ({refusal.reason})") from refusal
        await Walk(stage, cast, timeline).play()
    finally:
        await stage.close()
    return timeline
