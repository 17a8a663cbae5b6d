"""Relay connections over the services' keyset pages; their cursors are passed through.

@connection(tasks_pb2.ListTasksResponse, items="tasks")
class TaskConnection:
    nodes: list[Task]
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import Message
from strawberry import UNSET
from strawberry.types.arguments import StrawberryArgument

from gateway.schema import descriptions
from gateway.schema.registry import annotation
from gateway.schema.types import build, computed, root
from quanyu.common.v1 import page_pb2
from services.kit.errors import Invalid
from services.kit.mongo.pagination import PAGE_SIZE, PAGE_SIZE_MAX

T = TypeVar("T")


class Edge(NamedTuple):
    """An item of a page and, when it is the page's last, where the next page begins."""

    node: Any
    cursor: str | None


class Page(NamedTuple):
    """What a page says of itself, and after which cursor it was asked for."""

    end_cursor: str | None
    has_next_page: bool


def connection(*responses: type[Message], items: str) -> Callable[[type[T]], type[T]]:
    """A connection over the answers of `List…` rpcs: their `items` and `page`. The class declares `nodes` and what else the answer says."""
    descriptor = responses[0].DESCRIPTOR
    get = attrgetter(items)

    def edges(source: Any) -> list[Edge]:
        found = [Edge(item, None) for item in get(source)]
        if found:
            found[-1] = Edge(found[-1].node, source.page.end_cursor or None)
        return found

    def declared(cls: type[T]) -> type[T]:
        nodes = cls.__annotations__["nodes"]
        noun = nodes.removeprefix("list[").removesuffix("]")
        cls.nodes = computed(get, "What stands on this page.", of=items, list_size=PAGE_SIZE)  # type: ignore[attr-defined]
        cls.edges = computed(edges, "The same, each with its cursor.", list_size=PAGE_SIZE)  # type: ignore[attr-defined]
        cls.page_info = computed(_page, "Where this page ends.")  # type: ignore[attr-defined]
        edge_name = f"{cls.__name__.removesuffix('Connection')}Edge"
        cls.__annotations__ |= {"edges": f"list[{edge_name}]", "page_info": "PageInfo"}
        _edge(edge_name, noun)
        build(cls, descriptor, description=f"A page of a list ({noun}).")
        return cls

    return declared


def _edge(name: str, noun: str) -> None:
    made = type(name, (), {"__annotations__": {"node": noun, "cursor": "str | None"}})
    setattr(made, "node", computed(attrgetter("node"), "The item."))  # noqa: B010 (of a type made here)
    setattr(made, "cursor", computed(attrgetter("cursor"), "Of the page's last item: ask for what comes `after` this."))  # noqa: B010
    build(made, None, description=f"An item of a list ({noun}).")


def _page(source: Any) -> Page:
    return Page(source.page.end_cursor or None, source.page.has_next_page)


@root("Where a page of a list ends. Lists go forward only.")
class PageInfo:
    end_cursor: str | None = computed(attrgetter("end_cursor"), "Ask for `after` this to get the next page.")
    has_next_page: bool = computed(attrgetter("has_next_page"), "Whether another page follows.")
    start_cursor: str | None = computed(lambda _: None, "Always null: lists go forward only.")
    has_previous_page: bool = computed(lambda _: False, "Always false: lists go forward only.")


def arguments() -> list[StrawberryArgument]:
    """`first` and `after`."""
    return [
        StrawberryArgument(
            python_name=name,
            graphql_name=None,
            type_annotation=annotation(text),
            description=described,
            default=UNSET,
        )
        for name, text, described in (
            ("first", "int | None", f"How many items at most: 1 to {PAGE_SIZE_MAX}; left out: {PAGE_SIZE}."),
            ("after", "str | None", descriptions.of_field(page_pb2.PageRequest.DESCRIPTOR.fields_by_name["after"])),
        )
    ]


def page_request(first: int | None, after: str | None) -> page_pb2.PageRequest:
    """The page a client asks for; `Invalid` unless it has 1 to 100 items."""
    if first is not None and not 1 <= first <= PAGE_SIZE_MAX:
        raise Invalid("INVALID_PAGE_SIZE", f"ask for 1 to {PAGE_SIZE_MAX} items", field="first")
    return page_pb2.PageRequest(first=first or 0, after=after or "")
