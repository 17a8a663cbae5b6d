"""Introspection: results equal to graphql-core's, their cost, their cache, and no delay for other requests."""

import asyncio
from typing import Any

import orjson
import pytest
from graphql import get_introspection_query

from gateway.execution.introspection import CACHED_RESULTS_MAX
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
    "all types": f"{{ __schema {{ {TYPES} }} }}",
}


def count_values(answer: Any) -> int:
    """Returns the number of values in a result."""
    if isinstance(answer, dict):
        return len(answer) + sum(map(count_values, answer.values()))
    return sum(count_values(each) if isinstance(each, dict | list) else 1 for each in answer) if isinstance(answer, list) else 0


@pytest.mark.parametrize("document", DOCUMENTS)
async def test_introspection_equals_graphql_core(both: BothExecutors, document: str) -> None:
    for _ in range(2):
        assert await both.compare(DOCUMENTS[document]) is not None
    assert len(both.executor.introspection.cache) == 1


async def test_introspection_with_variables_is_not_cached(both: BothExecutors) -> None:
    for name in ("Order", "Brand", "Order"):
        pair = await both.compare("query ($name: String!) { __type(name: $name) { name } }", {"name": name})
        assert pair is not None
        assert orjson.loads(pair.engine)["data"]["__type"]["name"] == name
    assert not both.executor.introspection.cache


async def test_introspection_does_not_block_other_requests(alone: Gateway) -> None:
    introspection = asyncio.create_task(alone.post({"query": DOCUMENTS["GraphiQL's"]}))
    assert (await alone.post({"query": "{ __typename }"})).status_code == 200
    assert not introspection.done(), "the thread of introspection, which takes some 60 ms, runs meanwhile"
    assert (await introspection).status_code == 200


async def test_introspection_cache_is_bounded(alone: Gateway) -> None:
    cache = alone.app.state.executor.introspection.cache
    texts = [f"{{ a{number}: __typename __schema {{ queryType {{ name }} }} }}" for number in range(CACHED_RESULTS_MAX + 3)]
    for text in texts:
        assert (await alone.post({"query": text})).status_code == 200
    assert [text for text, _ in cache] == texts[3:]


@pytest.mark.parametrize("document", ["GraphiQL's", "all types"])
async def test_introspection_cost_matches_its_values(alone: Gateway, document: str) -> None:
    answer = (await alone.post({"query": DOCUMENTS[document], "extensions": {"cost": True}})).json()
    values = count_values(answer["data"])
    assert abs(answer["extensions"]["cost"]["points"] - values) <= values * 0.3


async def test_expensive_introspection_is_refused(alone: Gateway) -> None:
    text = "{ __schema { " + " ".join(f"a{number}: types {{ fields {{ type {{ fields {{ name }} }} }} }}" for number in range(25)) + " } }"
    response = await alone.post({"query": text})
    assert response.status_code == 400
    assert response.json()["errors"][0]["message"] == MESSAGES["cost"].format(alone.app.state.executor.rule.limits.cost)
