"""Executor: parses, validates and compiles a document once, and executes it many times.

The engine executes what it can compile. graphql-core executes all other operations over the same schema, with the same results.
"""

from collections.abc import AsyncIterable, Mapping, Sequence
from inspect import isawaitable
from typing import Any

import orjson
import strawberry
from graphql import (
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
from gateway.execution.document_cache import DocumentCache, ParsedDocument
from gateway.execution.introspection import Introspection, is_introspection
from gateway.limits.document import Limits, Rule

VALIDATION_ERRORS_MAX = 20
"""Validation of a document stops after this many errors."""
NESTING_MESSAGE = "The document nests too deep. Split it into several operations."
INVALID_MESSAGE = "The document does not match the schema. Check it against the schema of this version."


class SerializedResult(Struct, frozen=True):
    """The result of an operation as JSON."""

    body: bytes
    errors: int
    """The number of errors in it."""
    is_executed: bool
    """False: the variables or the operation name are wrong, so that execution did not begin and there is no `data`."""
    uncompiled: str = ""
    """The reason why graphql-core executed it; empty if the engine did."""


class Executor:
    """Executes documents against one schema."""

    def __init__(self, schema: strawberry.Schema, *, suggestions: bool, limits: Limits | None = None, introspection: bool = True) -> None:
        self.schema, self.core, self.suggestions = schema, schema._schema, suggestions
        self.rule = Rule(self.core, limits or Limits())
        self.allows_introspection = introspection
        self.validation_rules = specified_rules if introspection else (*specified_rules, NoSchemaIntrospectionCustomRule)
        self.engine = Engine(schema, suggestions=suggestions)
        self.introspection = Introspection(self.core, suggestions=suggestions)
        self.documents = DocumentCache()

    def prepare(self, text: str) -> ParsedDocument:
        """Returns the document, parsed, within its limits and validated; for an invalid one, its errors."""
        document = self.documents.find(text)
        if document is None:
            document = self._prepare(text)
            if document.ast is not None:
                self.documents.add(document)
        return document

    def _prepare(self, text: str) -> ParsedDocument:
        try:
            ast = self.rule.parse(text)
            checked = self.rule.check(ast)
            if checked.errors:
                return ParsedDocument(None, text, checked.errors)
            errors = validate(
                self.core, ast, self.validation_rules, max_errors=VALIDATION_ERRORS_MAX, hide_suggestions=not self.suggestions
            )
        except GraphQLError as error:
            return ParsedDocument(None, text, (error,))
        except RecursionError:
            return ParsedDocument(None, text, (GraphQLError(NESTING_MESSAGE),))
        if errors and not self.allows_introspection:
            return ParsedDocument(None, text, (GraphQLError(INVALID_MESSAGE),))
        return ParsedDocument(ast if not errors else None, text, tuple(errors), checked.cost_max)

    def cost(self, document: ParsedDocument, operation: OperationDefinitionNode, variables: Mapping[str, Any] | None) -> int:
        """Returns the points of an operation with its variables. Raises GraphQLError if they exceed the limit."""
        assert document.ast is not None
        cost = self.rule.cost(document.ast, operation, variables or {})
        if cost > self.rule.limits.cost:
            raise self.rule.cost_error(cost)
        return cost

    async def execute(
        self, document: ParsedDocument, context: Context, variables: Mapping[str, Any] | None = None, operation_name: str | None = None
    ) -> SerializedResult:
        """Executes an operation of a valid document by the engine; by graphql-core if the engine does not compile it."""
        compiled = self._compile(document, operation_name)
        run = self.engine.create_run(compiled, context, variables or {})
        if isinstance(compiled, CompiledOperation) and compiled.owed_seconds:
            context.compile_seconds, compiled.owed_seconds = compiled.owed_seconds, 0.0
            self.documents.measure(document)
        if isinstance(run, Run):
            data = await run.plan.run(context.root, run)
            return serialize(data, run.errors() if run.failures else (), is_executed=True)
        if isinstance(run, list):
            return serialize(None, run, is_executed=False)
        reason = run.reason
        operation = document.find_operation(operation_name)
        result: bytes | ExecutionResult
        if document.ast is not None and operation is not None and is_introspection(document.ast, operation):
            result = await self.introspection.execute(document.ast, variables or {}, operation_name)
            if isinstance(result, bytes):
                return SerializedResult(result, 0, True, reason)
        else:
            result = await self.execute_core(document, context, variables, operation_name)
        return serialize(result.data, result.errors or (), is_executed=is_executed(result), uncompiled=reason)

    def create_source_stream(
        self, document: ParsedDocument, context: Context, variables: Mapping[str, Any] | None = None, operation_name: str | None = None
    ) -> AsyncIterable[Any] | Sequence[GraphQLError]:
        """Returns the source stream of a subscription, whose events are the roots of its results; the errors of invalid variables."""
        assert document.ast is not None
        built = CoreExecutor.build(
            self.core,
            document.ast,
            context_value=context,
            raw_variable_values=dict(variables or {}),
            operation_name=operation_name,
            hide_suggestions=not self.suggestions,
        )
        if isinstance(built, list):
            return built
        stream: Any = create_source_event_stream(built)
        return stream.errors if isinstance(stream, ExecutionResult) else stream  # type: ignore[return-value]

    def _compile(self, document: ParsedDocument, operation_name: str | None) -> CompiledOperation | Uncompiled:
        compiled = document.compiled.get(operation_name)
        if compiled is None:
            operation = document.find_operation(operation_name)
            if operation is None or document.ast is None:
                return Uncompiled("unknown")
            compiled = document.compiled[operation_name] = self.engine.compile(document.ast, operation)
        return compiled

    async def execute_core(
        self, document: ParsedDocument, context: Context, variables: Mapping[str, Any] | None = None, operation_name: str | None = None
    ) -> ExecutionResult:
        """Executes an operation of a valid document by graphql-core."""
        assert document.ast is not None
        result: Any = execute(
            self.core,
            document.ast,
            root_value=context.root,
            context_value=context,
            variable_values=dict(variables or {}),
            operation_name=operation_name,
            hide_suggestions=not self.suggestions,
        )
        return await result if isawaitable(result) else result  # type: ignore[no-any-return]


def serialize(data: Any, errors: Sequence[GraphQLError], *, is_executed: bool, uncompiled: str = "") -> SerializedResult:
    """Returns data and errors as the JSON of a response, without `data` if the operation was not executed."""
    body: dict[str, Any] = {"errors": [error_formatting.format_error(error) for error in errors]} if errors else {}
    if is_executed:
        body["data"] = data
    return SerializedResult(orjson.dumps(body), len(errors), is_executed, uncompiled)


def is_executed(result: ExecutionResult) -> bool:
    """Returns whether execution began. Otherwise the variables or the operation name are wrong."""
    return result.data is not None or any(error.path for error in result.errors or ())
