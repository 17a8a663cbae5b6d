"""Variables and arguments: the values of a request, converted to the keyword arguments of a field.

Literals are constants of the plan. Variables of four simple types are checked here, which is cheaper. graphql-core and Strawberry convert
all others and report all errors.
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

SIMPLE_TYPES: Mapping[str, type] = {"ID": str, "String": str, "Boolean": bool, "Int": int}
"""Values of these scalars need no conversion if they have this class."""
INT_MAX = 2**31 - 1
COERCION_ERRORS_MAX = 50
"""At most this many errors of variables are reported."""
NO_VARIABLES = VariableValues({}, {})


class _SimpleVariable(Struct, frozen=True):
    """A variable of a simple type."""

    name: str
    kind: type
    required: bool
    default: dict[str, Any]
    """Its default value by its name; empty without a default."""


class Variables:
    """The variables of one operation."""

    def __init__(self, schema: GraphQLSchema, operation: OperationDefinitionNode, *, suggestions: bool) -> None:
        self.schema, self.definitions, self.suggestions = schema, operation.variable_definitions or (), suggestions
        simple = [self._simple_variable(definition) for definition in self.definitions]
        self.simple = [each for each in simple if each is not None]
        self.is_simple = len(self.simple) == len(simple)

    def _simple_variable(self, definition: VariableDefinitionNode) -> _SimpleVariable | None:
        type_: Any = type_from_ast(self.schema, definition.type)
        required = is_non_null_type(type_)
        named = type_.of_type if isinstance(type_, GraphQLNonNull) else type_
        kind = SIMPLE_TYPES.get(getattr(named, "name", ""))
        if kind is None:
            return None
        default: dict[str, Any] = {}
        if definition.default_value is not None:
            values = get_variable_values(self.schema, [definition], {})
            if isinstance(values, list):
                return None
            default = values.coerced
        return _SimpleVariable(definition.variable.name.value, kind, required, default)

    def coerce(self, inputs: Mapping[str, Any]) -> Mapping[str, Any] | list[GraphQLError]:
        """Returns the values by name, without variables that have neither a value nor a default; or the errors of invalid ones."""
        if not self.definitions:
            return {}
        if self.is_simple and (values := self._coerce_simple(inputs)) is not None:
            return values
        exact = self.coerce_exactly(inputs)
        return exact if isinstance(exact, list) else exact.coerced

    def coerce_exactly(self, inputs: Mapping[str, Any]) -> VariableValues | list[GraphQLError]:
        """Returns the values with their sources, as graphql-core represents them; or the errors of invalid ones."""
        return get_variable_values(
            self.schema, self.definitions, dict(inputs), max_errors=COERCION_ERRORS_MAX, hide_suggestions=not self.suggestions
        )

    def _coerce_simple(self, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the values; None if one of them needs a conversion or is invalid."""
        values: dict[str, Any] = {}
        for each in self.simple:
            if each.name not in inputs:
                if each.required and not each.default:
                    return None
                values.update(each.default)
                continue
            value = inputs[each.name]
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
        nodes = {each.name.value: each.value for each in self.node.arguments or ()}
        self.constant = not any(map(_has_variable, nodes.values()))
        self.variables: list[tuple[str, str, bool]] = []
        """The arguments that are variables of a leaf type: Python name, name of the variable, and whether it is nullable."""
        self.literals = self._convert_literals(nodes)
        """The keyword arguments that are equal for all requests; None if an argument needs graphql-core."""

    def _convert_literals(self, nodes: Mapping[str, ValueNode]) -> dict[str, Any] | None:
        """Returns the literal arguments; None if an argument is neither a literal nor a variable of a leaf type."""
        if self.constant:
            try:
                return self._convert(NO_VARIABLES)
            except Exception:
                raise Uncompiled("literal") from None
        literals: dict[str, Any] = {}
        for argument in self.declared:
            name = self.schema.config.name_converter.from_argument(argument)
            core, value = self.core.args[name], nodes.get(name)
            is_leaf = is_leaf_type(get_nullable_type(core.type))
            if isinstance(value, VariableNode) and is_leaf and core.default is None:
                self.variables.append((argument.python_name, value.name.value, not is_non_null_type(core.type)))
            elif value is not None and is_leaf:
                literals[argument.python_name] = coerce_input_literal(value, core.type)
            elif value is not None or core.default is not None:
                return None
        return literals

    def values(self, run: Run) -> dict[str, Any]:
        """Returns the keyword arguments of the field; raises GraphQLError if a variable has no valid value for it."""
        if self.literals is not None:
            if self.constant:
                return self.literals
            variables, values = run.variables, self.literals.copy()
            for name, variable, is_nullable in self.variables:
                value = variables.get(variable)
                if value is not None or (is_nullable and variable in variables):
                    values[name] = value
                elif not is_nullable:
                    break
            else:
                return values
        return self._convert(run.exact_variables())

    def _convert(self, variables: VariableValues) -> dict[str, Any]:
        values = get_argument_values(self.core, self.node, variables, None, not self.suggestions)
        return convert_arguments(
            values, self.declared, scalar_registry=self.schema.schema_converter.scalar_registry, config=self.schema.config
        )
