"""What an operation selects: for every type that a value can have, its fields in the order of the answer, equal ones merged.

The conditions of `@skip` and `@include` are settled: a plan is compiled for their values.
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
"""Of one plan. Fragments within fragments can ask for exponentially many."""
CONDITIONS_MAX = 4
"""Variables of `@skip` and `@include`: an operation has a plan for each combination that was asked for."""
TYPENAME = "__typename"

Conditions = Mapping[str, bool]


class Uncompiled(Exception):
    """The engine leaves this operation to the ordinary executor; `reason` is for the metric."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Field:
    """A field of a selection: `key` is its name in the answer, `nodes` where the document asks for it."""

    def __init__(self, key: str, nodes: list[FieldNode], parent: GraphQLObjectType) -> None:
        self.key, self.nodes, self.parent = key, nodes, parent
        self.name = nodes[0].name.value
        self.selections: dict[str, Selection] = {}
        """By the name of each object type that the field's value can have."""
        self.deferred: Any = None
        """How its value comes later (`deferred.Deferred`), when it does."""
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

    def operation(self, operation: OperationDefinitionNode) -> Selection:
        """The whole tree of an operation."""
        root = self.schema.get_root_type(operation.operation)
        if root is None or operation.directives:
            raise Uncompiled("operation")
        return self._selection(root, [operation.selection_set])

    def _selection(self, type_: GraphQLObjectType, sets: Iterable[SelectionSetNode]) -> Selection:
        found: dict[str, list[FieldNode]] = {}
        seen: set[str] = set()
        for each in sets:
            self._collect(type_, each.selections, found, seen)
        return Selection(type_, [self._field(type_, key, nodes) for key, nodes in found.items()])

    def _field(self, type_: GraphQLObjectType, key: str, nodes: list[FieldNode]) -> Field:
        self.count += 1
        if self.count > FIELDS_MAX:
            raise Uncompiled("size")
        if nodes[0].name.value in ("__schema", "__type"):
            raise Uncompiled("introspection")
        field = Field(key, nodes, type_)
        sets = [node.selection_set for node in nodes if node.selection_set is not None]
        if sets:
            for possible in self._possible(get_named_type(field.type)):
                field.selections[possible.name] = self._selection(possible, sets)
        return field

    def _possible(self, type_: Any) -> Iterable[GraphQLObjectType]:
        return self.schema.get_possible_types(type_) if is_abstract_type(type_) else (type_,)

    def _collect(
        self, type_: GraphQLObjectType, selections: Iterable[SelectionNode], found: dict[str, list[FieldNode]], seen: set[str]
    ) -> None:
        for each in selections:
            if not self._included(each):
                continue
            if isinstance(each, FieldNode):
                found.setdefault((each.alias or each.name).value, []).append(each)
                continue
            fragment: Any = each
            if isinstance(each, FragmentSpreadNode):
                fragment = self.fragments[each.name.value]
                if not self._applies(fragment, type_) or each.name.value in seen:
                    continue
                seen.add(each.name.value)
            elif not self._applies(fragment, type_):
                continue
            self._collect(type_, fragment.selection_set.selections, found, seen)

    def _applies(self, fragment: Any, type_: GraphQLObjectType) -> bool:
        if fragment.type_condition is None or fragment.type_condition.name.value == type_.name:
            return True
        condition = self.schema.get_type(fragment.type_condition.name.value)
        if is_object_type(condition):
            return False
        assert isinstance(condition, GraphQLAbstractType)
        return self.schema.is_sub_type(condition, type_)

    def _included(self, node: SelectionNode) -> bool:
        settled = {directive.name.value: self._settled(directive) for directive in node.directives or ()}
        return not settled.pop("skip", False) and settled.pop("include", True)

    def _settled(self, directive: DirectiveNode) -> bool:
        value = _condition(directive)
        return self.conditions[value] if isinstance(value, str) else value


def _condition(directive: DirectiveNode) -> str | bool:
    """What a `@skip` or `@include` depends on: a variable's name, or nothing."""
    ((_, value),) = ((each.name, each.value) for each in directive.arguments or ())
    if isinstance(value, VariableNode):
        return value.name.value
    if isinstance(value, BooleanValueNode):
        return value.value
    raise Uncompiled("directive")


def conditions_of(document: DocumentNode, operation: OperationDefinitionNode) -> tuple[str, ...]:
    """The variables of the operation that decide what it selects. `Uncompiled` when there are too many."""
    found: dict[str, None] = {}
    for definition in document.definitions:
        if definition is operation or isinstance(definition, FragmentDefinitionNode):
            _find_conditions(definition.selection_set, found)
    own = {each.variable.name.value for each in operation.variable_definitions or ()}
    names = tuple(name for name in found if name in own)
    if len(names) > CONDITIONS_MAX:
        raise Uncompiled("conditions")
    return names


def _find_conditions(selections: SelectionSetNode, found: dict[str, None]) -> None:
    for each in selections.selections:
        for directive in each.directives or ():
            if directive.name.value not in ("skip", "include"):
                raise Uncompiled("directive")
            if isinstance(name := _condition(directive), str):
                found[name] = None
        nested = getattr(each, "selection_set", None)
        if nested is not None:
            _find_conditions(nested, found)
