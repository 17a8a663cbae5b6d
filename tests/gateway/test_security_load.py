"""Overload. `python -m tests.proofs gateway_load` does a minute of it."""

import pytest

from tests.proofs.gateway_load import overload_is_survived


@pytest.mark.alone
async def test_four_times_what_it_bears_is_survived() -> None:
    await overload_is_survived(seconds=3.0)
