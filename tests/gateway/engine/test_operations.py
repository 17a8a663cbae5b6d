"""The front ends' operations say the same through both executors, whatever the services do."""

import random
from collections.abc import Iterator

import pytest
from graphql import parse

from gateway import schema
from gateway.engine.calls import Call, FirstPage
from gateway.engine.collect import Selection
from gateway.engine.engine import Compiled
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


def test_no_operation_of_the_front_ends_asks_once_for_each_item_of_a_list() -> None:
    """What stands below a list is a batch: an edge, or the first page of a `BatchList…` rpc."""
    built, alone = schema.build(), []
    for path in sorted(OPERATIONS.glob("*.graphql")):
        document = parse(path.read_text())
        found = Compiled(built, document, document.definitions[0], suggestions=False)  # type: ignore[arg-type]
        plan = found.plan(dict.fromkeys(found.conditions, True))
        alone += [f"{path.stem}: {where}" for where in _asked_for_each(plan.selection, below_a_list=False, path="")]
    assert alone == []


def _asked_for_each(selection: Selection, *, below_a_list: bool, path: str) -> Iterator[str]:
    for field in selection.fields:
        here = f"{path}.{field.key}"
        if below_a_list and isinstance(field.deferred, Call) and not isinstance(field.deferred, FirstPage):
            yield here
        for below in field.selections.values():
            yield from _asked_for_each(below, below_a_list=below_a_list or "[" in str(field.type), path=here)
