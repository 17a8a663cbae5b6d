"""What stands below a list is asked for all of its items at once, through both executors. Pages: `test_first_pages.py`."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from gateway.engine.plan import kind_of
from gateway.engine.rpc_steps import Call, Mutation
from gateway.graph import schema
from gateway.schema.references import EdgeField
from gateway.schema.subscription_fields import FollowField
from gateway.schema.types import NODES
from tests.gateway.engine.both import Both

ROOTS = {"Query", "Mutation", "Subscription"}
"""They stand below nothing; every other type may be that of a list's items, those of `nodes` if of no other."""
ARGUMENTS = {"scorecard": '(fromDay: "2024-05-01", untilDay: "2024-05-31")'}
PREFIXES = {node.name: prefix for prefix, node in NODES.items()}


def declared() -> Iterator[tuple[str, str, Any]]:
    """The declared fields of the graph: type, field and declaration."""
    for name, type_ in schema.build()._schema.type_map.items():
        for field_name, field in getattr(type_, "fields", {}).items():
            yield name, field_name, (field.extensions or {}).get("strawberry-definition")


def test_only_fields_of_a_root_ask_an_rpc_of_their_own() -> None:
    """All others are edges, first pages of a `BatchList…` rpc, or there already."""
    alone = [
        (type_, field)
        for type_, field, definition in declared()
        if isinstance(definition, FollowField) or kind_of(definition) in (Call, Mutation)
    ]
    assert {type_ for type_, _ in alone} == ROOTS, [f"{type_}.{field}" for type_, field in alone if type_ not in ROOTS]


EDGES = {
    f"{type_}.{field}": definition.through.rpc.method.name
    for type_, field, definition in declared()
    if type_ in PREFIXES and isinstance(definition, EdgeField) and definition.by == "id"
}
"""Those that lead from a thing to what only it has."""


@pytest.mark.parametrize("edge", sorted(EDGES))
async def test_what_belongs_to_each_of_a_list_is_one_call(both: Both, edge: str) -> None:
    both.memory.everything_answers, both.memory.flaws = True, 0.0
    type_, _, field = edge.partition(".")
    query = "query ($ids: [ID!]!) { nodes(ids: $ids) { ... on %s { %s%s { __typename } } } }"
    pair = await both.same(query % (type_, field, ARGUMENTS.get(field, "")), {"ids": [f"{PREFIXES[type_]}{number}" for number in range(6)]})
    assert pair is not None
    assert pair.reason == ""
    assert b'"errors"' not in pair.engine
    for calls in pair.calls:
        assert calls.count(EDGES[edge]) == 1
        assert len(calls) == 2, "the things, and what belongs to them"


async def test_edges_of_different_arguments_are_different_calls(both: Both) -> None:
    both.memory.everything_answers, both.memory.flaws = True, 0.0
    query = """query ($ids: [ID!]!, $from: String!) { nodes(ids: $ids) { ... on Store {
        may: scorecard(fromDay: "2024-05-01", untilDay: "2024-05-31") { fromDay total { orders } }
        same: scorecard(untilDay: "2024-05-31", fromDay: $from) { untilDay total { orders } }
        dollars: scorecard(fromDay: $from, untilDay: "2024-05-31", currency: "USD") { total { orders } }
    } ... on OrgUnit { scorecard(fromDay: $from, untilDay: "2024-05-31") { total { orders } } } } }"""
    pair = await both.same(query, {"ids": ["str_0", "str_1", "str_2", "unt_0", "unt_1"], "from": "2024-05-01"})
    assert pair is not None
    for calls in pair.calls:
        assert calls.count("BatchGetScorecards") == 3, "of stores, of stores in dollars, of units"


async def test_arguments_that_cannot_be_cost_their_own_fields(both: Both) -> None:
    both.memory.everything_answers, both.memory.flaws = True, 0.0
    query = """query ($ids: [ID!]!, $day: String!) { nodes(ids: $ids) { ... on Store {
        id scorecard(fromDay: $day, untilDay: "2024-05-31") { fromDay }
    } } }"""
    pair = await both.same(query, {"ids": ["str_0", "str_1"], "day": "\ud800"})
    assert pair is not None
    answer = orjson.loads(pair.engine)
    shown = [index for index, node in enumerate(answer["data"]["nodes"]) if node is not None]
    assert shown
    assert [error["path"] for error in answer["errors"]] == [["nodes", index, "scorecard"] for index in shown]
    assert {error["extensions"]["code"] for error in answer["errors"]} == {"INVALID_FIELD"}
