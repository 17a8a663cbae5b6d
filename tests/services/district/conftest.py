"""Fixture: a running district service with one district."""

import pytest

from tests.services.conftest import ServiceHarness
from tests.services.district.world import World


@pytest.fixture
async def world(district: ServiceHarness) -> World:
    """A district service that has only the district Sanlitun."""
    world = World(district)
    await world.create_district()
    return world
