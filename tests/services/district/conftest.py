"""Fixture: a running district service with one district."""

import pytest

from tests.services.conftest import Running
from tests.services.district.world import World


@pytest.fixture
async def world(district: Running) -> World:
    """A district service that has only the district Sanlitun."""
    world = World(district)
    await world.create_district()
    return world
