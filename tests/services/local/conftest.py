"""Fixtures: the four services in this process, called as the command calls them."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.local import client
from services.local.folder import Folder, Run, RunningProcess
from services.local.keys import Keys
from tests.services.conftest import ServiceHarness, Start
from tests.services.local.importing import Channels


@pytest.fixture
async def services(start: Start) -> dict[str, ServiceHarness]:
    return await start("member", "commerce", "district", "organization")


@pytest.fixture
async def channels(services: dict[str, ServiceHarness], keys: Keys) -> AsyncIterator[Channels]:
    async with client.connect({name: service.address for name, service in services.items()}, keys) as opened:
        yield opened


@pytest.fixture
def folder(services: dict[str, ServiceHarness], keys: Keys, tmp_path: Path) -> Iterator[Folder]:
    """Returns a data folder as `quanyu up` leaves it for the other commands."""
    folder = Folder(tmp_path / "data")
    with folder.claim():
        folder.write(folder.keys, keys)
        processes = [RunningProcess(name, os.getpid(), service.address, 0.0) for name, service in services.items()]
        folder.write(folder.run, Run(os.getpid(), "", "", "", processes, "one"))
        yield folder
