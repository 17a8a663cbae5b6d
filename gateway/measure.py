"""What a document comes to: how deep it is, how much it selects, and the points that it costs at most.

A fragment is measured once, however often it is spread: 26 fragments that each spread the next one twice are 27 measurements, and
yet count as the 67 million fields they stand for.

**Points** are the most that an operation costs: one for each value of its answer and `CALL_POINTS` for each rpc. A list counts as often as
it has items: a page its `first`, `nodes` its `ids`, any other list its declared size (`weights.py`), a list of introspection its average
size. An edge costs one rpc for a level, since one rpc fetches it for all objects of a level; a field that calls an rpc of its own costs
one for each object.
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

from gateway.nodes import NODES_MAX
from gateway.weights import Weight, Weights
from services.kit.pages import PAGE_SIZE, PAGE_SIZE_MAX

MANY = 10**12
"""No count goes beyond it."""


class Measure(Struct):
    """What a selection, with all within it, comes to."""

    depth: int = 0
    fields: int = 0
    aliases: int = 0
    directives: int = 0
    spreads: int = 0
    introspected: int = 0
    introspection_depth: int = 0
    repeats: int = 0
    points: int = 0
    """What is paid for each of the lists' items that the selection stands in."""
    each: int = 0
    """Of a page: what is paid for each of its items."""
    shared: int = 0
    """What is paid once, however many items there are: edges."""
    names: dict[str, int] = field(default_factory=dict)
    """How often each name of the answer is selected here, not deeper."""

    @property
    def roots(self) -> int:
        """Fields here, not deeper."""
        return sum(self.names.values())

    @property
    def cost(self) -> int:
        """Points of all of it. A page whose size nobody said has the usual one."""
        return self.points + self.each * PAGE_SIZE + self.shared

    def add(self, other: Measure) -> None:
        """What `other` selects stands here too."""
        self.within(other)
        self.points = min(self.points + other.points, MANY)
        self.each = min(self.each + other.each, MANY)
        self.depth = max(self.depth, other.depth)
        self.introspection_depth = max(self.introspection_depth, other.introspection_depth)
        for name, times in other.names.items():
            self.names[name] = min(self.names.get(name, 0) + times, MANY)

    def within(self, other: Measure) -> None:
        """Takes over what is counted alike wherever it stands."""
        self.fields = min(self.fields + other.fields, MANY)
        self.aliases = min(self.aliases + other.aliases, MANY)
        self.directives = min(self.directives + other.directives, MANY)
        self.spreads = min(self.spreads + other.spreads, MANY)
        self.introspected = min(self.introspected + other.introspected, MANY)
        self.shared = min(self.shared + other.shared, MANY)
        self.repeats = max(self.repeats, other.repeats)


class Measuring:
    """One document being measured, with these variables or with any."""

    def __init__(self, weights: Weights, document: DocumentNode, variables: Mapping[str, Any] | None = None) -> None:
        self.weights, self.variables = weights, dict(variables) if variables is not None else None
        self.fragments = {item.name.value: item for item in document.definitions if isinstance(item, FragmentDefinitionNode)}
        self.measured: dict[str, Measure] = {}
        self.varies = False
        """Whether a variable that is not known decides about the cost."""

    def operation(self, node: OperationDefinitionNode) -> Measure:
        """An operation, its own directives included."""
        if self.variables is not None:
            self.variables = _defaults(node) | self.variables
        measure = self._selection(self.weights.schema.get_root_type(node.operation), node.selection_set)
        whole = Measure(directives=len(node.directives or ()))
        whole.directives += sum(len(each.directives or ()) for each in node.variable_definitions or ())
        whole.add(measure)
        return whole

    def fragment(self, name: str) -> Measure:
        """A fragment: measured when first met. One that is not there, or spreads itself, counts nothing; validation refuses it."""
        kept = self.measured.get(name)
        if kept is None:
            node = self.fragments.get(name)
            kept = self.measured[name] = Measure()
            if node is not None:
                kept = self.measured[name] = self._selection(self._type(node.type_condition.name.value), node.selection_set)
                kept.directives += len(node.directives or ())
        return kept

    def _type(self, name: str) -> Any:
        found = self.weights.schema.get_type(name)
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
        """Adds a field, with what is selected of its value, to the measure of the selection it stands in."""
        name = (node.alias or node.name).value
        measure.names[name] = measure.names.get(name, 0) + 1
        measure.aliases += node.alias is not None
        weight = self.weights.of(parent, node.name.value)
        inner = self._selection(weight.type, node.selection_set) if node.selection_set is not None else Measure()
        measure.within(inner)
        self._price(weight, node, inner, measure)
        if parent is not None and parent.name.startswith("__"):
            measure.introspected += 1
            measure.introspection_depth = max(measure.introspection_depth, inner.introspection_depth + 1)
            return
        measure.fields += 1
        measure.depth = max(measure.depth, inner.depth + 1)
        measure.introspection_depth = max(measure.introspection_depth, inner.introspection_depth)

    def _price(self, weight: Weight, node: FieldNode, inner: Measure, measure: Measure) -> None:
        size = self._size(weight, node) if weight.sized_by else PAGE_SIZE
        item = 1 + inner.points + inner.each * size
        calls, shared = weight.calls, weight.shared
        if weight.first_shared and not self._given(node, "after"):
            calls, shared = 0, weight.calls
        measure.shared += shared
        if weight.of_page:
            measure.each = min(measure.each + item, MANY)
        else:
            items = size if weight.sized_by == "ids" else weight.size
            measure.points = min(measure.points + calls + math.ceil(items * item), MANY)

    def _size(self, weight: Weight, node: FieldNode) -> int:
        """How many items a field is asked for; as many as there may be when a variable says it that is not known."""
        most, usual = (NODES_MAX, NODES_MAX) if weight.sized_by == "ids" else (PAGE_SIZE_MAX, PAGE_SIZE)
        value = _argument(node, weight.sized_by)
        if isinstance(value, VariableNode):
            if self.variables is None:
                self.varies = True
                return most
            known = self.variables.get(value.name.value)
            asked = len(known) if isinstance(known, list) else known
        elif isinstance(value, ListValueNode):
            asked = len(value.values)
        else:
            asked = int(value.value) if isinstance(value, IntValueNode) else None
        # What cannot be asked for is refused later and costs nothing then. A variable may say 100 as 100.0.
        return int(min(max(asked, 0), most)) if isinstance(asked, int | float) else usual

    def _given(self, node: FieldNode, name: str) -> bool:
        """Whether an argument is given, or may be."""
        value = _argument(node, name)
        if isinstance(value, VariableNode):
            if self.variables is None:
                self.varies = True
                return True
            return bool(self.variables.get(value.name.value))
        return value is not None and not isinstance(value, NullValueNode)


def _defaults(node: OperationDefinitionNode) -> dict[str, Any]:
    """What the variables of an operation are that nobody gives."""
    defaults = {each.variable.name.value: each.default_value for each in node.variable_definitions or ()}
    return {name: value_from_ast_untyped(value) for name, value in defaults.items() if value is not None}


def _argument(node: FieldNode, name: str) -> ValueNode | None:
    return next((each.value for each in node.arguments or () if each.name.value == name), None)
