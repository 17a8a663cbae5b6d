"""Relay's `node` and `nodes`: they find objects of any type by id. The prefix of an id names its type."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from strawberry.types import Info
from strawberry.types.arguments import StrawberryArgument

from gateway.schema import descriptions
from gateway.schema.batch_loader import BatchLoader
from gateway.schema.fields import GraphField
from gateway.schema.registry import strawberry_annotation
from gateway.schema.types import NODE_TYPES, Node
from services.kit.errors import Invalid

if TYPE_CHECKING:
    from gateway.schema.resolver_context import ResolverContext

NODES_MAX = 100
"""`nodes` accepts at most this many ids."""
ID_PATTERN = re.compile(r"[a-z]{3}_[A-Za-z0-9_:.-]{1,120}")

NodeLoad = Callable[["ResolverContext", Any], Any]


class NodeField(GraphField):
    """A root field that finds an object, or several, by id. `loader` is None if the id's prefix decides which loader to use."""

    def __init__(
        self,
        argument: str,
        annotation: str,
        argument_description: str,
        description: str,
        load: NodeLoad,
        *,
        loader: BatchLoader | None = None,
        list_size: int = 0,
    ) -> None:
        super().__init__(description=description)
        self.argument, self.load, self.loader, self.list_size = argument, load, loader, list_size
        self._arguments = [
            StrawberryArgument(
                python_name=argument,
                graphql_name=None,
                type_annotation=strawberry_annotation(annotation),
                description=argument_description,
            )
        ]

    @property
    def is_basic_field(self) -> bool:
        return False

    def get_result(self, source: Any, info: Info[Any, Any] | None, args: list[Any], kwargs: Any) -> Any:
        assert info is not None
        return self.load(info.context, kwargs[self.argument])


def find_loader(id: str) -> BatchLoader:
    """Returns the loader of the id's type; raises `Invalid` if no type of the graph has such ids."""
    node_type = NODE_TYPES.get(id[:4]) if ID_PATTERN.fullmatch(id) else None
    if node_type is None:
        raise Invalid("INVALID_ID", "This is not an id of the graph. Use an id that the graph returned.", field="id")
    return node_type.loader


def check_node_count(ids: list[str]) -> None:
    """Raises `Invalid` for more than `NODES_MAX` ids."""
    if len(ids) > NODES_MAX:
        raise Invalid("INVALID_FIELD", f"`ids` must have at most {NODES_MAX} items.", field="ids")


def load_node(context: ResolverContext, id: str) -> Awaitable[Any]:
    """Loads an object, or None; raises `Invalid` if no type of the graph has such ids."""
    return context.loader(find_loader(id)).load(id)


def load_nodes(context: ResolverContext, ids: list[str]) -> list[Awaitable[Any] | Invalid]:
    """Loads objects concurrently, in the order of their ids. An invalid id is an error at its own index only."""
    check_node_count(ids)
    nodes: list[Awaitable[Any] | Invalid] = []
    for id in ids:
        try:
            nodes.append(load_node(context, id))
        except Invalid as refusal:
            nodes.append(refusal)
    return nodes


def node_field(loader: BatchLoader) -> Any:
    """Declares a root field that finds one object by its id. Several such fields of an operation share one call."""
    comment = descriptions.find_comment(loader.item.full_name)
    description = f"{comment} Null if it does not exist or you may not see it."
    return NodeField("id", "ID", "The id of the object.", description, lambda context, id: context.loader(loader).load(id), loader=loader)


def global_node_field(
    argument: str, annotation: str, argument_description: str, description: str, load: NodeLoad, *, list_size: int = 0
) -> Any:
    """Declares a root field that finds objects of any type."""
    return NodeField(argument, annotation, argument_description, description, load, list_size=list_size)


class Queries:
    node: Node | None = global_node_field(
        "id",
        "ID",
        "The id of an object of any type.",
        "The object with this id. Null if it does not exist or you may not see it. An invalid id is an error.",
        load_node,
    )
    nodes: list[Node | None] = global_node_field(
        "ids",
        "list[ID]",
        f"At most {NODES_MAX} ids of objects of any types.",
        "The objects with these ids, in their order. An item is null if it does not exist or you may not see it.",
        load_nodes,
        list_size=NODES_MAX,
    )
