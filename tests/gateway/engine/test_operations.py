"""The front ends' operations say the same through both executors, whatever the services do."""

import random

import pytest

from tests.gateway.conftest import OPERATIONS
from tests.gateway.engine.both import Both
from tests.gateway.engine.documents import variables_of
from tests.gateway.test_operations import FOLLOWED

WORLDS = 6


@pytest.mark.parametrize("name", sorted(path.stem for path in OPERATIONS.glob("*.graphql")))
async def test_an_operation_of_the_front_ends(both: Both, name: str) -> None:
    query = (OPERATIONS / f"{name}.graphql").read_text()
    for seed in range(WORLDS):
        both.memory.seed = seed
        both.memory.everything_answers = seed == 0
        pair = await both.same(query, variables_of(query, random.Random(f"{name} {seed}")))
        assert pair is not None
        assert pair.reason == ""


@pytest.mark.parametrize("name", FOLLOWED)
async def test_an_event_takes_these_rpcs(both: Both, name: str) -> None:
    query, taken = (OPERATIONS / f"{name}.graphql").read_text(), set[str]()
    both.memory.everything_answers, both.memory.flaws = True, 0.0
    for both.memory.seed in range(WORLDS):
        pair = await both.same(query, variables_of(query, random.Random(name)))
        assert pair is not None
        for calls in pair.calls:
            assert len(calls) == len(set(calls)), "each once"
            taken |= set(calls)
    assert " ".join(sorted(taken)) == FOLLOWED[name]
