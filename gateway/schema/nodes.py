"""Relay's `node` and `nodes`: whatever has an id, found by it. An id's prefix tells its type."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from strawberry.types import Info
from strawberry.types.arguments import StrawberryArgument

from gateway.schema import descriptions
from gateway.schema.fields import GraphField
from gateway.schema.references import Batch
from gateway.schema.registry import annotation
from gateway.schema.types import NODES, Node
from services.kit.errors import Invalid

if TYPE_CHECKING:
    from gateway.schema.resolver_context import ResolverContext

NODES_MAX = 100
ID_SHAPE = re.compile(r"[a-z]{3}_[A-Za-z0-9_:.-]{1,120}")


Load = Callable[["ResolverContext", Any], Any]


class NodeField(GraphField):
    """A field that finds what an id, or several, stand for; `through` names the batch when there is only one."""

    def __init__(
        self, argument: str, text: str, described: str, description: str, load: Load, *, through: Batch | None = None, list_size: int = 0
    ) -> None:
        super().__init__(description=description)
        self.argument, self.load, self.through, self.list_size = argument, load, through, list_size
        self._arguments = [
            StrawberryArgument(python_name=argument, graphql_name=None, type_annotation=annotation(text), description=described)
        ]

    @property
    def is_basic_field(self) -> bool:
        return False

    def get_result(self, source: Any, info: Info[Any, Any] | None, args: list[Any], kwargs: Any) -> Any:
        assert info is not None
        return self.load(info.context, kwargs[self.argument])


def batch_of(id: str) -> Batch:
    """The batch that finds the node; `Invalid` for what is no id of any of the graph's types."""
    found = NODES.get(id[:4]) if ID_SHAPE.fullmatch(id) else None
    if found is None:
        raise Invalid("INVALID_ID", "this is no id of the graph", field="id")
    return found.through


def check_count(ids: list[str]) -> None:
    """`Invalid` for more nodes than one may ask for."""
    if len(ids) > NODES_MAX:
        raise Invalid("INVALID_FIELD", f"ask for at most {NODES_MAX} nodes", field="ids")


def one(context: ResolverContext, id: str) -> Awaitable[Any]:
    """The node, or None; `Invalid` for what is no id of any of the graph's types."""
    return context.loader(batch_of(id)).load(id)


def several(context: ResolverContext, ids: list[str]) -> list[Awaitable[Any] | Invalid]:
    """The nodes in the order of their ids, all loading at once; one that is no id refuses its own place only."""
    check_count(ids)
    found: list[Awaitable[Any] | Invalid] = []
    for id in ids:
        try:
            found.append(one(context, id))
        except Invalid as refused:
            found.append(refused)
    return found


def by_id(through: Batch) -> Any:
    """A root field that finds one thing by its id; several of them take one call."""
    noun = through.item.full_name
    description = f"{descriptions.of(noun)} Null when there is none that you may see."
    return NodeField("id", "ID", "Its id.", description, lambda context, id: context.loader(through).load(id), through=through)


def by_any_id(argument: str, text: str, described: str, description: str, load: Load, *, list_size: int = 0) -> Any:
    """A root field that finds nodes of any type."""
    return NodeField(argument, text, described, description, load, list_size=list_size)


class Queries:
    node: Node | None = by_any_id("id", "ID", "The id, of any type.", "Whatever this id stands for; null when you may not see it.", one)
    nodes: list[Node | None] = by_any_id(
        "ids",
        "list[ID]",
        f"At most {NODES_MAX} ids, of any types.",
        "The same for several ids, in their order.",
        several,
        list_size=NODES_MAX,
    )
