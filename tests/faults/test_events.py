"""The fault test of events at small size with both drivers; `python -m tests.proofs events` runs the full size."""

from typing import Literal

import pytest

from services.kit.settings import Settings
from tests.faults.events import events_survive_kills


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_events_survive_kills_of_all_processes(mongo_uri: str, driver: Literal["motor", "pymongo"]) -> None:
    await events_survive_kills(Settings(mongo_uri=mongo_uri, mongo_driver=driver), events=60, keys=6, kills=3)
