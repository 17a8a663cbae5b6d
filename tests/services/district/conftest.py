"""A district alone, with the place founded."""

import pytest

from tests.services.conftest import Running
from tests.services.district.world import World


@pytest.fixture
async def world(district: Running) -> World:
    """Sanlitun stands; nothing else does."""
    world = World(district)
    await world.found()
    return world
