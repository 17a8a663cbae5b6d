"""A document is parsed, validated and compiled once and run many times: by the engine, or by graphql-core over the same schema."""

from collections.abc import AsyncIterable, Mapping, Sequence
from inspect import isawaitable
from typing import Any

import msgspec
import orjson
import strawberry
from cachetools import LRUCache
from graphql import (
    DocumentNode,
    ExecutionResult,
    GraphQLError,
    NoSchemaIntrospectionCustomRule,
    OperationDefinitionNode,
    create_source_event_stream,
    execute,
    specified_rules,
    validate,
)
from graphql import Executor as CoreExecutor
from msgspec import Struct

from gateway.engine.collect_fields import Uncompiled
from gateway.engine.engine import CompiledOperation, Engine
from gateway.engine.run import Run
from gateway.execution import error_formatting
from gateway.execution.context import Context
from gateway.execution.introspection import Introspection, about_schema
from gateway.limits.document import Limits, Rule

CHARACTER_BYTES = 300
"""One character of a parsed document takes at most this much memory."""
PREPARED_MAX, PREPARED_BYTES_MAX = 1_000, 40_000_000
"""The bounds of the documents that were used at least twice, with their plans."""
FRESH_MAX, FRESH_BYTES_MAX = 100, 12_000_000
"""The bounds of the documents that were used once. They are apart, so that a flood of new documents evicts no reused one."""
PLANS_BYTES_MAX = 2_000_000
"""The bound of the plans of one document: with ten operations and 160 plans, it must not evict all others."""
ERRORS_MAX = 20
"""Of validation; then it stops."""


class Prepared(Struct, frozen=True):
    """A document that is valid, or why it is not."""

    document: DocumentNode | None
    text: str = ""
    errors: tuple[GraphQLError, ...] = ()
    dearest: int = 0
    """Points of its dearest operation with its dearest variables."""
    found: dict[str | None, OperationDefinitionNode] = msgspec.field(default_factory=dict)
    """Its operations by the names they were asked for by."""
    compiled: dict[str | None, CompiledOperation | Uncompiled] = msgspec.field(default_factory=dict)
    """The same as the engine has them."""

    @property
    def plans_weight(self) -> int:
        """Bytes that its plans take, at most."""
        return sum(each.weight for each in self.compiled.values() if isinstance(each, CompiledOperation))

    @property
    def weight(self) -> int:
        """Bytes that it takes with them, at most."""
        return len(self.text) * CHARACTER_BYTES + self.plans_weight

    def operation(self, name: str | None) -> OperationDefinitionNode | None:
        """The operation that `name` means; None when that is not one."""
        found = self.found.get(name)
        if found is None and self.document is not None:
            operations = [item for item in self.document.definitions if isinstance(item, OperationDefinitionNode)]
            meant = operations if name is None else [item for item in operations if _named(item) == name]
            if len(meant) == 1:
                found = self.found[name] = meant[0]
        return found


class Documents(LRUCache[str, Prepared]):
    """An LRU cache of documents by their text, bounded by their number and by the bytes that they take with their plans."""

    def __init__(self, documents_max: int, bytes_max: int) -> None:
        super().__init__(bytes_max)
        self.documents_max = documents_max

    @staticmethod
    def getsizeof(value: Prepared) -> int:
        """Returns the bytes that a document takes."""
        return value.weight

    def put(self, prepared: Prepared) -> None:
        """Adds the document, or measures it again; evicts the least recently used ones. One that is larger than the cache is not kept."""
        self.pop(prepared.text, None)
        if prepared.weight <= self.maxsize:
            self[prepared.text] = prepared
            if len(self) > self.documents_max:
                self.popitem()


def _named(operation: OperationDefinitionNode) -> str | None:
    return operation.name.value if operation.name else None


class Answered(Struct, frozen=True):
    """The answer of a valid document. `begun`: else the request itself was wrong (variables, operation name), and there is no `data`.
    `uncompiled`: why it did not run compiled; empty when it did."""

    body: bytes
    errors: int
    begun: bool
    uncompiled: str = ""


class Executor:
    """Runs documents against the schema. Prepared documents are cached: in `fresh` after their first use, in `kept` after the second."""

    def __init__(self, schema: strawberry.Schema, *, suggestions: bool, limits: Limits | None = None, introspection: bool = True) -> None:
        self.schema, self.core, self.suggestions = schema, schema._schema, suggestions
        self.rule = Rule(self.core, limits or Limits())
        self.introspection = introspection
        self.rules = specified_rules if introspection else (*specified_rules, NoSchemaIntrospectionCustomRule)
        self.engine = Engine(schema, suggestions=suggestions)
        self.told = Introspection(self.core, suggestions=suggestions)
        self.kept, self.fresh = (
            Documents(PREPARED_MAX, PREPARED_BYTES_MAX),
            Documents(FRESH_MAX, FRESH_BYTES_MAX),
        )

    def known(self, query: str) -> Prepared | None:
        """Returns the document if it was prepared before."""
        try:
            return self.kept[query]
        except KeyError:
            if (fresh := self.fresh.pop(query, None)) is not None:
                self.kept.put(fresh)
            return fresh

    def prepare(self, query: str) -> Prepared:
        """The document, parsed, within its bounds and validated."""
        prepared = self.known(query)
        if prepared is None:
            prepared = self._prepare(query)
            if prepared.document is not None:
                self.fresh.put(prepared)
        return prepared

    def _prepare(self, query: str) -> Prepared:
        try:
            document = self.rule.parse(query)
            checked = self.rule.check(document)
            if checked.errors:
                return Prepared(None, query, checked.errors)
            errors = validate(self.core, document, self.rules, max_errors=ERRORS_MAX, hide_suggestions=not self.suggestions)
        except GraphQLError as error:
            return Prepared(None, query, (error,))
        except RecursionError:
            return Prepared(None, query, (GraphQLError("the document nests too deep"),))
        if errors and not self.introspection:
            return Prepared(None, query, (GraphQLError("the document does not fit the graph"),))
        return Prepared(document if not errors else None, query, tuple(errors), checked.cost_max)

    def cost(self, prepared: Prepared, operation: OperationDefinitionNode, variables: Mapping[str, Any] | None) -> int:
        """The points of an operation with its variables. GraphQLError when they are more than it may cost."""
        assert prepared.document is not None
        cost = self.rule.cost(prepared.document, operation, variables or {})
        if cost > self.rule.limits.cost:
            raise self.rule.cost_error(cost)
        return cost

    async def answer(
        self, prepared: Prepared, context: Context, variables: Mapping[str, Any] | None = None, operation_name: str | None = None
    ) -> Answered:
        """The answer of a valid document, whichever way it runs."""
        compiled = self._compiled(prepared, operation_name)
        run = self.engine.create_run(compiled, context, variables or {})
        if isinstance(compiled, CompiledOperation) and compiled.owed_seconds:
            context.cold_seconds, compiled.owed_seconds = compiled.owed_seconds, 0.0
            self._weigh(prepared)
        if isinstance(run, Run):
            data = await run.plan.run(context.root, run)
            return _answered(data, run.errors() if run.failures else (), begun=True)
        if isinstance(run, list):
            return _answered(None, run, begun=False)
        why = run.reason
        operation = prepared.operation(operation_name)
        if prepared.document is not None and operation is not None and about_schema(prepared.document, operation):
            told = await self.told.answer(prepared.document, variables or {}, operation_name)
            if isinstance(told, bytes):
                return Answered(told, 0, True, why)
            return _answered(told.data, told.errors or (), begun=begun(told), uncompiled=why)
        result = await self.run(prepared, context, variables, operation_name)
        return _answered(result.data, result.errors or (), begun=begun(result), uncompiled=why)

    def _weigh(self, prepared: Prepared) -> None:
        """Measures a cached document again after one more of its plans was compiled."""
        if prepared.plans_weight > PLANS_BYTES_MAX:
            for each in prepared.compiled.values():
                if isinstance(each, CompiledOperation):
                    each.forget()
        for documents in (self.kept, self.fresh):
            if documents.get(prepared.text) is prepared:
                documents.put(prepared)

    def source(
        self, prepared: Prepared, context: Context, variables: Mapping[str, Any] | None = None, operation_name: str | None = None
    ) -> AsyncIterable[Any] | Sequence[GraphQLError]:
        """What a subscription follows: its events are the roots of its answers; or what is wrong with its variables."""
        assert prepared.document is not None
        built = CoreExecutor.build(
            self.core,
            prepared.document,
            context_value=context,
            raw_variable_values=dict(variables or {}),
            operation_name=operation_name,
            hide_suggestions=not self.suggestions,
        )
        if isinstance(built, list):
            return built
        stream: Any = create_source_event_stream(built)
        return stream.errors if isinstance(stream, ExecutionResult) else stream  # type: ignore[return-value]

    def _compiled(self, prepared: Prepared, operation_name: str | None) -> CompiledOperation | Uncompiled:
        compiled = prepared.compiled.get(operation_name)
        if compiled is None:
            operation = prepared.operation(operation_name)
            if operation is None or prepared.document is None:
                return Uncompiled("unknown")
            compiled = prepared.compiled[operation_name] = self.engine.compile(prepared.document, operation)
        return compiled

    async def run(
        self, prepared: Prepared, context: Context, variables: Mapping[str, Any] | None = None, operation_name: str | None = None
    ) -> ExecutionResult:
        """What graphql-core makes of a valid document."""
        assert prepared.document is not None
        result = execute(
            self.core,
            prepared.document,
            root_value=context.root,
            context_value=context,
            variable_values=dict(variables or {}),
            operation_name=operation_name,
            hide_suggestions=not self.suggestions,
        )
        answer: Any = await result if isawaitable(result) else result
        return answer  # type: ignore[no-any-return]


def _answered(data: Any, failed: Sequence[GraphQLError], *, begun: bool, uncompiled: str = "") -> Answered:
    body: dict[str, Any] = {"errors": [error_formatting.formatted(error) for error in failed]} if failed else {}
    if begun:
        body["data"] = data
    return Answered(orjson.dumps(body), len(failed), begun, uncompiled)


def begun(result: ExecutionResult) -> bool:
    """Whether execution began: else the request itself was wrong (variables, operation name) and there is no `data` to speak of."""
    return result.data is not None or any(error.path for error in result.errors or ())
