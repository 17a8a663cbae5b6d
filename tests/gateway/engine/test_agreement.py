"""Both executors answer random operations equally. `python -m tests.proofs engine` runs 24,000."""

import pytest

from tests.gateway.engine.agreement import executors_agree
from tests.gateway.engine.both import BothExecutors


@pytest.mark.parametrize("number", range(4))
async def test_executors_random_operations_answer_equally(both: BothExecutors, number: int) -> None:
    seen = await executors_agree(both, 150, of_hypothesis=125, number=number)
    assert seen["compiled"] > 75
    assert seen["subscriptions"] and seen["unanswered"]
