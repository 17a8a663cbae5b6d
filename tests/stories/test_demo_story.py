"""End-to-end story in the demo world: real processes, with the front ends' operations through the gateway."""

from pathlib import Path

from rich.console import Console

from services.local import client
from services.local.demo import setup as demo_world
from services.local.demo import tables
from services.local.folder import RunningProcess
from services.local.imports.importer import Import
from services.local.keys import Keys
from services.local.story.command import play_through
from services.local.story.gateway_client import GatewayClient
from services.local.story.timeline import Timeline
from tests.suite import with_suite

REFUSED = ("BUDGET_SPENT", "CONSENT_MISSING", "FREQUENCY_CAP", "NO_CONSENT", "NOT_BOUND", "is held", "OUT_OF_STOCK")


async def test_story_played_twice_reports_expected_refusals(mongo_uri: str, tmp_path: Path) -> None:
    async def play(processes: dict[str, RunningProcess], keys: Keys) -> list[Timeline]:
        async with client.connect({name: process.address for name, process in processes.items()}, keys) as channels:

            async def settle(name: str) -> None:
                await client.wait_until_settled(channels)

            await Import(tables.write(tmp_path), channels, on_progress=lambda *progress: None, settle=settle).run()
            await demo_world.create(channels)
            gateway = f"http://{processes['gateway'].address}"
            return [
                await play_through(GatewayClient(gateway, keys.tokens, Console(quiet=True), verbose=False), channels, "demo")
                for _ in range(2)
            ]

    for timeline in await with_suite(mongo_uri, play, gateway=True):
        refused = [f"{entry.action} {entry.reason}" for entry in timeline.entries if entry.refused]
        assert all(any(word in line for line in refused) for word in REFUSED), refused
        assert sum(entry.actor.startswith("Scorecard") for entry in timeline.entries) == 3
        assert sum(entry.actor == "target of the month" for entry in timeline.entries) == 2
