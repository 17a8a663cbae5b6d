"""Both executors answer the front ends' operations equally, with any failures of the services."""

import random

import pytest

from tests.gateway.conftest import OPERATIONS
from tests.gateway.engine.both import BothExecutors
from tests.gateway.engine.documents import variables_of
from tests.gateway.test_operations import EVENT_RPCS

SEEDS = 6


@pytest.mark.parametrize("name", sorted(path.stem for path in OPERATIONS.glob("*.graphql")))
async def test_front_end_operation_answers_equally(both: BothExecutors, name: str) -> None:
    query = (OPERATIONS / f"{name}.graphql").read_text()
    for seed in range(SEEDS):
        both.memory.seed = seed
        both.memory.everything_answers = seed == 0
        pair = await both.compare(query, variables_of(query, random.Random(f"{name} {seed}")))
        assert pair is not None
        assert pair.reason == ""


@pytest.mark.parametrize("name", EVENT_RPCS)
async def test_subscription_event_calls_expected_rpcs(both: BothExecutors, name: str) -> None:
    query, called = (OPERATIONS / f"{name}.graphql").read_text(), set[str]()
    both.memory.everything_answers, both.memory.flaw_rate = True, 0.0
    for both.memory.seed in range(SEEDS):
        pair = await both.compare(query, variables_of(query, random.Random(name)))
        assert pair is not None
        for calls in pair.calls:
            assert len(calls) == len(set(calls)), "each rpc once"
            called |= set(calls)
    assert " ".join(sorted(called)) == EVENT_RPCS[name]
