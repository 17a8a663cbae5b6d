"""Pages below a list: the first ones of all its items are one call, through both executors."""

from collections.abc import Iterator

import pytest

from gateway.graph import schema
from gateway.schema.rpc_fields import CallField
from gateway.schema.types import NODES
from tests.gateway.engine.both import Both


def pages() -> Iterator[tuple[str, str, CallField]]:
    """The paginated edges of the graph: type, field and declaration."""
    for name, type_ in schema.build()._schema.type_map.items():
        for field_name, field in getattr(type_, "fields", {}).items():
            definition = field.extensions.get("strawberry-definition")
            if isinstance(definition, CallField) and definition.paged and definition.by:
                yield name, field_name, definition


PAGES = {f"{type_}.{field}": definition for type_, field, definition in pages()}
PREFIXES = {node.name: prefix for prefix, node in NODES.items()}


@pytest.mark.parametrize("edge", sorted(edge for edge, page in PAGES.items() if page.first and edge.partition(".")[0] in PREFIXES))
async def test_the_first_pages_below_a_list_are_one_call(both: Both, edge: str) -> None:
    both.memory.everything_answers, both.memory.flaws = True, 0.0
    type_, _, field = edge.partition(".")
    ids = [f"{PREFIXES[type_]}{number}" for number in range(6)]
    query = "query ($ids: [ID!]!) { nodes(ids: $ids) { ... on %s { %s(first: 2) { nodes { __typename } pageInfo { endCursor } } } } }"
    pair = await both.same(query % (type_, field), {"ids": ids})
    assert pair is not None
    first = PAGES[edge].first
    assert first is not None
    for calls in pair.calls:
        assert calls.count(first.rpc.method.name) == 1
        assert PAGES[edge].rpc.method.name not in calls


async def test_pages_of_different_arguments_are_different_calls(both: Both) -> None:
    both.memory.everything_answers, both.memory.flaws = True, 0.0
    query = """query ($ids: [ID!]!) { nodes(ids: $ids) { ... on Store {
        one: tasks(first: 2, state: OPEN) { nodes { id } } same: tasks(first: 2, state: OPEN) { nodes { id } }
        other: tasks(first: 2, state: DONE) { nodes { id } } all: tasks(first: 2) { nodes { id } } more: tasks(first: 3) { nodes { id } }
        further: tasks(first: 2, state: OPEN, after: "x") { nodes { id } }
    } } }"""
    pair = await both.same(query, {"ids": ["str_0", "str_1", "str_2"]})
    assert pair is not None
    for calls in pair.calls:
        assert (calls.count("BatchListTasks"), calls.count("ListTasks")) == (4, 3)


def test_every_page_below_something_has_its_batch() -> None:
    assert [edge for edge, page in PAGES.items() if page.first is None] == []


async def test_what_is_keyed_by_two_ids_is_one_call_as_well(both: Both) -> None:
    both.memory.everything_answers, both.memory.flaws = True, 0.0
    query = """query ($ids: [ID!]!) { nodes(ids: $ids) { ... on Consumer { relations { nodes {
        id transitions(first: 2) { nodes { id } } interactions(first: 2) { nodes { id } }
    } } } } }"""
    pair = await both.same(query, {"ids": ["con_0", "con_1", "con_2"]})
    assert pair is not None
    for calls in pair.calls:
        asked = [call for call in calls if "Transitions" in call or "Interactions" in call]
        assert asked == ["BatchListInteractions", "BatchListTransitions"]


async def test_a_search_below_a_list_takes_its_arguments_along(both: Both) -> None:
    both.memory.everything_answers, both.memory.flaws = True, 0.0
    query = """query ($ids: [ID!]!, $size: String!) { nodes(ids: $ids) { ... on Brand {
        shirts: offers(text: "shirt", attributes: [{name: "size", value: $size}, {name: "colour", value: "white"}]) { nodes { id } }
        alike: offers(text: "shirt", attributes: [{name: "colour", value: "white"}, {name: "size", value: "40"}]) { nodes { id } }
        more: offers(text: "shirt", attributes: [{name: "size", value: "41"}]) { nodes { id } }
    } } }"""
    pair = await both.same(query, {"ids": ["brd_0", "brd_1", "brd_2"], "size": "40"})
    assert pair is not None
    for calls in pair.calls:
        assert calls.count("BatchListOffers") == 2
        assert "SearchOffers" not in calls
