"""What the graph tells of itself: what graphql-core makes of it, counted like anything else, without holding up others."""

import asyncio
from typing import Any

import orjson
import pytest
from graphql import get_introspection_query

from gateway.execution.introspection import CACHED_ANSWERS_MAX
from gateway.limits.document import MESSAGES
from tests.gateway.conftest import Gateway
from tests.gateway.engine.both import BothExecutors
from tests.gateway.engine.conftest import both

__all__ = ["both"]

TYPES = "types { name fields { name args { name } type { name ofType { name } } } }"
DOCUMENTS = {
    "GraphiQL's": get_introspection_query(specified_by_url=True, input_value_deprecation=True),
    "a type": '{ __type(name: "Order") { fields { name } } other: __type(name: "Nothing") { name } __typename }',
    "with fragments": "{ ...a ... { __typename } } fragment a on Query { __schema { queryType { ...b } } } fragment b on __Type { name }",
    "what everybody reads": f"{{ __schema {{ {TYPES} }} }}",
}


def values(answer: Any) -> int:
    """How many there are in an answer."""
    if isinstance(answer, dict):
        return len(answer) + sum(map(values, answer.values()))
    return sum(values(each) if isinstance(each, dict | list) else 1 for each in answer) if isinstance(answer, list) else 0


@pytest.mark.parametrize("document", DOCUMENTS)
async def test_it_is_what_graphql_core_makes_of_it(both: BothExecutors, document: str) -> None:
    for _ in range(2):
        assert await both.compare(DOCUMENTS[document]) is not None
    assert len(both.executor.told.cache) == 1


async def test_variables_are_heeded(both: BothExecutors) -> None:
    for name in ("Order", "Brand", "Order"):
        pair = await both.compare("query ($name: String!) { __type(name: $name) { name } }", {"name": name})
        assert pair is not None
        assert orjson.loads(pair.engine)["data"]["__type"]["name"] == name
    assert not both.executor.told.cache


async def test_others_are_answered_meanwhile(alone: Gateway) -> None:
    told = asyncio.create_task(alone.post({"query": DOCUMENTS["GraphiQL's"]}))
    assert (await alone.post({"query": "{ __typename }"})).status_code == 200
    assert not told.done(), "an answer that takes some 60 ms was made at once"
    assert (await told).status_code == 200


async def test_answers_kept_have_a_bound(alone: Gateway) -> None:
    kept = alone.app.state.executor.told.cache
    texts = [f"{{ a{number}: __typename __schema {{ queryType {{ name }} }} }}" for number in range(CACHED_ANSWERS_MAX + 3)]
    for text in texts:
        assert (await alone.post({"query": text})).status_code == 200
    assert [text for text, _ in kept] == texts[3:]


@pytest.mark.parametrize("document", ["GraphiQL's", "what everybody reads"])
async def test_its_points_are_the_values_of_the_answer(alone: Gateway, document: str) -> None:
    answer = (await alone.post({"query": DOCUMENTS[document], "extensions": {"cost": True}})).json()
    there = values(answer["data"])
    assert abs(answer["extensions"]["cost"]["points"] - there) <= there * 0.3


async def test_too_much_at_once_is_refused(alone: Gateway) -> None:
    text = "{ __schema { " + " ".join(f"a{number}: types {{ fields {{ type {{ fields {{ name }} }} }} }}" for number in range(25)) + " } }"
    response = await alone.post({"query": text})
    assert response.status_code == 400
    assert response.json()["errors"][0]["message"] == MESSAGES["cost"].format(alone.app.state.executor.rule.limits.cost)
