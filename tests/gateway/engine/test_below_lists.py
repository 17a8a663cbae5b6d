"""References below a list are one call for all of its items, with both executors. `test_first_pages.py` covers connections."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from gateway.engine.plan import deferred_class
from gateway.engine.rpc_steps import DeferredMutation, DeferredRpc
from gateway.graph import schema
from gateway.schema.references import ReferenceField
from gateway.schema.subscription_fields import SubscriptionField
from gateway.schema.types import NODE_TYPES
from tests.gateway.engine.both import BothExecutors

ROOTS = {"Query", "Mutation", "Subscription"}
"""Root types are never items of a list; every other type may be."""
ARGUMENTS = {"scorecard": '(fromDay: "2024-05-01", untilDay: "2024-05-31")'}
PREFIXES = {node.name: prefix for prefix, node in NODE_TYPES.items()}


def declarations() -> Iterator[tuple[str, str, Any]]:
    """Yields the declared fields of the graph: type, field and declaration."""
    for name, type_ in schema.build()._schema.type_map.items():
        for field_name, field in getattr(type_, "fields", {}).items():
            yield name, field_name, (field.extensions or {}).get("strawberry-definition")


def test_own_rpc_only_for_root_fields() -> None:
    """All other fields are references, connections with a batch loader, or read from the source message."""
    alone = [
        (type_, field)
        for type_, field, definition in declarations()
        if isinstance(definition, SubscriptionField) or deferred_class(definition) in (DeferredRpc, DeferredMutation)
    ]
    assert {type_ for type_, _ in alone} == ROOTS, [f"{type_}.{field}" for type_, field in alone if type_ not in ROOTS]


REFERENCES = {
    f"{type_}.{field}": definition.loader.rpc.method.name
    for type_, field, definition in declarations()
    if type_ in PREFIXES and isinstance(definition, ReferenceField) and definition.by == "id"
}
"""The rpcs of the references by the id of the object itself."""


@pytest.mark.parametrize("reference", sorted(REFERENCES))
async def test_reference_below_list_is_one_call(both: BothExecutors, reference: str) -> None:
    both.memory.everything_answers, both.memory.flaw_rate = True, 0.0
    type_, _, field = reference.partition(".")
    query = "query ($ids: [ID!]!) { nodes(ids: $ids) { ... on %s { %s%s { __typename } } } }"
    pair = await both.compare(
        query % (type_, field, ARGUMENTS.get(field, "")), {"ids": [f"{PREFIXES[type_]}{number}" for number in range(6)]}
    )
    assert pair is not None
    assert pair.reason == ""
    assert b'"errors"' not in pair.engine
    for calls in pair.calls:
        assert calls.count(REFERENCES[reference]) == 1
        assert len(calls) == 2, "one call for the objects and one for the references"


async def test_references_with_different_arguments_are_different_calls(both: BothExecutors) -> None:
    both.memory.everything_answers, both.memory.flaw_rate = True, 0.0
    query = """query ($ids: [ID!]!, $from: String!) { nodes(ids: $ids) { ... on Store {
        may: scorecard(fromDay: "2024-05-01", untilDay: "2024-05-31") { fromDay total { orders } }
        same: scorecard(untilDay: "2024-05-31", fromDay: $from) { untilDay total { orders } }
        dollars: scorecard(fromDay: $from, untilDay: "2024-05-31", currency: "USD") { total { orders } }
    } ... on OrgUnit { scorecard(fromDay: $from, untilDay: "2024-05-31") { total { orders } } } } }"""
    pair = await both.compare(query, {"ids": ["str_0", "str_1", "str_2", "unt_0", "unt_1"], "from": "2024-05-01"})
    assert pair is not None
    for calls in pair.calls:
        assert calls.count("BatchGetScorecards") == 3, "for stores, stores in dollars, and org units"


async def test_invalid_argument_fails_only_its_own_fields(both: BothExecutors) -> None:
    both.memory.everything_answers, both.memory.flaw_rate = True, 0.0
    query = """query ($ids: [ID!]!, $day: String!) { nodes(ids: $ids) { ... on Store {
        id scorecard(fromDay: $day, untilDay: "2024-05-31") { fromDay }
    } } }"""
    pair = await both.compare(query, {"ids": ["str_0", "str_1"], "day": "\ud800"})
    assert pair is not None
    answer = orjson.loads(pair.engine)
    shown = [index for index, node in enumerate(answer["data"]["nodes"]) if node is not None]
    assert shown
    assert [error["path"] for error in answer["errors"]] == [["nodes", index, "scorecard"] for index in shown]
    assert {error["extensions"]["code"] for error in answer["errors"]} == {"INVALID_FIELD"}
