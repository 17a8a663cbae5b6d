"""Connections below a list: the first pages of all its items are one call, with both executors."""

from collections.abc import Iterator

import pytest

from gateway.graph import schema
from gateway.schema.rpc_fields import RpcField
from gateway.schema.types import NODE_TYPES
from tests.gateway.engine.both import BothExecutors


def connections() -> Iterator[tuple[str, str, RpcField]]:
    """Yields the connections of the graph's types: type, field and declaration."""
    for name, type_ in schema.build()._schema.type_map.items():
        for field_name, field in getattr(type_, "fields", {}).items():
            definition = field.extensions.get("strawberry-definition")
            if isinstance(definition, RpcField) and definition.is_paginated and definition.by:
                yield name, field_name, definition


CONNECTIONS = {f"{type_}.{field}": definition for type_, field, definition in connections()}
PREFIXES = {node.name: prefix for prefix, node in NODE_TYPES.items()}


@pytest.mark.parametrize("name", sorted(name for name, field in CONNECTIONS.items() if field.loader and name.partition(".")[0] in PREFIXES))
async def test_first_pages_below_list_are_one_call(both: BothExecutors, name: str) -> None:
    both.memory.everything_answers, both.memory.flaw_rate = True, 0.0
    type_, _, field = name.partition(".")
    ids = [f"{PREFIXES[type_]}{number}" for number in range(6)]
    query = "query ($ids: [ID!]!) { nodes(ids: $ids) { ... on %s { %s(first: 2) { nodes { __typename } pageInfo { endCursor } } } } }"
    pair = await both.compare(query % (type_, field), {"ids": ids})
    assert pair is not None
    loader = CONNECTIONS[name].loader
    assert loader is not None
    for calls in pair.calls:
        assert calls.count(loader.rpc.method.name) == 1
        assert CONNECTIONS[name].rpc.method.name not in calls


async def test_connections_with_different_arguments_are_different_calls(both: BothExecutors) -> None:
    both.memory.everything_answers, both.memory.flaw_rate = True, 0.0
    query = """query ($ids: [ID!]!) { nodes(ids: $ids) { ... on Store {
        one: tasks(first: 2, state: OPEN) { nodes { id } } same: tasks(first: 2, state: OPEN) { nodes { id } }
        other: tasks(first: 2, state: DONE) { nodes { id } } all: tasks(first: 2) { nodes { id } } more: tasks(first: 3) { nodes { id } }
        further: tasks(first: 2, state: OPEN, after: "x") { nodes { id } }
    } } }"""
    pair = await both.compare(query, {"ids": ["str_0", "str_1", "str_2"]})
    assert pair is not None
    for calls in pair.calls:
        assert (calls.count("BatchListTasks"), calls.count("ListTasks")) == (4, 3)


def test_connection_of_type_has_batch_loader() -> None:
    assert [name for name, field in CONNECTIONS.items() if field.loader is None] == []


async def test_connection_keyed_by_two_ids_is_one_call(both: BothExecutors) -> None:
    both.memory.everything_answers, both.memory.flaw_rate = True, 0.0
    query = """query ($ids: [ID!]!) { nodes(ids: $ids) { ... on Consumer { relations { nodes {
        id transitions(first: 2) { nodes { id } } interactions(first: 2) { nodes { id } }
    } } } } }"""
    pair = await both.compare(query, {"ids": ["con_0", "con_1", "con_2"]})
    assert pair is not None
    for calls in pair.calls:
        listed = [call for call in calls if "Transitions" in call or "Interactions" in call]
        assert listed == ["BatchListInteractions", "BatchListTransitions"]


async def test_search_below_list_passes_its_arguments(both: BothExecutors) -> None:
    both.memory.everything_answers, both.memory.flaw_rate = True, 0.0
    query = """query ($ids: [ID!]!, $size: String!) { nodes(ids: $ids) { ... on Brand {
        shirts: offers(text: "shirt", attributes: [{name: "size", value: $size}, {name: "colour", value: "white"}]) { nodes { id } }
        alike: offers(text: "shirt", attributes: [{name: "colour", value: "white"}, {name: "size", value: "40"}]) { nodes { id } }
        more: offers(text: "shirt", attributes: [{name: "size", value: "41"}]) { nodes { id } }
    } } }"""
    pair = await both.compare(query, {"ids": ["brd_0", "brd_1", "brd_2"], "size": "40"})
    assert pair is not None
    for calls in pair.calls:
        assert calls.count("BatchListOffers") == 2
        assert "SearchOffers" not in calls
