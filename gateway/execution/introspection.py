"""Introspection: executes operations that select only the schema, in a thread because graphql-core takes some 60 ms for one."""

import asyncio
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
from cachetools import LRUCache
from graphql import (
    DocumentNode,
    ExecutionResult,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLSchema,
    InlineFragmentNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    execute,
)

CACHED_RESULTS_MAX = 8
"""This many results are cached."""
CACHED_RESULT_BYTES_MAX = 2_000_000
"""A longer result is not cached."""
SCHEMA_FIELDS = frozenset({"__schema", "__type", "__typename"})


class Introspection:
    """Executes introspection of one schema. Results without variables are cached by document and operation name."""

    def __init__(self, schema: GraphQLSchema, *, suggestions: bool) -> None:
        self.schema, self.suggestions, self.thread = schema, suggestions, ThreadPoolExecutor(1, "introspection")
        self.cache: LRUCache[tuple[str, str | None], bytes] = LRUCache(CACHED_RESULTS_MAX)

    async def execute(self, document: DocumentNode, variables: Mapping[str, Any], name: str | None) -> bytes | ExecutionResult:
        """Returns the body of the response; of an operation with errors, the result of graphql-core."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, self._execute, document, variables, name)

    def _execute(self, document: DocumentNode, variables: Mapping[str, Any], name: str | None) -> bytes | ExecutionResult:
        assert document.loc is not None
        key = (document.loc.source.body, name)
        if not variables and (cached := self.cache.get(key)) is not None:
            return cached
        result = execute(self.schema, document, variable_values=dict(variables), operation_name=name, hide_suggestions=not self.suggestions)
        assert isinstance(result, ExecutionResult), "introspection is synchronous"
        if result.errors:
            return result
        body = orjson.dumps({"data": result.data})
        if not variables and len(body) <= CACHED_RESULT_BYTES_MAX:
            self.cache[key] = body
        return body


def is_introspection(document: DocumentNode, operation: OperationDefinitionNode) -> bool:
    """Returns whether an operation selects only the schema."""
    if operation.operation is not OperationType.QUERY:
        return False
    fragments = {each.name.value: each for each in document.definitions if isinstance(each, FragmentDefinitionNode)}
    return SCHEMA_FIELDS.issuperset(_root_fields(operation.selection_set, fragments))


def _root_fields(selections: SelectionSetNode, fragments: Mapping[str, FragmentDefinitionNode]) -> Iterator[str]:
    """Yields the names of the root fields, those of fragments included."""
    for each in selections.selections:
        if isinstance(each, FieldNode):
            yield each.name.value
        elif isinstance(each, FragmentSpreadNode):
            yield from _root_fields(fragments[each.name.value].selection_set, fragments)
        elif isinstance(each, InlineFragmentNode):
            yield from _root_fields(each.selection_set, fragments)
