"""Field costs: the points and the list size of each field of the graph. `limits/cost.py` computes the cost of a document from them.

The sizes of lists are declared: by `(quanyu.access.v1.list_size)` in the protos, by `list_size` where a list is no field of a message.

`python -m gateway.tools.field_costs` prints the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    is_interface_type,
    is_introspection_type,
    is_list_type,
    is_object_type,
)
from msgspec import Struct

from gateway.schema.nodes import NodeField
from gateway.schema.references import ReferenceField
from gateway.schema.rpc_fields import MutationField, RpcField
from gateway.schema.subscription_fields import SubscriptionField

CALL_POINTS = 500
"""An rpc costs the gateway about as much as this many values of an answer."""
INTROSPECTED_SIZE = 10
"""A list of introspection whose items `_introspected` does not count is priced as this many."""


class Weight(Struct, frozen=True):
    """The cost of a field and its number of items."""

    type: Any = None
    """The type of its value; None for a leaf."""
    calls: int = 0
    """Points for each object that it is selected on."""
    shared: int = 0
    """Points for all objects of a level together."""
    size: float = 1
    """Items of a list; 1 for a field that is no list."""
    sized_by: str = ""
    """The argument that sets the number of items of its page or list."""
    of_page: bool = False
    """A list with as many items as its page is asked for."""
    first_shared: bool = False
    """Without `after` it costs its points once for a level."""


UNKNOWN = Weight()
"""A field that the schema does not have; validation refuses it."""


class Weights:
    """The field costs of a schema, each computed at its first use."""

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
        declared: Any = (core.extensions or {}).get("strawberry-definition")
        type_ = get_named_type(core.type)
        listed = is_list_type(get_nullable_type(core.type))
        batched = isinstance(declared, ReferenceField) or (isinstance(declared, NodeField) and declared.loader is not None)
        called = isinstance(declared, RpcField | MutationField | NodeField | SubscriptionField) and not batched
        return Weight(
            type=type_ if is_composite_type(type_) else None,
            calls=CALL_POINTS if called else 0,
            shared=CALL_POINTS if batched else 0,
            size=self._size(parent, name, declared, listed),
            sized_by=next((argument for argument in ("first", "ids") if argument in core.args), ""),
            of_page=listed and "pageInfo" in getattr(parent, "fields", ()) and name in ("nodes", "edges"),
            first_shared=isinstance(declared, RpcField) and declared.loader is not None,
        )

    def _size(self, parent: Any, name: str, declared: Any, listed: bool) -> float:
        if is_introspection_type(parent):
            return self.introspected.get(name, INTROSPECTED_SIZE if listed else 1)
        return declared.list_size if listed else 1


def table(schema: GraphQLSchema) -> Iterator[str]:
    """The rows of a Markdown table of the fields that call an rpc or are lists; all others cost one point."""
    weights = Weights(schema)
    yield "| field | points for each object | points for a level | items |"
    yield "|---|---|---|---|"
    for _, type_ in sorted(schema.type_map.items()):
        if is_introspection_type(type_) or not (is_object_type(type_) or is_interface_type(type_)):
            continue
        for name in type_.fields:
            weight = weights.of(type_, name)
            items = f"`{weight.sized_by}`" if weight.sized_by else "of its page" if weight.of_page else f"{weight.size:g}"
            if weight.calls or weight.shared or items != "1":
                once = weight.calls if weight.first_shared else 0
                yield f"| {type_.name}.{name} | {weight.calls - once} | {weight.shared + once} | {items} |"


def _introspected(schema: GraphQLSchema) -> Mapping[str, float]:
    """The average number of items of introspection's lists, so that a list within a list has as many as there are in the schema."""
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
