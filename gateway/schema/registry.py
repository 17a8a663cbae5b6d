"""Registry of the GraphQL types by name, and the parser of annotations that refer to them.

An annotation is `Order`, `Order | None`, `list[Order]` or `list[Order | None]`. It names a type of the graph, not of the Python module, so
that files may refer to each other's types without importing them.
Modules that declare types therefore begin with `from __future__ import annotations`.
"""

import re
from typing import Any

import strawberry
from msgspec import Struct
from strawberry.annotation import StrawberryAnnotation

TYPES: dict[str, Any] = {"str": str, "int": int, "float": float, "bool": bool, "ID": strawberry.ID}
"""The GraphQL types by name. The table is complete when `gateway.graph.schema` has imported all use cases."""

ANNOTATION_PATTERN = re.compile(r"^(?P<open>list\[)?(?P<name>\w+)(?P<inner> \| None)?(?(open)\])(?P<outer> \| None)?$")


class AnnotationInfo(Struct, frozen=True):
    """The parts of an annotation. `is_nullable` concerns the field, not the items of a list."""

    name: str
    is_list: bool = False
    is_nullable: bool = False


def parse_annotation(annotation: object) -> AnnotationInfo:
    """Returns the parts of a postponed annotation; raises TypeError if it has none of the four forms."""
    match = ANNOTATION_PATTERN.match(annotation) if isinstance(annotation, str) else None
    if match is None:
        raise TypeError(f"{annotation!r} must be one of: Name, Name | None, list[Name], list[Name | None] (as postponed annotations).")
    is_list = match["open"] is not None
    return AnnotationInfo(match["name"], is_list, bool(match["outer"] if is_list else match["inner"]))


def strawberry_annotation(text: str) -> StrawberryAnnotation:
    """Returns the annotation for Strawberry, which resolves it when the schema is built."""
    return StrawberryAnnotation(text, namespace=TYPES)


def register(name: str, type_: Any) -> None:
    """Adds a type of the graph; raises ValueError if the name is taken."""
    if name in TYPES:
        raise ValueError(f"The graph has two types called {name}. Rename one of them.")
    TYPES[name] = type_
