"""The first walk end to end: real processes, the demo world, everything through the gateway in the front ends' operations."""

from pathlib import Path

from rich.console import Console

from services.local import client
from services.local.demo import stage as demo_stage
from services.local.demo import tables
from services.local.folder import Member
from services.local.imports.importer import Import
from services.local.keys import Keys
from services.local.story.command import tell
from services.local.story.stage import Stage
from services.local.story.timeline import Timeline
from tests.suite import with_suite

REFUSED = ("budget spent", "consent missing", "FREQUENCY_CAP", "NO_CONSENT", "NOT_BOUND", "is held", "OUT_OF_STOCK")


async def test_the_walk_is_true_and_can_be_walked_again(mongo_uri: str, tmp_path: Path) -> None:
    async def play(processes: dict[str, Member], keys: Keys) -> list[Timeline]:
        async with client.connected({name: member.address for name, member in processes.items()}, keys) as channels:

            async def settle(name: str) -> None:
                await client.settled(channels)

            await Import(tables.write(tmp_path), channels, seen=lambda *progress: None, settle=settle).run()
            await demo_stage.stage(channels)
            gateway = f"http://{processes['gateway'].address}"
            return [await tell(Stage(gateway, keys.tokens, Console(quiet=True), verbose=False), channels, "demo") for _ in range(2)]

    for timeline in await with_suite(mongo_uri, play, gateway=True):
        refused = [f"{moment.what} {moment.why}" for moment in timeline.moments if moment.refused]
        assert all(any(word in line for line in refused) for word in REFUSED), refused
        assert sum(moment.who.startswith("scorecard") for moment in timeline.moments) == 3
        assert sum(moment.who.strip() == "target of the month" for moment in timeline.moments) == 2
