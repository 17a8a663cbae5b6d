"""The engine: compiles operations to plans and creates their runs. A metric counts what it could not compile, by reason."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graphql import DocumentNode, GraphQLError, OperationDefinitionNode
from prometheus_client import Counter

from gateway.engine.arguments import Variables
from gateway.engine.collect_fields import Conditions, Uncompiled, conditions_of
from gateway.engine.plan import Plan
from gateway.engine.run import Run
from services.kit.observability.logs import logger

if TYPE_CHECKING:
    import strawberry

    from gateway.schema.resolver_context import ResolverContext

UNCOMPILED = Counter("quanyu_graphql_uncompiled_total", "Operations that graphql-core executed, by the reason.", ["reason"])

UNCOMPILED_BYTES = 1_000
"""The cached reason of a plan that could not be compiled takes at most this much memory."""


class CompiledOperation:
    """An operation with a plan for each requested combination of its conditions: at most 16, with `CONDITIONS_MAX` conditions."""

    owed_seconds = 0.0
    """The compile time of its plans that no request has been charged for."""
    weight = 0
    """Its plans take at most this many bytes."""

    def __init__(self, schema: strawberry.Schema, document: DocumentNode, operation: OperationDefinitionNode, *, suggestions: bool) -> None:
        self.schema, self.document, self.operation, self.suggestions = schema, document, operation, suggestions
        self.variables = Variables(schema._schema, operation, suggestions=suggestions)
        self.conditions = conditions_of(document, operation)
        self.plans: dict[tuple[bool, ...], Plan | Uncompiled] = {}

    def plan(self, variables: Mapping[str, Any]) -> Plan:
        """Returns the plan for these variables, compiled at its first use; raises `Uncompiled`."""
        values: Any = tuple([variables.get(name) for name in self.conditions])
        plan = self.plans.get(values)
        if plan is None:
            if not all(isinstance(value, bool) for value in values):
                raise Uncompiled("condition")
            started = time.perf_counter()
            plan = self.plans[values] = self._compile(dict(zip(self.conditions, values, strict=True)))
            self.owed_seconds += time.perf_counter() - started
            self.weight += plan.weight if isinstance(plan, Plan) else UNCOMPILED_BYTES
        if isinstance(plan, Uncompiled):
            raise plan
        return plan

    def forget(self) -> None:
        """Removes its plans; runs in progress keep theirs."""
        self.plans.clear()
        self.weight = 0

    def _compile(self, conditions: Conditions) -> Plan | Uncompiled:
        try:
            return Plan(self.schema, self.document, self.operation, conditions, suggestions=self.suggestions)
        except Uncompiled as reason:
            return reason
        except RecursionError:
            return Uncompiled("depth")
        except Exception as bug:  # a bug of the compiler: graphql-core can still execute the operation
            logger().error("bug", what="a document was not compiled", exc_info=bug)
            return Uncompiled("bug")


class Engine:
    """Compiles operations. The caller keeps a compiled operation as long as its document."""

    def __init__(self, schema: strawberry.Schema, *, suggestions: bool) -> None:
        self.schema, self.suggestions = schema, suggestions

    def compile(self, document: DocumentNode, operation: OperationDefinitionNode) -> CompiledOperation | Uncompiled:
        """Returns the compiled operation, or the reason why it cannot be compiled."""
        try:
            return CompiledOperation(self.schema, document, operation, suggestions=self.suggestions)
        except Uncompiled as reason:
            return reason
        except RecursionError:
            return Uncompiled("depth")

    def create_run(
        self, compiled: CompiledOperation | Uncompiled, context: ResolverContext, inputs: Mapping[str, Any]
    ) -> Run | list[GraphQLError] | Uncompiled:
        """Returns a run of the operation; the errors of its variables; or the reason why it cannot be compiled, which is counted."""
        try:
            if isinstance(compiled, Uncompiled):
                raise compiled
            variables = compiled.variables.coerce(inputs)
            if isinstance(variables, list):
                return variables
            return Run(compiled.plan(variables), context, variables, lambda: compiled.variables.coerce_exactly(inputs))
        except Uncompiled as uncompiled:
            UNCOMPILED.labels(uncompiled.reason).inc()
            return uncompiled
