"""End-to-end story in the Complete Journey: a part of it is converted and imported, and the story is played on real processes."""

from pathlib import Path

from rich.console import Console

from services.local import client
from services.local.folder import RunningProcess
from services.local.imports import journey, journey_district
from services.local.imports.importer import Import, ImportResult
from services.local.keys import Keys
from services.local.story.command import play_through
from services.local.story.gateway_client import GatewayClient
from services.local.story.timeline import Timeline
from tests.suite import with_suite

HOUSEHOLDS = 20
QUIET = Console(quiet=True)
REFUSED = ("FREQUENCY_CAP", "NO_CONSENT")


async def test_story_with_imported_household_reports_expected_refusals(mongo_uri: str, tmp_path: Path) -> None:
    def convert() -> Path:
        return journey.convert(tmp_path, households=HOUSEHOLDS, console=QUIET)

    async def play(processes: dict[str, RunningProcess], keys: Keys) -> tuple[ImportResult, ImportResult, Timeline]:
        async with client.connect({name: process.address for name, process in processes.items()}, keys) as channels:

            async def settle(name: str) -> None:
                await client.wait_until_settled(channels)

            async def run_import(source: Path) -> ImportResult:
                return await Import(source, channels, on_progress=lambda *progress: None, settle=settle).run()

            source = convert()
            first = await run_import(source)
            await journey_district.create(source, channels)
            # A second conversion on the same day gives the same files.
            again = await run_import(convert())
            story_client = GatewayClient(f"http://{processes['gateway'].address}", keys.tokens, QUIET, verbose=False)
            return first, again, await play_through(story_client, channels, "complete-journey")

    first, again, timeline = await with_suite(mongo_uri, play, gateway=True)
    assert first.counts["consumers"].imported == HOUSEHOLDS and first.counts["orders"].imported > HOUSEHOLDS
    assert sum(counted.rejected for counted in first.counts.values()) == 0
    assert again.earlier
    refused = [f"{entry.action} {entry.reason}" for entry in timeline.entries if entry.refused]
    assert all(any(word in line for line in refused) for word in REFUSED), refused
    cards = [entry.actor for entry in timeline.entries if entry.actor.startswith("Scorecard")]
    assert len(cards) == 3 and any("市中心区" in card for card in cards)
