"""Introspection: answers operations that select nothing but the schema, in a thread because graphql-core takes some 60 ms for one."""

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

CACHED_ANSWERS_MAX = 8
CACHED_ANSWER_BYTES_MAX = 2_000_000
"""A longer answer is not cached."""
OF_SCHEMA = frozenset({"__schema", "__type", "__typename"})


class Introspection:
    """The answers about one schema. Answers without variables are cached by document and operation name."""

    def __init__(self, schema: GraphQLSchema, *, suggestions: bool) -> None:
        self.schema, self.suggestions, self.thread = schema, suggestions, ThreadPoolExecutor(1, "introspection")
        self.cache: LRUCache[tuple[str, str | None], bytes] = LRUCache(CACHED_ANSWERS_MAX)

    async def answer(self, document: DocumentNode, variables: Mapping[str, Any], name: str | None) -> bytes | ExecutionResult:
        """Returns the body of the answer; of an operation with errors, the result of graphql-core."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, self._execute, document, variables, name)

    def _execute(self, document: DocumentNode, variables: Mapping[str, Any], name: str | None) -> bytes | ExecutionResult:
        assert document.loc is not None
        key = (document.loc.source.body, name)
        if not variables and (cached := self.cache.get(key)) is not None:
            return cached
        hidden = not self.suggestions
        result = execute(self.schema, document, variable_values=dict(variables), operation_name=name, hide_suggestions=hidden)
        assert isinstance(result, ExecutionResult), "introspection awaits nothing"
        if result.errors:
            return result
        body = orjson.dumps({"data": result.data})
        if not variables and len(body) <= CACHED_ANSWER_BYTES_MAX:
            self.cache[key] = body
        return body


def about_schema(document: DocumentNode, operation: OperationDefinitionNode) -> bool:
    """Returns whether an operation selects nothing but the schema."""
    if operation.operation is not OperationType.QUERY:
        return False
    fragments = {each.name.value: each for each in document.definitions if isinstance(each, FragmentDefinitionNode)}
    return OF_SCHEMA.issuperset(_roots(operation.selection_set, fragments))


def _roots(selections: SelectionSetNode, fragments: Mapping[str, FragmentDefinitionNode]) -> Iterator[str]:
    """Yields the names of the root fields, those of fragments included."""
    for each in selections.selections:
        if isinstance(each, FieldNode):
            yield each.name.value
        elif isinstance(each, FragmentSpreadNode):
            yield from _roots(fragments[each.name.value].selection_set, fragments)
        elif isinstance(each, InlineFragmentNode):
            yield from _roots(each.selection_set, fragments)
