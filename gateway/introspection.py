"""What the graph tells of itself: the same to everybody, so that it is made once, and in a thread, since it takes graphql-core long."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
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

KEPT_MAX = 8
KEPT_BYTES_MAX = 2_000_000
"""Of one answer that is kept."""
OF_SCHEMA = frozenset({"__schema", "__type", "__typename"})


class Introspection:
    """The answers of one schema. Those without variables are kept, by document and operation, the latest used."""

    def __init__(self, schema: GraphQLSchema, *, suggestions: bool) -> None:
        self.schema, self.suggestions, self.thread = schema, suggestions, ThreadPoolExecutor(1, "introspection")
        self.kept: OrderedDict[tuple[str, str | None], bytes] = OrderedDict()

    async def answer(self, document: DocumentNode, variables: Mapping[str, Any], name: str | None) -> bytes | ExecutionResult:
        """The answer's body, or, where something was wrong, what graphql-core makes of it."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, self._made, document, variables, name)

    def _made(self, document: DocumentNode, variables: Mapping[str, Any], name: str | None) -> bytes | ExecutionResult:
        assert document.loc is not None
        key = (document.loc.source.body, name)
        if not variables and (kept := self.kept.get(key)) is not None:
            self.kept.move_to_end(key)
            return kept
        hidden = not self.suggestions
        result = execute(self.schema, document, variable_values=dict(variables), operation_name=name, hide_suggestions=hidden)
        assert isinstance(result, ExecutionResult), "nothing about a schema is waited for"
        if result.errors:
            return result
        body = orjson.dumps({"data": result.data})
        if not variables and len(body) <= KEPT_BYTES_MAX:
            self.kept[key] = body
            if len(self.kept) > KEPT_MAX:
                self.kept.popitem(last=False)
        return body


def about_schema(document: DocumentNode, operation: OperationDefinitionNode) -> bool:
    """Whether an operation asks for nothing but the schema."""
    if operation.operation is not OperationType.QUERY:
        return False
    fragments = {each.name.value: each for each in document.definitions if isinstance(each, FragmentDefinitionNode)}
    return OF_SCHEMA.issuperset(_roots(operation.selection_set, fragments))


def _roots(selections: SelectionSetNode, fragments: Mapping[str, FragmentDefinitionNode]) -> Iterator[str]:
    """The fields at the top, fragments spread."""
    for each in selections.selections:
        if isinstance(each, FieldNode):
            yield each.name.value
        elif isinstance(each, FragmentSpreadNode):
            yield from _roots(fragments[each.name.value].selection_set, fragments)
        elif isinstance(each, InlineFragmentNode):
            yield from _roots(each.selection_set, fragments)
