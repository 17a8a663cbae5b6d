"""Limits of a document: its text before it is parsed, and its selections before it is validated (`cost.py` counts them).

Each limit is a setting (`QUANYU_LIMIT_DEPTH`, …).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphql import DocumentNode, GraphQLError, GraphQLSchema, OperationDefinitionNode, parse
from msgspec import Struct

from gateway.limits.cost import CostAnalysis, Measure
from gateway.limits.field_costs import FieldCosts
from services.kit.settings import Settings

CODE = "LIMIT_EXCEEDED"


class Limits(Struct, frozen=True):
    """The limits of a document. From `depth` on they hold for each operation, and a fragment counts wherever it is spread."""

    characters: int = 16_384
    tokens: int = 1_000
    """Comments count too. Parsing takes about 5 us for each."""
    fragments: int = 50
    """Fragments that a document defines."""
    operations: int = 10
    depth: int = 12
    """Levels of fields."""
    fields: int = 500
    repeats: int = 25
    """Fields with the same response name in one selection. Validation compares each with each."""
    roots: int = 20
    """Root fields of an operation."""
    aliases: int = 30
    directives: int = 30
    spreads: int = 100
    introspected: int = 250
    """Fields below `__schema` and `__type`. The introspection query of common tools has about 200."""
    introspection_depth: int = 16
    cost: int = 150_000
    """Points."""

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Reads the limits from the settings."""
        return cls(**{name: getattr(settings, f"limit_{name}") for name in cls.__struct_fields__})


class CheckResult(Struct, frozen=True):
    """The limits that a document exceeds, and the cost of its most expensive operation with its most expensive variables."""

    errors: tuple[GraphQLError, ...] = ()
    cost_max: int = 0


class Rule:
    """Checks documents of one schema against the limits."""

    def __init__(self, schema: GraphQLSchema, limits: Limits) -> None:
        self.limits, self.field_costs = limits, FieldCosts(schema)

    def parse(self, text: str) -> DocumentNode:
        """Parses a document. Raises GraphQLError if it is too long, has too many tokens, nests too deep or has a syntax error.

        The parser stops at the first token above the limit, and at 200 levels of brackets.
        """
        if len(text) > self.limits.characters:
            raise _exceeded("characters", self.limits.characters)
        return parse(text, max_tokens=self.limits.tokens)

    def check(self, document: DocumentNode) -> CheckResult:
        """Returns the limits that a document exceeds with any variables."""
        operations = [item for item in document.definitions if isinstance(item, OperationDefinitionNode)]
        if len(operations) > self.limits.operations:
            return CheckResult((_exceeded("operations", self.limits.operations),))
        if len(document.definitions) - len(operations) > self.limits.fragments:
            return CheckResult((_exceeded("fragments", self.limits.fragments),))
        analysis = CostAnalysis(self.field_costs, document)
        measured = [analysis.operation(each) for each in operations]
        unused = [analysis.fragment(name) for name in analysis.fragments if name not in analysis.measured]
        exceeded = {name: None for measure in (*measured, *unused) for name in self._exceeded(measure)}
        if any(measure.roots > self.limits.roots for measure in measured):
            exceeded["roots"] = None
        cost_max = max((measure.cost for measure in measured), default=0)
        errors = [_exceeded(name, getattr(self.limits, name)) for name in exceeded]
        if cost_max > self.limits.cost and not analysis.varies:
            errors.append(self.cost_error(cost_max))
        return CheckResult(tuple(errors), cost_max)

    def _exceeded(self, measure: Measure) -> list[str]:
        limits = self.limits
        return [name for name in COUNTED if getattr(measure, name) > getattr(limits, name)]

    def cost(self, document: DocumentNode, operation: OperationDefinitionNode, variables: Mapping[str, Any] | None) -> int:
        """Returns the points of an operation with these variables; None: with its most expensive ones."""
        return CostAnalysis(self.field_costs, document, variables).operation(operation).cost

    def cost_error(self, points: int) -> GraphQLError:
        """Returns the error of an operation that costs more than the limit."""
        return GraphQLError(MESSAGES["cost"].format(self.limits.cost), extensions={"code": CODE, "points": points})


COUNTED = ("depth", "fields", "repeats", "aliases", "directives", "spreads", "introspected", "introspection_depth")
MESSAGES = {
    "characters": "A document may have at most {} characters.",
    "fragments": "A document may define at most {} fragments.",
    "operations": "A document may have at most {} operations.",
    "depth": "Fields may nest at most {} levels deep.",
    "fields": "An operation may select at most {} fields.",
    "repeats": "One selection may contain a field at most {} times.",
    "roots": "An operation may have at most {} root fields.",
    "aliases": "An operation may have at most {} aliases.",
    "directives": "An operation may have at most {} directives.",
    "spreads": "An operation may spread at most {} fragments.",
    "introspected": "Introspection may select at most {} fields.",
    "introspection_depth": "Introspection may nest at most {} levels deep.",
    "cost": "An operation may cost at most {} points. Request shorter pages or fewer fields.",
}


def _exceeded(name: str, limit: int) -> GraphQLError:
    return GraphQLError(MESSAGES[name].format(limit), extensions={"code": CODE})
