"""Fixture of the engine tests: both executors with simulated services."""

from collections.abc import AsyncIterator

import pytest

from tests.gateway.engine.both import BothExecutors, open_executors


@pytest.fixture
async def both() -> AsyncIterator[BothExecutors]:
    async with open_executors() as opened:
        yield opened
