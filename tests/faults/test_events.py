"""The small size of the proof of events, on both drivers; `python -m tests.proofs events` runs the full one."""

from typing import Literal

import pytest

from services.kit.settings import Settings
from tests.faults.events import events_survive_kills


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_every_effect_stands_once_and_in_order_though_everybody_is_killed(
    mongo_uri: str, driver: Literal["motor", "pymongo"]
) -> None:
    await events_survive_kills(Settings(mongo_uri=mongo_uri, mongo_driver=driver), events=60, keys=6, kills=3)
