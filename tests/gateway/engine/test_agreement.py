"""Random operations say the same through both executors. `python -m tests.proofs engine` does 24,000."""

import pytest

from tests.gateway.engine.agreement import executors_agree
from tests.gateway.engine.both import Both


@pytest.mark.parametrize("number", range(4))
async def test_both_executors_say_the_same(both: Both, number: int) -> None:
    seen = await executors_agree(both, 150, of_hypothesis=125, number=number)
    assert seen["compiled"] > 75
    assert seen["subscriptions"] and seen["unanswered"]
