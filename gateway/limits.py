"""What a document may ask for: how much text it may be, before it is parsed, and one rule over what is parsed, before it is validated.

`gateway/measure.py` says how the latter is counted; here are the bounds. Each is a setting (`QUANYU_LIMIT_DEPTH`, …).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from graphql import DocumentNode, GraphQLError, GraphQLSchema, OperationDefinitionNode
from msgspec import Struct

from gateway.measure import Measure, Measuring
from gateway.weights import Weights
from services.kit.settings import Settings

CODE = "LIMIT_EXCEEDED"
NESTING_MAX = 64
"""Brackets of any kind within each other. A parser goes down the stack by one call and more for each."""
TOKEN = re.compile(
    r'"""(?:\\"""|[^"]|"(?!""))*+"""|"(?:[^"\\\n\r]|\\.)*+"|#[^\n\r]*'
    r"|[A-Za-z_]\w*|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\.\.\.|[^\s,\ufeff]",
    re.ASCII,
)
"""The tokens of a text, comments too: no fewer than a parser finds, and as many where it is a document. A parser takes 5 us for one."""
NESTS = {"{": 1, "[": 1, "(": 1, "}": -1, "]": -1, ")": -1}


class Limits(Struct, frozen=True):
    """The bounds of a document. All but the first four are counted for each operation, a fragment's share wherever it is spread."""

    characters: int = 16_384
    tokens: int = 1_000
    fragments: int = 50
    """That a document defines."""
    operations: int = 10
    depth: int = 12
    """Levels of fields."""
    fields: int = 500
    repeats: int = 25
    """Fields of one name in the answer within one selection. Each is held against each other when the document is validated."""
    roots: int = 20
    """Fields of the query, mutation or subscription itself."""
    aliases: int = 30
    directives: int = 30
    spreads: int = 100
    introspected: int = 250
    """Fields below `__schema` and `__type`. The introspection query of the usual tools has some 200."""
    introspection_depth: int = 16
    cost: int = 150_000
    """Points."""

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Those of the settings."""
        return cls(**{name: getattr(settings, f"limit_{name}") for name in cls.__struct_fields__})


class Checked(Struct, frozen=True):
    """What a document breaks, and the points of its dearest operation with its dearest variables."""

    errors: tuple[GraphQLError, ...] = ()
    dearest: int = 0


class Rule:
    """The rule of one schema."""

    def __init__(self, schema: GraphQLSchema, limits: Limits) -> None:
        self.limits, self.weights = limits, Weights(schema)

    def scan(self, text: str) -> GraphQLError | None:
        """The bound that a text breaks, whatever it means; a tenth of a microsecond for each of its characters."""
        if len(text) > self.limits.characters:
            return _broken("characters", self.limits.characters)
        tokens = TOKEN.findall(text)
        if len(tokens) > self.limits.tokens:
            return _broken("tokens", self.limits.tokens)
        deepest = max(accumulate(NESTS.get(token, 0) for token in tokens), default=0)
        return _broken("nesting", NESTING_MAX) if deepest > NESTING_MAX else None

    def check(self, document: DocumentNode) -> Checked:
        """The bounds that a document breaks, whatever its variables are."""
        operations = [item for item in document.definitions if isinstance(item, OperationDefinitionNode)]
        if len(operations) > self.limits.operations:
            return Checked((_broken("operations", self.limits.operations),))
        if len(document.definitions) - len(operations) > self.limits.fragments:
            return Checked((_broken("fragments", self.limits.fragments),))
        measuring = Measuring(self.weights, document)
        asked = [measuring.operation(each) for each in operations]
        unasked = [measuring.fragment(name) for name in measuring.fragments if name not in measuring.measured]
        broken = {name: None for measure in (*asked, *unasked) for name in self._broken(measure)}
        if any(measure.roots > self.limits.roots for measure in asked):
            broken["roots"] = None
        dearest = max((measure.cost for measure in asked), default=0)
        errors = [_broken(name, getattr(self.limits, name)) for name in broken]
        if dearest > self.limits.cost and not measuring.varies:
            errors.append(self.too_dear(dearest))
        return Checked(tuple(errors), dearest)

    def _broken(self, measure: Measure) -> list[str]:
        limits = self.limits
        return [name for name in BOUNDS if getattr(measure, name) > getattr(limits, name)]

    def cost(self, document: DocumentNode, operation: OperationDefinitionNode, variables: Mapping[str, Any] | None) -> int:
        """The points of an operation with these variables; without any (None): of the dearest ones."""
        return Measuring(self.weights, document, variables).operation(operation).cost

    def too_dear(self, points: int) -> GraphQLError:
        """Says that an operation costs more than it may, and how much."""
        return GraphQLError(WORDS["cost"].format(self.limits.cost), extensions={"code": CODE, "points": points})


BOUNDS = ("depth", "fields", "repeats", "aliases", "directives", "spreads", "introspected", "introspection_depth")
WORDS = {
    "characters": "a document has at most {} characters",
    "tokens": "a document has at most {} tokens",
    "nesting": "brackets nest at most {} deep",
    "fragments": "a document defines at most {} fragments",
    "operations": "a document has at most {} operations",
    "depth": "fields nest at most {} deep",
    "fields": "an operation selects at most {} fields",
    "repeats": "a field is selected at most {} times in one place",
    "roots": "an operation begins with at most {} fields",
    "aliases": "an operation has at most {} aliases",
    "directives": "an operation has at most {} directives",
    "spreads": "an operation spreads at most {} fragments",
    "introspected": "introspection selects at most {} fields",
    "introspection_depth": "introspection nests at most {} deep",
    "cost": "an operation costs at most {} points; ask for shorter pages or fewer things at once",
}


def _broken(name: str, most: int) -> GraphQLError:
    return GraphQLError(WORDS[name].format(most), extensions={"code": CODE})
