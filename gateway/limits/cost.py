"""Static cost analysis of a document: its depth, the number of its fields, and an upper bound of its cost in points.

A fragment is measured once, however often it is spread: 26 fragments that each spread the next one twice take 27 measurements, and count
as the 67 million fields that they expand to.

**Points** are an upper bound: one for each value of the response, and `CALL_POINTS` for each rpc. The selection of a list counts once for
each item: `first` of a page, `ids` of `nodes`, the declared size of any other list (`field_costs.py`), the average size of introspection's
lists. A batched reference costs one rpc for its level; a field with an rpc of its own costs one for each item.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    IntValueNode,
    ListValueNode,
    NullValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    ValueNode,
    VariableNode,
    is_composite_type,
    value_from_ast_untyped,
)
from msgspec import Struct, field

from gateway.limits.field_costs import FieldCost, FieldCosts
from gateway.schema.nodes import NODES_MAX
from services.kit.mongo.pagination import PAGE_SIZE, PAGE_SIZE_MAX

COUNT_MAX = 10**12
"""Counts stop here, so that doubling fragments do not make huge integers."""


class Measure(Struct):
    """The counts of a selection with everything below it."""

    depth: int = 0
    fields: int = 0
    aliases: int = 0
    directives: int = 0
    spreads: int = 0
    introspected: int = 0
    introspection_depth: int = 0
    repeats: int = 0
    points: int = 0
    """Points for each item of the list that the selection belongs to."""
    each: int = 0
    """Points for each item of the page that the selection belongs to."""
    shared: int = 0
    """Points that do not depend on the number of items: batched references."""
    names: dict[str, int] = field(default_factory=dict)
    """The number of fields by response name, on this level only."""

    @property
    def roots(self) -> int:
        """The number of fields on this level."""
        return sum(self.names.values())

    @property
    def cost(self) -> int:
        """Its points. A page without `first` has the default size."""
        return self.points + self.each * PAGE_SIZE + self.shared

    def add(self, other: Measure) -> None:
        """Adds a selection on the same level."""
        self.add_below(other)
        self.points = min(self.points + other.points, COUNT_MAX)
        self.each = min(self.each + other.each, COUNT_MAX)
        self.depth = max(self.depth, other.depth)
        self.introspection_depth = max(self.introspection_depth, other.introspection_depth)
        for name, times in other.names.items():
            self.names[name] = min(self.names.get(name, 0) + times, COUNT_MAX)

    def add_below(self, other: Measure) -> None:
        """Adds the counts that do not depend on the level."""
        self.fields = min(self.fields + other.fields, COUNT_MAX)
        self.aliases = min(self.aliases + other.aliases, COUNT_MAX)
        self.directives = min(self.directives + other.directives, COUNT_MAX)
        self.spreads = min(self.spreads + other.spreads, COUNT_MAX)
        self.introspected = min(self.introspected + other.introspected, COUNT_MAX)
        self.shared = min(self.shared + other.shared, COUNT_MAX)
        self.repeats = max(self.repeats, other.repeats)


class CostAnalysis:
    """The analysis of one document, with given variables or (None) with the most expensive ones."""

    def __init__(self, field_costs: FieldCosts, document: DocumentNode, variables: Mapping[str, Any] | None = None) -> None:
        self.field_costs, self.variables = field_costs, dict(variables) if variables is not None else None
        self.fragments = {item.name.value: item for item in document.definitions if isinstance(item, FragmentDefinitionNode)}
        self.measured: dict[str, Measure] = {}
        self.varies = False
        """True if the cost depends on a variable without a value."""

    def operation(self, node: OperationDefinitionNode) -> Measure:
        """Measures an operation, including its own directives."""
        if self.variables is not None:
            self.variables = _defaults(node) | self.variables
        measure = self._selection(self.field_costs.schema.get_root_type(node.operation), node.selection_set)
        whole = Measure(directives=len(node.directives or ()))
        whole.directives += sum(len(each.directives or ()) for each in node.variable_definitions or ())
        whole.add(measure)
        return whole

    def fragment(self, name: str) -> Measure:
        """Measures a fragment once. An unknown or cyclic one counts 0, because validation refuses it."""
        measured = self.measured.get(name)
        if measured is None:
            node = self.fragments.get(name)
            measured = self.measured[name] = Measure()
            if node is not None:
                measured = self.measured[name] = self._selection(self._type(node.type_condition.name.value), node.selection_set)
                measured.directives += len(node.directives or ())
        return measured

    def _type(self, name: str) -> Any:
        found = self.field_costs.schema.get_type(name)
        return found if is_composite_type(found) else None

    def _selection(self, parent: Any, node: SelectionSetNode) -> Measure:
        measure = Measure()
        for each in node.selections:
            measure.directives += len(each.directives or ())
            if isinstance(each, FieldNode):
                self._field(parent, each, measure)
            elif isinstance(each, FragmentSpreadNode):
                measure.spreads += 1
                measure.add(self.fragment(each.name.value))
            else:
                condition = each.type_condition  # type: ignore[attr-defined]
                type_ = self._type(condition.name.value) if condition is not None else parent
                measure.add(self._selection(type_, each.selection_set))  # type: ignore[attr-defined]
        measure.repeats = max(measure.repeats, *measure.names.values()) if measure.names else measure.repeats
        return measure

    def _field(self, parent: Any, node: FieldNode, measure: Measure) -> None:
        """Adds a field and its selection to the measure of the selection that contains it."""
        name = (node.alias or node.name).value
        measure.names[name] = measure.names.get(name, 0) + 1
        measure.aliases += node.alias is not None
        cost = self.field_costs.find(parent, node.name.value)
        inner = self._selection(cost.type, node.selection_set) if node.selection_set is not None else Measure()
        measure.add_below(inner)
        self._price(cost, node, inner, measure)
        if parent is not None and parent.name.startswith("__"):
            measure.introspected += 1
            measure.introspection_depth = max(measure.introspection_depth, inner.introspection_depth + 1)
            return
        measure.fields += 1
        measure.depth = max(measure.depth, inner.depth + 1)
        measure.introspection_depth = max(measure.introspection_depth, inner.introspection_depth)

    def _price(self, cost: FieldCost, node: FieldNode, inner: Measure, measure: Measure) -> None:
        size = self._size(cost, node) if cost.sized_by else PAGE_SIZE
        item = 1 + inner.points + inner.each * size
        calls, shared = cost.calls, cost.shared
        if cost.first_shared and not self._is_given(node, "after"):
            calls, shared = 0, cost.calls
        measure.shared += shared
        if cost.of_page:
            measure.each = min(measure.each + item, COUNT_MAX)
        else:
            items = size if cost.sized_by == "ids" else cost.size
            measure.points = min(measure.points + calls + math.ceil(items * item), COUNT_MAX)

    def _size(self, cost: FieldCost, node: FieldNode) -> int:
        """Returns the requested number of items; the maximum if it depends on a variable without a value."""
        size_max, default = (NODES_MAX, NODES_MAX) if cost.sized_by == "ids" else (PAGE_SIZE_MAX, PAGE_SIZE)
        value = _argument(node, cost.sized_by)
        if isinstance(value, VariableNode):
            if self.variables is None:
                self.varies = True
                return size_max
            known = self.variables.get(value.name.value)
            size = len(known) if isinstance(known, list) else known
        elif isinstance(value, ListValueNode):
            size = len(value.values)
        else:
            size = int(value.value) if isinstance(value, IntValueNode) else None
        # An invalid size is refused later, at no cost. A JSON variable may hold 100 as 100.0.
        return int(min(max(size, 0), size_max)) if isinstance(size, int | float) else default

    def _is_given(self, node: FieldNode, name: str) -> bool:
        """True if an argument has a value, or may have one through a variable."""
        value = _argument(node, name)
        if isinstance(value, VariableNode):
            if self.variables is None:
                self.varies = True
                return True
            return bool(self.variables.get(value.name.value))
        return value is not None and not isinstance(value, NullValueNode)


def _defaults(node: OperationDefinitionNode) -> dict[str, Any]:
    """Returns the default values of an operation's variables."""
    defaults = {each.variable.name.value: each.default_value for each in node.variable_definitions or ()}
    return {name: value_from_ast_untyped(value) for name, value in defaults.items() if value is not None}


def _argument(node: FieldNode, name: str) -> ValueNode | None:
    return next((each.value for each in node.arguments or () if each.name.value == name), None)
