"""`quanyu story`: plays the walk on the running suite."""

import asyncio

import click
from rich.console import Console

from services.kit.errors import Refusal
from services.local import client
from services.local.errors import LocalError
from services.local.folder import Folder
from services.local.keys import Keys
from services.local.options import data_option
from services.local.story import chapters, demo_cast, journey_cast
from services.local.story.cast import Channels
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
    run, keys = folder.running(), folder.read_keys(Keys)
    if world == "demo" and folder.is_loading():
        raise LocalError("the demo world is still being loaded; play the story when that is done", status=1)
    async with client.channels(folder) as channels:
        return await tell(Stage(run.gateway, keys.tokens, console, verbose=verbose), channels, world)


async def tell(stage: Stage, channels: Channels, world: str) -> Timeline:
    """Prepares the world's cast and plays the walk with it; the stage is closed behind it."""
    timeline = Timeline(stage.console)
    try:
        cast = await WORLDS[world](stage, channels)
        await client.settled(channels)
        timeline.remark(
            f"The first walk, asked through the gateway as front ends ask. The clock is Shanghai's, {stage.day}; ✗ is a refusal."
        )
        await chapters.play(Walk(stage, cast, timeline))
    except Refusal as refusal:
        raise Surprise(f"{refusal.message} ({refusal.reason})") from refusal
    finally:
        await stage.close()
    refused = sum(moment.refused for moment in timeline.moments)
    timeline.remark(
        f"\nThe end. Every step was checked, {refused} refusals among them." + ("" if stage.verbose else " --verbose shows each operation.")
    )
    return timeline
