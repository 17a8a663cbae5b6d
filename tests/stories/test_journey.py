"""Real data end to end: a part of the Complete Journey is converted, imported and walked in, on real processes."""

from pathlib import Path

from rich.console import Console

from services.local import client
from services.local.folder import Member
from services.local.imports import journey, journey_stage
from services.local.imports.importer import Import, Imported
from services.local.keys import Keys
from services.local.story.command import tell
from services.local.story.stage import Stage
from services.local.story.timeline import Timeline
from tests.suite import with_suite

HOUSEHOLDS = 20
QUIET = Console(quiet=True)
REFUSED = ("FREQUENCY_CAP", "NO_CONSENT")


async def test_a_real_household_walks_through_its_imported_data(mongo_uri: str, tmp_path: Path) -> None:
    def converted() -> Path:
        return journey.convert(tmp_path, households=HOUSEHOLDS, console=QUIET)

    async def play(processes: dict[str, Member], keys: Keys) -> tuple[Imported, Imported, Timeline]:
        async with client.connected({name: member.address for name, member in processes.items()}, keys) as channels:

            async def settle(name: str) -> None:
                await client.settled(channels)

            async def imported(source: Path) -> Imported:
                return await Import(source, channels, seen=lambda *progress: None, settle=settle).run()

            source = converted()
            first = await imported(source)
            await journey_stage.stage(source, channels)
            # Another conversion on the same day gives the same files: nothing in them is new.
            again = await imported(converted())
            stage = Stage(f"http://{processes['gateway'].address}", keys.tokens, QUIET, verbose=False)
            return first, again, await tell(stage, channels, "complete-journey")

    first, again, timeline = await with_suite(mongo_uri, play, gateway=True)
    assert first.counts["consumers"].imported == HOUSEHOLDS and first.counts["orders"].imported > HOUSEHOLDS
    assert sum(counted.rejected for counted in first.counts.values()) == 0
    assert again.earlier
    refused = [f"{moment.what} {moment.why}" for moment in timeline.moments if moment.refused]
    assert all(any(word in line for line in refused) for word in REFUSED), refused
    cards = [moment.who for moment in timeline.moments if moment.who.startswith("scorecard")]
    assert len(cards) == 3 and any("市中心区" in card for card in cards)
