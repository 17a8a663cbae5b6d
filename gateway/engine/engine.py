"""The engine: compiles what it can, once, and runs it; tells how often it could not, and why."""

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

UNCOMPILED = Counter("quanyu_graphql_uncompiled_total", "Operations that were left to the ordinary executor, by the reason.", ["reason"])


UNCOMPILED_BYTES = 1_000


class Compiled:
    """An operation and its plans, one for each combination of its conditions that was asked for: with `CONDITIONS_MAX` of them, 16."""

    owed_seconds = 0.0
    """What its plans took to compile, as long as nobody was charged for it."""
    weight = 0
    """Bytes that its plans take, at most."""

    def __init__(self, schema: strawberry.Schema, document: DocumentNode, operation: OperationDefinitionNode, *, suggestions: bool) -> None:
        self.schema, self.document, self.operation, self.suggestions = schema, document, operation, suggestions
        self.variables = Variables(schema._schema, operation, suggestions=suggestions)
        self.conditions = conditions_of(document, operation)
        self.plans: dict[tuple[bool, ...], Plan | Uncompiled] = {}

    def plan(self, variables: Mapping[str, Any]) -> Plan:
        """The plan for these variables."""
        values: Any = tuple([variables.get(name) for name in self.conditions])
        plan = self.plans.get(values)
        if plan is None:
            if not all(isinstance(value, bool) for value in values):
                raise Uncompiled("condition")
            started = time.perf_counter()
            plan = self.plans[values] = self._compiled(dict(zip(self.conditions, values, strict=True)))
            self.owed_seconds += time.perf_counter() - started
            self.weight += plan.weight if isinstance(plan, Plan) else UNCOMPILED_BYTES
        if isinstance(plan, Uncompiled):
            raise plan
        return plan

    def forget(self) -> None:
        """Lets its plans go; runs that are under way keep theirs."""
        self.plans.clear()
        self.weight = 0

    def _compiled(self, conditions: Conditions) -> Plan | Uncompiled:
        try:
            return Plan(self.schema, self.document, self.operation, conditions, suggestions=self.suggestions)
        except Uncompiled as reason:
            return reason
        except RecursionError:
            return Uncompiled("depth")
        except Exception as bug:  # of the compiler: the ordinary executor answers all the same
            logger().error("bug", what="a document was not compiled", exc_info=bug)
            return Uncompiled("bug")


class Engine:
    """Compiles operations. What it makes of one is kept by whoever keeps the document, and goes with it."""

    def __init__(self, schema: strawberry.Schema, *, suggestions: bool) -> None:
        self.schema, self.suggestions = schema, suggestions

    def compiled(self, document: DocumentNode, operation: OperationDefinitionNode) -> Compiled | Uncompiled:
        """The operation, or why it is left to the ordinary executor."""
        try:
            return Compiled(self.schema, document, operation, suggestions=self.suggestions)
        except Uncompiled as reason:
            return reason
        except RecursionError:
            return Uncompiled("depth")

    def begin(
        self, compiled: Compiled | Uncompiled, context: ResolverContext, given: Mapping[str, Any]
    ) -> Run | list[GraphQLError] | Uncompiled:
        """A run of the operation with these variables; what is wrong with them; or why it is left to the ordinary executor."""
        try:
            if isinstance(compiled, Uncompiled):
                raise compiled
            variables = compiled.variables.coerced(given)
            if isinstance(variables, list):
                return variables
            return Run(compiled.plan(variables), context, variables, lambda: compiled.variables.exact(given))
        except Uncompiled as uncompiled:
            UNCOMPILED.labels(uncompiled.reason).inc()
            return uncompiled
