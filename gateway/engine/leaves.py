"""Leaves: scalars and enums, as expressions over what a message holds.

Where the field's type vouches for the value it is taken as it is; else graphql-core's own coercion has it.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from graphql import GraphQLEnumType, GraphQLScalarType

from gateway.engine.source_builder import Source
from gateway.schema.scalars import as_it_is

AS_THEY_ARE = frozenset({"String", "ID", "Boolean", "Int"})
"""Scalars that a field of a message fits exactly: `view` has checked its class and its bits."""


def finite(value: float) -> float:
    """A number that JSON has; ValueError for the others."""
    if not isfinite(value):
        raise ValueError(value)
    return value


def leaf(source: Source, type_: Any, text: str, *, vouched: bool) -> str:
    """The expression that coerces `text`, which is not None. `vouched`: it is a field of a message that the type fits."""
    if isinstance(type_, GraphQLEnumType):
        names = {value.value: name for name, value in type_.values.items()}
        if vouched:
            return f"{_enum(source, type_, names)}[{text}]"
        return f"{source.constant(type_.coerce_output_value, 'coerce')}({text})"
    assert isinstance(type_, GraphQLScalarType)
    if type_.coerce_output_value is as_it_is or (vouched and type_.name in AS_THEY_ARE):
        return text
    if vouched and type_.name == "Float":
        return f"{source.constant(finite, 'finite')}({text})"
    coerce = source.constant(type_.coerce_output_value, "coerce")
    if type_.name in ("String", "ID"):
        held = source.name("v")
        return f"({held} if type({held} := {text}) is str else {coerce}({held}))"
    return f"{coerce}({text})"


def _enum(source: Source, type_: GraphQLEnumType, names: dict[int, str]) -> str:
    known = source.enums.get(type_.name)
    if known is None:
        known = source.enums[type_.name] = source.constant(names, "names")
    return known
