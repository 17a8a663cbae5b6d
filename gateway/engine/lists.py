"""Lists: comprehensions over a repeated field, or over what a call answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphql import GraphQLList

from gateway.engine import values
from gateway.engine.collect_fields import TYPENAME
from gateway.engine.source_builder import Source
from gateway.engine.value_info import ANYTHING, Known

if TYPE_CHECKING:
    from gateway.engine.collect_fields import Field


def many(source: Source, field: Field, type_: GraphQLList, text: str, known: Known) -> str:  # type: ignore[type-arg]
    """The list that `text` iterates over."""
    if known.entries:
        return _entries(field, text)
    item = source.name("x")
    made = values.value(source, field, type_.of_type, item, known.items or ANYTHING)
    if made == item:
        return f"list({text})"
    if ":=" in made:  # a comprehension would reach out for what it binds
        made = f"{source.function('item', f'{item}, R', f'    return {made}')}({item}, R)"
    return f"[{made} for {item} in {text}]"


def _entries(field: Field, text: str) -> str:
    """The entries of a map, whose type has a name and a value."""
    ((type_name, selection),) = field.selections.items()
    parts = {"name": "k", "value": "v", TYPENAME: repr(type_name)}
    made = ", ".join(f"{each.key!r}: {parts[each.name]}" for each in selection.fields)
    return f"[{{{made}}} for k, v in {text}]"
