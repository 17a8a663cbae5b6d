"""Field collection: the selected fields of each possible object type, merged by response key, in the order of the answer.

Fragments are expanded. `@skip` and `@include` are resolved, because a plan is compiled for the values of their conditions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from graphql import (
    BooleanValueNode,
    DirectiveNode,
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLAbstractType,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLSchema,
    OperationDefinitionNode,
    SelectionNode,
    SelectionSetNode,
    VariableNode,
    get_named_type,
    is_abstract_type,
    is_object_type,
)

FIELDS_MAX = 1_000
"""A plan has at most this many fields; nested fragments can select exponentially many."""
CONDITIONS_MAX = 4
"""An operation uses at most this many variables in `@skip` and `@include`; it has a plan for each combination of their values."""
TYPENAME = "__typename"

Conditions = Mapping[str, bool]


class Uncompiled(Exception):
    """The engine cannot compile this operation, so graphql-core executes it. `reason` is the label of the metric."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Field:
    """A field of a selection. `key` is its response key, `nodes` are its places in the document."""

    def __init__(self, key: str, nodes: list[FieldNode], parent: GraphQLObjectType) -> None:
        self.key, self.nodes, self.parent = key, nodes, parent
        self.name = nodes[0].name.value
        self.selections: dict[str, Selection] = {}
        """The selections on its value, by the name of the object type."""
        self.deferred: Any = None
        """Its `deferred.DeferredField`; None if its value is read from the source object."""
        if self.name != TYPENAME:
            self.core = parent.fields[self.name]
            self.type: GraphQLOutputType = self.core.type
            self.definition: Any = (self.core.extensions or {}).get("strawberry-definition")

    def __str__(self) -> str:
        return f"{self.parent.name}.{self.name}"


class Selection:
    """The fields selected on one object type."""

    def __init__(self, type_: GraphQLObjectType, fields: list[Field]) -> None:
        self.type, self.fields = type_, fields


class Collector:
    """Collects the selections of one operation. Raises `Uncompiled`."""

    def __init__(self, schema: GraphQLSchema, document: DocumentNode, conditions: Conditions) -> None:
        self.schema, self.conditions, self.count = schema, conditions, 0
        self.fragments = {item.name.value: item for item in document.definitions if isinstance(item, FragmentDefinitionNode)}

    def collect_operation(self, operation: OperationDefinitionNode) -> Selection:
        """Returns the selection of an operation, with all selections below it."""
        root = self.schema.get_root_type(operation.operation)
        if root is None or operation.directives:
            raise Uncompiled("operation")
        return self._collect_selection(root, [operation.selection_set])

    def _collect_selection(self, type_: GraphQLObjectType, sets: Iterable[SelectionSetNode]) -> Selection:
        grouped: dict[str, list[FieldNode]] = {}
        visited: set[str] = set()
        for each in sets:
            self._collect_fields(type_, each.selections, grouped, visited)
        return Selection(type_, [self._create_field(type_, key, nodes) for key, nodes in grouped.items()])

    def _create_field(self, type_: GraphQLObjectType, key: str, nodes: list[FieldNode]) -> Field:
        self.count += 1
        if self.count > FIELDS_MAX:
            raise Uncompiled("size")
        if nodes[0].name.value in ("__schema", "__type"):
            raise Uncompiled("introspection")
        field = Field(key, nodes, type_)
        sets = [node.selection_set for node in nodes if node.selection_set is not None]
        if sets:
            for possible in self._possible_types(get_named_type(field.type)):
                field.selections[possible.name] = self._collect_selection(possible, sets)
        return field

    def _possible_types(self, type_: Any) -> Iterable[GraphQLObjectType]:
        return self.schema.get_possible_types(type_) if is_abstract_type(type_) else (type_,)

    def _collect_fields(
        self, type_: GraphQLObjectType, selections: Iterable[SelectionNode], grouped: dict[str, list[FieldNode]], visited: set[str]
    ) -> None:
        """Adds the field nodes to `grouped`, by response key; `visited` are the fragments that were spread."""
        for each in selections:
            if not self._is_included(each):
                continue
            if isinstance(each, FieldNode):
                grouped.setdefault((each.alias or each.name).value, []).append(each)
                continue
            fragment: Any = each
            if isinstance(each, FragmentSpreadNode):
                fragment = self.fragments[each.name.value]
                if not self._has_condition_for(fragment, type_) or each.name.value in visited:
                    continue
                visited.add(each.name.value)
            elif not self._has_condition_for(fragment, type_):
                continue
            self._collect_fields(type_, fragment.selection_set.selections, grouped, visited)

    def _has_condition_for(self, fragment: Any, type_: GraphQLObjectType) -> bool:
        if fragment.type_condition is None or fragment.type_condition.name.value == type_.name:
            return True
        condition = self.schema.get_type(fragment.type_condition.name.value)
        if is_object_type(condition):
            return False
        assert isinstance(condition, GraphQLAbstractType)
        return self.schema.is_sub_type(condition, type_)

    def _is_included(self, node: SelectionNode) -> bool:
        values = {directive.name.value: self._condition_value(directive) for directive in node.directives or ()}
        return not values.get("skip", False) and values.get("include", True)

    def _condition_value(self, directive: DirectiveNode) -> bool:
        value = _find_condition(directive)
        return self.conditions[value] if isinstance(value, str) else value


def _find_condition(directive: DirectiveNode) -> str | bool:
    """Returns the condition of a `@skip` or `@include`: the name of a variable, or a literal."""
    ((_, value),) = ((each.name, each.value) for each in directive.arguments or ())
    if isinstance(value, VariableNode):
        return value.name.value
    if isinstance(value, BooleanValueNode):
        return value.value
    raise Uncompiled("directive")


def conditions_of(document: DocumentNode, operation: OperationDefinitionNode) -> tuple[str, ...]:
    """Returns the variables in the conditions of an operation; raises `Uncompiled` for more than `CONDITIONS_MAX`."""
    found: dict[str, None] = {}
    for definition in document.definitions:
        if definition is operation or isinstance(definition, FragmentDefinitionNode):
            _collect_conditions(definition.selection_set, found)
    declared = {each.variable.name.value for each in operation.variable_definitions or ()}
    names = tuple(name for name in found if name in declared)
    if len(names) > CONDITIONS_MAX:
        raise Uncompiled("conditions")
    return names


def _collect_conditions(selections: SelectionSetNode, found: dict[str, None]) -> None:
    for each in selections.selections:
        for directive in each.directives or ():
            if directive.name.value not in ("skip", "include"):
                raise Uncompiled("directive")
            if isinstance(name := _find_condition(directive), str):
                found[name] = None
        nested = getattr(each, "selection_set", None)
        if nested is not None:
            _collect_conditions(nested, found)
