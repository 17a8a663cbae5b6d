"""Both executors before services in this process."""

from collections.abc import AsyncIterator

import pytest

from tests.gateway.engine.both import Both
from tests.gateway.engine.both import both as open_both


@pytest.fixture
async def both() -> AsyncIterator[Both]:
    async with open_both() as opened:
        yield opened
