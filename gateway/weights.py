"""What each field of the graph weighs: the rpcs it takes, and how many items it has. `measure.py` counts a document by it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from graphql import (
    GraphQLEnumType,
    GraphQLSchema,
    get_named_type,
    get_nullable_type,
    is_abstract_type,
    is_composite_type,
    is_input_object_type,
    is_input_type,
    is_introspection_type,
    is_list_type,
)
from msgspec import Struct

from gateway.calls import CallField, MutationField
from gateway.edges import EdgeField
from gateway.follow import FollowField
from gateway.nodes import NodeField

CALL_POINTS = 500
"""About what an rpc costs the gateway, in values of an answer."""
LIST_SIZE = 10
LIST_SIZE_MAX = 20
"""Of lists within a message: what the description says, at most this, since not all of them are full at once; else `LIST_SIZE`."""
SIZE = re.compile(r"\bat most (\d+)\b|\b\d+ to (\d+)\b|\bhighest (\d+)\b", re.IGNORECASE)


class Weight(Struct, frozen=True):
    """What a field of the schema costs, and how many of it there are."""

    type: Any = None
    """What its value is; None for a leaf."""
    calls: int = 0
    """Points for each item that it stands on."""
    shared: int = 0
    """Points for a level."""
    size: float = 1
    """Items of a list; 1 for what is none."""
    sized_by: str = ""
    """The argument that tells how many items its page or list has."""
    of_page: bool = False
    """A list with as many items as were asked for where its page is."""
    first_shared: bool = False
    """Asked without `after` it is an edge."""


UNKNOWN = Weight()
"""A field that the schema has not; validation says so."""


class Weights:
    """What the fields of a schema weigh, each worked out when first met."""

    def __init__(self, schema: GraphQLSchema) -> None:
        self.schema, self.introspected = schema, _introspected(schema)
        self.known: dict[tuple[str, str], Weight] = {}

    def of(self, parent: Any, name: str) -> Weight:
        """The weight of a field of a type."""
        if parent is None:
            return UNKNOWN
        kept = self.known.get((parent.name, name))
        if kept is None:
            found = self.schema.get_field(parent, name)
            if found is None:
                return UNKNOWN
            kept = self.known[parent.name, name] = self._weight(parent, name, found)
        return kept

    def _weight(self, parent: Any, name: str, core: Any) -> Weight:
        declared = (core.extensions or {}).get("strawberry-definition")
        type_ = get_named_type(core.type)
        listed = is_list_type(get_nullable_type(core.type))
        batched = isinstance(declared, EdgeField) or (isinstance(declared, NodeField) and declared.through is not None)
        called = isinstance(declared, CallField | MutationField | NodeField | FollowField) and not batched
        return Weight(
            type=type_ if is_composite_type(type_) else None,
            calls=CALL_POINTS if called else 0,
            shared=CALL_POINTS if batched else 0,
            size=self._size(parent, name, core, listed),
            sized_by=next((argument for argument in ("first", "ids") if argument in core.args), ""),
            of_page=listed and "pageInfo" in getattr(parent, "fields", ()) and name in ("nodes", "edges"),
            first_shared=isinstance(declared, CallField) and declared.first is not None,
        )

    def _size(self, parent: Any, name: str, core: Any, listed: bool) -> float:
        if is_introspection_type(parent):
            return self.introspected.get(name, LIST_SIZE if listed else 1)
        return _size_told(core.description) if listed else 1


def _size_told(description: str | None) -> int:
    found = SIZE.search(description or "")
    return min(int(next(filter(None, found.groups()))), LIST_SIZE_MAX) if found else LIST_SIZE


def _introspected(schema: GraphQLSchema) -> Mapping[str, float]:
    """How many items introspection's lists have: on the average, so that a list within a list has as many as there are in the schema."""
    types = list(schema.type_map.values())
    fields = [field for each in types if not is_input_type(each) for field in getattr(each, "fields", {}).values()]
    inputs = [field for each in types if is_input_object_type(each) for field in each.fields.values()]
    given = [argument for field in fields for argument in field.args.values()]
    wrapped = sum(str(each.type).count("!") + str(each.type).count("[") for each in (*fields, *inputs, *given))
    each_type = {
        "fields": len(fields),
        "inputFields": len(inputs),
        "enumValues": sum(len(each.values) for each in types if isinstance(each, GraphQLEnumType)),
        "interfaces": sum(len(getattr(each, "interfaces", ())) for each in types),
        "possibleTypes": sum(len(schema.get_possible_types(each)) for each in types if is_abstract_type(each)),
    }
    return {name: many / len(types) for name, many in each_type.items()} | {
        "types": len(types),
        "args": len(given) / len(fields),
        "ofType": wrapped / (wrapped + len(fields) + len(inputs) + len(given)),
    }
