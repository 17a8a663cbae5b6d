"""Code generator: expressions that complete values of each GraphQL type.

A function here takes the expression of a value and returns the expression of its part of the answer, which raises if the value does not
fit its type. For example, a nullable string field of a message `o` becomes `(o.title or None)`, and a list of objects becomes
`[object3(x2, R) for x2 in o.lines]`. Deferred fields are null at first; their keys are put in the queue of the run `R`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import TYPE_CHECKING, Any

from graphql import GraphQLEnumType, GraphQLList, GraphQLNonNull, GraphQLObjectType, GraphQLScalarType, is_leaf_type

from gateway.engine.collect_fields import TYPENAME, Field, Selection
from gateway.engine.field_access import access_field
from gateway.engine.source_builder import SourceBuilder
from gateway.engine.value_info import UNKNOWN_VALUE, ValueInfo, selections_by_class, value_classes
from gateway.schema.scalars import serialize_unchanged

if TYPE_CHECKING:
    from gateway.engine.run import Run

UNCHANGED_SCALARS = frozenset({"String", "ID", "Boolean", "Int"})
"""A trusted value of these scalars is already in the format of the answer: `object_type` compared its proto type."""
DEPTH_MAX = 6
"""A dict display nests at most this many others, because Python's parser limits nesting."""


def complete_value(source: SourceBuilder, field: Field, type_: Any, value: str, info: ValueInfo) -> str:
    """Returns the expression that completes `value` as the type."""
    if isinstance(type_, GraphQLNonNull):
        if not info.is_nullable:
            return complete_value(source, field, type_.of_type, value, info)
        name = source.new_name("v")
        completed = complete_value(source, field, type_.of_type, name, info.non_null)
        return f"(invalid() if ({name} := {value}) is None else {completed})"
    if info.is_nullable:
        name = source.new_name("v")
        completed = complete_value(source, field, type_, name, info.non_null)
        return value if completed == name else f"(None if ({name} := {value}) is None else {completed})"
    if isinstance(type_, GraphQLList):
        return _complete_list(source, field, type_, value, info)
    if is_leaf_type(type_):
        return _complete_leaf(source, type_, value, is_trusted=info.is_trusted)
    if isinstance(type_, GraphQLObjectType):
        return _complete_object(source, field, type_, value, info)
    return _complete_abstract(source, field, value)


def _complete_list(source: SourceBuilder, field: Field, type_: GraphQLList, value: str, info: ValueInfo) -> str:  # type: ignore[type-arg]
    if info.is_map:
        return _complete_map(field, value)
    item = source.new_name("x")
    completed = complete_value(source, field, type_.of_type, item, info.items or UNKNOWN_VALUE)
    if completed == item:
        return f"list({value})"
    if ":=" in completed:  # inside a comprehension, it would bind a variable of the enclosing function
        completed = f"{source.add_function('item', f'{item}, R', f'    return {completed}')}({item}, R)"
    return f"[{completed} for {item} in {value}]"


def _complete_map(field: Field, value: str) -> str:
    """The entries of a map: objects with a name and a value."""
    ((type_name, selection),) = field.selections.items()
    variables = {"name": "k", "value": "v", TYPENAME: repr(type_name)}
    entry = ", ".join(f"{each.key!r}: {variables[each.name]}" for each in selection.fields)
    return f"[{{{entry}}} for k, v in {value}]"


def _check_finite(value: float) -> float:
    """Returns the number; raises ValueError for NaN and infinity, which JSON does not have."""
    if not isfinite(value):
        raise ValueError(value)
    return value


def _complete_leaf(source: SourceBuilder, type_: Any, value: str, *, is_trusted: bool) -> str:
    """A scalar or an enum: unchanged if the value is trusted, otherwise coerced by graphql-core."""
    if isinstance(type_, GraphQLEnumType):
        if is_trusted:
            return f"{_enum_names(source, type_)}[{value}]"
        return f"{source.constant(type_.coerce_output_value, 'coerce')}({value})"
    assert isinstance(type_, GraphQLScalarType)
    if type_.coerce_output_value is serialize_unchanged or (is_trusted and type_.name in UNCHANGED_SCALARS):
        return value
    if is_trusted and type_.name == "Float":
        return f"{source.constant(_check_finite, 'finite')}({value})"
    coerce = source.constant(type_.coerce_output_value, "coerce")
    if type_.name in ("String", "ID"):
        name = source.new_name("v")
        return f"({name} if type({name} := {value}) is str else {coerce}({name}))"
    return f"{coerce}({value})"


def _enum_names(source: SourceBuilder, type_: GraphQLEnumType) -> str:
    name = source.enum_names.get(type_.name)
    if name is None:
        names = {value.value: name for name, value in type_.values.items()}
        name = source.enum_names[type_.name] = source.constant(names, "names")
    return name


def _complete_object(source: SourceBuilder, field: Field, type_: GraphQLObjectType, value: str, info: ValueInfo) -> str:
    selection = field.selections[type_.name]
    classes = value_classes(type_)
    if classes is not None and not _is_instance_guaranteed(info, classes):
        name = source.new_name("v")
        value = f"({name} if type({name} := {value}) in {source.constant(frozenset(classes), 'classes')} else invalid())"
    if not value.isidentifier() or has_deferred(selection) or _depth(selection) > DEPTH_MAX:
        return f"{object_function(source, selection)}({value}, R)"
    return _dict_display(source, selection, value)


def _is_instance_guaranteed(info: ValueInfo, classes: tuple[type[Any], ...]) -> bool:
    return bool(info.messages) and info.messages <= {each.DESCRIPTOR.full_name for each in classes if hasattr(each, "DESCRIPTOR")}


def _complete_abstract(source: SourceBuilder, field: Field, value: str) -> str:
    """A value of an interface or union: its class decides which function completes it."""
    functions: dict[type[Any], Callable[[Any, Run], Any]] = {}
    names = {each: object_function(source, selection) for each, selection in selections_by_class(field).items()}
    source.dispatch_tables.append((functions, names))
    name = source.new_name("v")
    return f"{source.constant(functions, 'by_class')}[type({name} := {value})]({name}, R)"


def object_function(source: SourceBuilder, selection: Selection) -> str:
    """Adds a function that returns the answer's part for an object and puts its deferred fields in the queue; returns its name."""
    display = _dict_display(source, selection, "o")
    statements = "".join(field.deferred.queue_statement(source, field, "o") for field in selection.fields if field.deferred is not None)
    body = f"    d = {display}\n{statements}    return d" if statements else f"    return {display}"
    return source.add_function("object", "o, R", body)


def _dict_display(source: SourceBuilder, selection: Selection, obj: str) -> str:
    """The fields of the object named `obj` as a dict display."""
    return "{" + ", ".join(f"{field.key!r}: {_complete_field(source, selection, field, obj)}" for field in selection.fields) + "}"


def _complete_field(source: SourceBuilder, selection: Selection, field: Field, obj: str) -> str:
    if field.name == TYPENAME:
        return repr(selection.type.name)
    if field.deferred is not None:
        return "None"
    access = access_field(source, field, obj)
    if access.guard is None:
        return complete_value(source, field, field.type, access.expression, access.info)
    name = source.new_name("v")
    completed = complete_value(source, field, field.type, name, access.info)
    missing = "invalid()" if isinstance(field.type, GraphQLNonNull) else "None"
    if completed == name:
        return f"({access.expression} if {access.guard} else {missing})"
    return f"({completed} if {access.guard} and ({name} := {access.expression}) is not None else {missing})"


def has_deferred(selection: Selection) -> bool:
    """True if a field of the selection, or a field at any depth below it, is deferred."""
    return any(
        field.deferred is not None or any(map(has_deferred, field.selections.values()))
        for field in selection.fields
        if field.name != TYPENAME
    )


def _depth(selection: Selection) -> int:
    return 1 + max((_depth(below) for field in selection.fields for below in field.selections.values()), default=0)
