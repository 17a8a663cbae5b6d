"""Values of any type, as expressions: null, lists, leaves, objects and abstract types around each other."""

from __future__ import annotations

from typing import Any

from graphql import GraphQLList, GraphQLNonNull, GraphQLObjectType, is_leaf_type

from gateway.engine import abstract, leaves, lists, objects
from gateway.engine.collect_fields import Field
from gateway.engine.source_builder import Source
from gateway.engine.value_info import Known


def value(source: Source, field: Field, type_: Any, text: str, known: Known) -> str:
    """The expression that completes `text` as the type. It raises when the value is not what the type says."""
    if isinstance(type_, GraphQLNonNull):
        if not known.nullable:
            return value(source, field, type_.of_type, text, known)
        held = source.name("v")
        rest = value(source, field, type_.of_type, held, known.present)
        return f"(absent() if ({held} := {text}) is None else {rest})"
    if known.nullable:
        held = source.name("v")
        rest = value(source, field, type_, held, known.present)
        return text if rest == held else f"(None if ({held} := {text}) is None else {rest})"
    if isinstance(type_, GraphQLList):
        return lists.many(source, field, type_, text, known)
    if is_leaf_type(type_):
        return leaves.leaf(source, type_, text, vouched=known.vouched)
    if isinstance(type_, GraphQLObjectType):
        return objects.one(source, field, type_, text, known)
    return abstract.any_of(source, field, type_, text)
