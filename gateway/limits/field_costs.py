"""Field costs: the points and the list size of each field of the graph. `limits/cost.py` computes the cost of a document from them.

The sizes of lists are declared: by `(quanyu.access.v1.list_size)` in the protos; by `list_size` for a list that is not a proto field.

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
"""A list of introspection whose items `_introspected` does not count costs as much as this many."""


class FieldCost(Struct, frozen=True):
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
    """True for the list of a page, which has as many items as the page."""
    first_shared: bool = False
    """True if the first page (without `after`) costs its points once for a level."""


UNKNOWN = FieldCost()
"""The cost of a field that the schema does not have; validation refuses the field."""


class FieldCosts:
    """The field costs of a schema, each computed at its first use."""

    def __init__(self, schema: GraphQLSchema) -> None:
        self.schema, self.introspected = schema, _introspected(schema)
        self.known: dict[tuple[str, str], FieldCost] = {}

    def find(self, parent: Any, name: str) -> FieldCost:
        """Returns the cost of a field of a type; `UNKNOWN` for a field that the schema does not have."""
        if parent is None:
            return UNKNOWN
        found = self.known.get((parent.name, name))
        if found is None:
            field = self.schema.get_field(parent, name)
            if field is None:
                return UNKNOWN
            found = self.known[parent.name, name] = self._compute(parent, name, field)
        return found

    def _compute(self, parent: Any, name: str, core: Any) -> FieldCost:
        declared: Any = (core.extensions or {}).get("strawberry-definition")
        type_ = get_named_type(core.type)
        listed = is_list_type(get_nullable_type(core.type))
        batched = isinstance(declared, ReferenceField) or (isinstance(declared, NodeField) and declared.loader is not None)
        called = isinstance(declared, RpcField | MutationField | NodeField | SubscriptionField) and not batched
        return FieldCost(
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


def format_rows(schema: GraphQLSchema) -> Iterator[str]:
    """Yields a Markdown table of the fields that call an rpc or are lists; all others cost one point."""
    costs = FieldCosts(schema)
    yield "| field | points for each object | points for a level | items |"
    yield "|---|---|---|---|"
    for _, type_ in sorted(schema.type_map.items()):
        if is_introspection_type(type_) or not (is_object_type(type_) or is_interface_type(type_)):
            continue
        for name in type_.fields:
            cost = costs.find(type_, name)
            items = f"`{cost.sized_by}`" if cost.sized_by else "of its page" if cost.of_page else f"{cost.size:g}"
            if cost.calls or cost.shared or items != "1":
                once = cost.calls if cost.first_shared else 0
                yield f"| {type_.name}.{name} | {cost.calls - once} | {cost.shared + once} | {items} |"


def _introspected(schema: GraphQLSchema) -> Mapping[str, float]:
    """Returns the average number of items of each list of introspection, for the cost of a list within a list."""
    types = list(schema.type_map.values())
    fields = [field for each in types if not is_input_type(each) for field in getattr(each, "fields", {}).values()]
    inputs = [field for each in types if is_input_object_type(each) for field in each.fields.values()]
    arguments = [argument for field in fields for argument in field.args.values()]
    wrapped = sum(str(each.type).count("!") + str(each.type).count("[") for each in (*fields, *inputs, *arguments))
    totals = {
        "fields": len(fields),
        "inputFields": len(inputs),
        "enumValues": sum(len(each.values) for each in types if isinstance(each, GraphQLEnumType)),
        "interfaces": sum(len(getattr(each, "interfaces", ())) for each in types),
        "possibleTypes": sum(len(schema.get_possible_types(each)) for each in types if is_abstract_type(each)),
    }
    return {name: total / len(types) for name, total in totals.items()} | {
        "types": len(types),
        "args": len(arguments) / len(fields),
        "ofType": wrapped / (wrapped + len(fields) + len(inputs) + len(arguments)),
    }
