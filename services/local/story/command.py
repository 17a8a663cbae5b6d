"""`quanyu story`: the command that plays the story on the running suite."""

import asyncio

import click
from rich.console import Console

from services.kit.errors import Refusal
from services.local import client
from services.local.errors import LocalError
from services.local.folder import Folder
from services.local.keys import Keys
from services.local.options import data_option
from services.local.story import chapters, demo_setup, journey_setup
from services.local.story.gateway_client import GatewayClient, StoryError
from services.local.story.setup import Channels
from services.local.story.story import Story
from services.local.story.timeline import Timeline

WORLDS = {"demo": demo_setup.prepare, "complete-journey": journey_setup.prepare}


@click.command()
@click.option("--world", type=click.Choice(list(WORLDS)), default="demo", show_default=True, help="The data set to play the story on.")
@click.option("--verbose", is_flag=True, help="Print each operation, its variables and its answer.")
@data_option
def story(folder: Folder, world: str, verbose: bool) -> None:
    """Plays a story through the gateway and prints it as a timeline: who acts, which mechanism decides, what is refused and why.

    The story can be played at any hour and any number of times. In the demo world each run creates a new consumer. The clock of the
    story shows 21:40 in Shanghai at the urgent need.
    """
    asyncio.run(play(folder, world, Console(highlight=False), verbose=verbose))


async def play(folder: Folder, world: str, console: Console, *, verbose: bool = False) -> Timeline:
    """Plays the story on the suite of `folder` and returns its timeline; raises `LocalError` at the first unexpected answer."""
    run, keys = folder.running(), folder.read_keys(Keys)
    if world == "demo" and folder.is_loading():
        raise LocalError("The demo world is still being loaded. Play the story when that is done.", status=1)
    async with client.open_channels(folder) as channels:
        return await play_through(GatewayClient(run.gateway, keys.tokens, console, verbose=verbose), channels, world)


async def play_through(gateway: GatewayClient, channels: Channels, world: str) -> Timeline:
    """Prepares the setup of `world`, plays the chapters and closes `gateway`; raises as `play` does."""
    timeline = Timeline(gateway.console)
    try:
        setup = await WORLDS[world](gateway, channels)
        await client.wait_until_settled(channels)
        timeline.note(
            "A story in six chapters, played through the gateway with the operations of the front ends.\n"
            f"The clock shows Shanghai time on {gateway.day}. A ✗ marks a refusal."
        )
        await chapters.play_chapters(Story(gateway, setup, timeline))
    except Refusal as refusal:
        raise StoryError(f"{refusal.message} ({refusal.reason})") from refusal
    finally:
        await gateway.close()
    refused = sum(entry.refused for entry in timeline.entries)
    timeline.note(f"\nThe end. Every step was checked, and all {refused} refusals were expected.")
    if not gateway.verbose:
        timeline.note("To see each operation and its answer: quanyu story --verbose")
    return timeline
