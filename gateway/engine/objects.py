"""Objects: the fields selected on one type, as a dict display over the message.

What is deferred stands there as null until it comes; its keys are put in the run's queue. Small objects without anything deferred are
written in place, all others are functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.engine import field_access, values
from gateway.engine.collect_fields import TYPENAME, Field, Selection
from gateway.engine.source_builder import Source
from gateway.engine.value_info import Known, classes

if TYPE_CHECKING:
    from graphql import GraphQLObjectType

DEPTH_MAX = 6
"""Of displays within displays; Python's parser has its limit too."""


def one(source: Source, field: Field, type_: GraphQLObjectType, text: str, known: Known) -> str:
    """The expression that completes `text` as an object of the type."""
    selection = field.selections[type_.name]
    allowed = classes(type_)
    if allowed is not None and not _sure(known, allowed):
        held = source.name("v")
        expected = source.constant(frozenset(allowed), "classes")
        text = f"({held} if type({held} := {text}) in {expected} else absent())"
    if not text.isidentifier() or deferred_below(selection) or _depth(selection) > DEPTH_MAX:
        return f"{function(source, selection)}({text}, R)"
    return display(source, selection, text)


def _sure(known: Known, allowed: tuple[type[Any], ...]) -> bool:
    return bool(known.messages) and known.messages <= {each.DESCRIPTOR.full_name for each in allowed if hasattr(each, "DESCRIPTOR")}


def function(source: Source, selection: Selection) -> str:
    """A function from an object and the run to its part of the answer; its name."""
    made = display(source, selection, "o")
    queued = "".join(field.deferred.queued(source, field, "o") for field in selection.fields if field.deferred is not None)
    body = f"    d = {made}\n{queued}    return d" if queued else f"    return {made}"
    return source.function("object", "o, R", body)


def display(source: Source, selection: Selection, text: str) -> str:
    """The dict display of the fields, read from `text`."""
    return "{" + ", ".join(f"{field.key!r}: {_field(source, selection, field, text)}" for field in selection.fields) + "}"


def _field(source: Source, selection: Selection, field: Field, text: str) -> str:
    if field.name == TYPENAME:
        return repr(selection.type.name)
    if field.deferred is not None:
        return "None"
    read = field_access.read(source, field, text)
    if read.guard is None:
        return values.value(source, field, field.type, read.text, read.known)
    held = source.name("v")
    present = values.value(source, field, field.type, held, read.known)
    missing = "absent()" if str(field.type).endswith("!") else "None"
    if present == held:
        return f"({read.text} if {read.guard} else {missing})"
    return f"({present} if {read.guard} and ({held} := {read.text}) is not None else {missing})"


def deferred_below(selection: Selection) -> bool:
    """Whether anything on it or within it comes later."""
    return any(
        field.deferred is not None or any(map(deferred_below, field.selections.values()))
        for field in selection.fields
        if field.name != TYPENAME
    )


def _depth(selection: Selection) -> int:
    return 1 + max((_depth(below) for field in selection.fields for below in field.selections.values()), default=0)
