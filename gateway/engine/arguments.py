"""Variables and arguments: what a request gives, as the values that a field's call takes.

Literals are constants of the plan. Variables of plain types are checked here; all others, and whatever is not in order, go through
graphql-core and Strawberry, which say what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graphql import (
    GraphQLError,
    GraphQLNonNull,
    GraphQLSchema,
    OperationDefinitionNode,
    ValueNode,
    VariableDefinitionNode,
    VariableNode,
    coerce_input_literal,
    get_nullable_type,
    get_variable_values,
    is_leaf_type,
    is_non_null_type,
    type_from_ast,
)
from graphql.execution.values import VariableValues, get_argument_values
from graphql.type import GraphQLField
from msgspec import Struct
from strawberry.types.arguments import convert_arguments

from gateway.engine.collect_fields import Field, Uncompiled

if TYPE_CHECKING:
    import strawberry

    from gateway.engine.run import Run

PLAIN: Mapping[str, type] = {"ID": str, "String": str, "Boolean": bool, "Int": int}
"""Scalars whose values are taken as they are, when they are of this class."""
INT_MAX = 2**31 - 1
COERCION_ERRORS_MAX = 50
NOTHING = VariableValues({}, {})


class _Plain(Struct, frozen=True):
    """A variable of a plain type."""

    name: str
    kind: type
    required: bool
    default: dict[str, Any]
    """Its default value by its name; empty when it has none."""


class Variables:
    """The variables of one operation."""

    def __init__(self, schema: GraphQLSchema, operation: OperationDefinitionNode, *, suggestions: bool) -> None:
        self.schema, self.definitions, self.suggestions = schema, operation.variable_definitions or (), suggestions
        plain = [self._plain(definition) for definition in self.definitions]
        self.plain = [each for each in plain if each is not None]
        self.all_plain = len(self.plain) == len(plain)

    def _plain(self, definition: VariableDefinitionNode) -> _Plain | None:
        type_: Any = type_from_ast(self.schema, definition.type)
        required = is_non_null_type(type_)
        named = type_.of_type if isinstance(type_, GraphQLNonNull) else type_
        kind = PLAIN.get(getattr(named, "name", ""))
        if kind is None:
            return None
        default: dict[str, Any] = {}
        if definition.default_value is not None:
            values = get_variable_values(self.schema, [definition], {})
            if isinstance(values, list):
                return None
            default = values.coerced
        return _Plain(definition.variable.name.value, kind, required, default)

    def coerced(self, given: Mapping[str, Any]) -> Mapping[str, Any] | list[GraphQLError]:
        """Their values by name (left out: those that are neither given nor have a default), or what is wrong with them."""
        if not self.definitions:
            return {}
        if self.all_plain and (values := self._checked(given)) is not None:
            return values
        exact = self.exact(given)
        return exact if isinstance(exact, list) else exact.coerced

    def exact(self, given: Mapping[str, Any]) -> VariableValues | list[GraphQLError]:
        """The same with their sources, as graphql-core has it."""
        return get_variable_values(
            self.schema, self.definitions, dict(given), max_errors=COERCION_ERRORS_MAX, hide_suggestions=not self.suggestions
        )

    def _checked(self, given: Mapping[str, Any]) -> dict[str, Any] | None:
        values: dict[str, Any] = {}
        for each in self.plain:
            if each.name not in given:
                if each.required and not each.default:
                    return None
                values.update(each.default)
                continue
            value = given[each.name]
            if value is None and not each.required:
                values[each.name] = None
            elif type(value) is each.kind and (type(value) is not int or -INT_MAX <= value <= INT_MAX):
                values[each.name] = value
            else:
                return None
        return values


def _has_variable(value: ValueNode) -> bool:
    if isinstance(value, VariableNode):
        return True
    if value.kind == "list_value":
        return any(_has_variable(each) for each in value.values)  # type: ignore[attr-defined]
    return value.kind == "object_value" and any(_has_variable(each.value) for each in value.fields)  # type: ignore[attr-defined]


class Arguments:
    """The arguments of one field of a plan."""

    def __init__(self, field: Field, schema: strawberry.Schema, *, suggestions: bool) -> None:
        self.core: GraphQLField = field.core
        self.node, self.suggestions = field.nodes[0], suggestions
        self.declared, self.schema = field.definition.arguments, schema
        given = {each.name.value: each.value for each in self.node.arguments or ()}
        self.constant = not any(map(_has_variable, given.values()))
        self.variables: list[tuple[str, str, bool]] = []
        """Python's name of each argument that is a variable of a leaf type, the variable's, and whether it may be null or left out."""
        self.literals = self._literals(given)
        """The keyword arguments that are the same for every request."""

    def _literals(self, given: Mapping[str, ValueNode]) -> dict[str, Any] | None:
        """None when the arguments are neither literals nor leaf variables."""
        if self.constant:
            try:
                return self._exact(NOTHING)
            except Exception:
                raise Uncompiled("literal") from None
        literals: dict[str, Any] = {}
        for argument in self.declared:
            name = self.schema.config.name_converter.from_argument(argument)
            core, value = self.core.args[name], given.get(name)
            leaf = is_leaf_type(get_nullable_type(core.type))
            if isinstance(value, VariableNode) and leaf and core.default is None:
                self.variables.append((argument.python_name, value.name.value, not is_non_null_type(core.type)))
            elif value is not None and leaf:
                literals[argument.python_name] = coerce_input_literal(value, core.type)
            elif value is not None or core.default is not None:
                return None
        return literals

    def of(self, run: Run) -> dict[str, Any]:
        """The keyword arguments of the field's call; GraphQLError when a variable does not give what the field needs."""
        if self.literals is not None:
            if self.constant:
                return self.literals
            given, found = run.variables, self.literals.copy()
            for name, variable, nullable in self.variables:
                value = given.get(variable)
                if value is not None or (nullable and variable in given):
                    found[name] = value
                elif not nullable:
                    break
            else:
                return found
        return self._exact(run.exact_variables())

    def _exact(self, variables: VariableValues) -> dict[str, Any]:
        values = get_argument_values(self.core, self.node, variables, None, not self.suggestions)
        return convert_arguments(
            values, self.declared, scalar_registry=self.schema.schema_converter.scalar_registry, config=self.schema.config
        )
