"""Interfaces and unions: the class of the value says which type it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gateway.engine import objects
from gateway.engine.collect_fields import Field, Selection, Uncompiled
from gateway.engine.source_builder import Source
from gateway.engine.value_info import classes

if TYPE_CHECKING:
    from gateway.engine.run import Run


def selections(field: Field) -> dict[type[Any], Selection]:
    """By the class of a value what is selected on it. `Uncompiled` when a class says nothing."""
    found: dict[type[Any], Selection] = {}
    for selection in field.selections.values():
        for each in classes(selection.type) or ():
            if each in found:
                raise Uncompiled("type")
            found[each] = selection
    return found


def any_of(source: Source, field: Field, type_: Any, text: str) -> str:
    """The expression that completes `text` as the type its class says."""
    made: dict[type[Any], Callable[[Any, Run], Any]] = {}
    source.linked.append((made, {each: objects.function(source, selection) for each, selection in selections(field).items()}))
    held = source.name("v")
    return f"{source.constant(made, 'by_class')}[type({held} := {text})]({held}, R)"
