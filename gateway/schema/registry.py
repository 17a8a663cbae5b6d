"""How declarations name types: `Order`, `Order | None`, `list[Order]`, `list[Order | None]`.

Annotations of the graph's classes are read as names of the graph and not of their module, so that files may name each other's types
freely. Modules that declare types therefore begin with `from __future__ import annotations`.
"""

import re
from typing import Any

import strawberry
from msgspec import Struct
from strawberry.annotation import StrawberryAnnotation

NAMES: dict[str, Any] = {"str": str, "int": int, "float": float, "bool": bool, "ID": strawberry.ID}
"""Every type of the graph by its name. Complete once `gateway.graph.schema` has imported the graph."""

SHAPE = re.compile(r"^(?P<open>list\[)?(?P<name>\w+)(?P<inner> \| None)?(?(open)\])(?P<outer> \| None)?$")


class Wanted(Struct, frozen=True):
    """An annotation taken apart."""

    name: str
    many: bool = False
    nullable: bool = False


def wanted(annotation: object) -> Wanted:
    """TypeError for anything but the four shapes."""
    found = SHAPE.match(annotation) if isinstance(annotation, str) else None
    if found is None:
        raise TypeError(f"{annotation!r} is none of: Name, Name | None, list[Name], list[Name | None] (as postponed annotations)")
    many = found["open"] is not None
    return Wanted(found["name"], many, bool(found["outer"] if many else found["inner"]))


def annotation(text: str) -> StrawberryAnnotation:
    """The same for Strawberry, resolved when the schema is built."""
    return StrawberryAnnotation(text, namespace=NAMES)


def declare(name: str, type_: Any) -> None:
    """Adds a type of the graph; ValueError when the name is taken."""
    if name in NAMES:
        raise ValueError(f"the graph has two types called {name}")
    NAMES[name] = type_
