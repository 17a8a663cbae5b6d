"""Relay connections over the keyset pages of the services, whose cursors are passed through.

@connection_type(tasks_pb2.ListTasksResponse, items="tasks")
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
from gateway.schema.registry import strawberry_annotation
from gateway.schema.types import computed_field, define_type, root_type
from quanyu.common.v1 import page_pb2
from services.kit.errors import Invalid
from services.kit.mongo.pagination import PAGE_SIZE, PAGE_SIZE_MAX

T = TypeVar("T")


class Edge(NamedTuple):
    """An item of a page. Only the last one has a cursor: services return one cursor for each page."""

    node: Any
    cursor: str | None


class Page(NamedTuple):
    """The source of `PageInfo`."""

    end_cursor: str | None
    has_next_page: bool


def connection_type(*responses: type[Message], items: str) -> Callable[[type[T]], type[T]]:
    """Declares a connection over the responses of `List…` rpcs, which have the fields `items` and `page`.

    The class declares `nodes` and the other fields of the response; `edges` and `pageInfo` are added.
    """
    descriptor = responses[0].DESCRIPTOR
    get_items = attrgetter(items)

    def read_edges(source: Any) -> list[Edge]:
        edges = [Edge(item, None) for item in get_items(source)]
        if edges:
            edges[-1] = Edge(edges[-1].node, source.page.end_cursor or None)
        return edges

    def decorate(cls: type[T]) -> type[T]:
        nodes = cls.__annotations__["nodes"]
        noun = nodes.removeprefix("list[").removesuffix("]")
        cls.nodes = computed_field(get_items, "The items of this page.", source_field=items, list_size=PAGE_SIZE)  # type: ignore[attr-defined]
        cls.edges = computed_field(read_edges, "The items of this page as Relay edges.", list_size=PAGE_SIZE)  # type: ignore[attr-defined]
        cls.page_info = computed_field(_read_page, "The end of this page, and whether another one follows.")  # type: ignore[attr-defined]
        edge_name = f"{cls.__name__.removesuffix('Connection')}Edge"
        cls.__annotations__ |= {"edges": f"list[{edge_name}]", "page_info": "PageInfo"}
        _define_edge(edge_name, noun)
        define_type(cls, descriptor, description=f"One page of a list of `{noun}`.")
        return cls

    return decorate


def _define_edge(name: str, noun: str) -> None:
    cls = type(name, (), {"__annotations__": {"node": noun, "cursor": "str | None"}})
    cursor = "The cursor of the last item of the page; null for all others. Pass it as `after` to get the next page."
    setattr(cls, "node", computed_field(attrgetter("node"), "The item."))  # noqa: B010 - mypy knows no attributes of this class
    setattr(cls, "cursor", computed_field(attrgetter("cursor"), cursor))  # noqa: B010
    define_type(cls, None, description=f"An item in a list of `{noun}`.")


def _read_page(source: Any) -> Page:
    return Page(source.page.end_cursor or None, source.page.has_next_page)


@root_type("The end of a page. Lists are paginated forward only.")
class PageInfo:
    end_cursor: str | None = computed_field(attrgetter("end_cursor"), "Pass it as `after` to get the next page.")
    has_next_page: bool = computed_field(attrgetter("has_next_page"), "True if another page follows.")
    start_cursor: str | None = computed_field(lambda _: None, "Always null: lists are paginated forward only.")
    has_previous_page: bool = computed_field(lambda _: False, "Always false: lists are paginated forward only.")


def pagination_arguments() -> list[StrawberryArgument]:
    """Returns the arguments `first` and `after`."""
    return [
        StrawberryArgument(
            python_name=name,
            graphql_name=None,
            type_annotation=strawberry_annotation(annotation),
            description=description,
            default=UNSET,
        )
        for name, annotation, description in (
            ("first", "int | None", f"The page has at most this many items: 1 to {PAGE_SIZE_MAX}, {PAGE_SIZE} by default."),
            ("after", "str | None", descriptions.describe_field(page_pb2.PageRequest.DESCRIPTOR.fields_by_name["after"])),
        )
    ]


def build_page_request(first: int | None, after: str | None) -> page_pb2.PageRequest:
    """Returns the request of a page; raises `Invalid` if `first` is out of bounds."""
    if first is not None and not 1 <= first <= PAGE_SIZE_MAX:
        raise Invalid("INVALID_PAGE_SIZE", f"`first` must be from 1 to {PAGE_SIZE_MAX}.", field="first")
    return page_pb2.PageRequest(first=first or 0, after=after or "")
