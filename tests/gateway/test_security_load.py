"""Overload, at small size. `python -m tests.proofs gateway_load` lasts a minute."""

import pytest

from tests.proofs.gateway_load import assert_overload_is_survived


@pytest.mark.alone
async def test_overload_is_shed_and_survived() -> None:
    await assert_overload_is_survived(seconds=3.0)
