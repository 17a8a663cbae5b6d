"""Value info: what the protos and the schema guarantee about a value before it exists."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from graphql import GraphQLObjectType
from msgspec import Struct
from msgspec.structs import replace

from gateway.engine.collect_fields import Field, Selection, Uncompiled
from gateway.rpc.clients import Descriptor
from gateway.schema.batch_loader import BatchLoader


class ValueInfo(Struct, frozen=True):
    """What is guaranteed about a value."""

    is_nullable: bool = True
    is_trusted: bool = False
    """It is a scalar or enum read from a message, whose type was compared when the schema was built."""
    messages: frozenset[str] = frozenset()
    """It is a message with one of these full names; empty if that is not guaranteed."""
    items: ValueInfo | None = None
    """What is guaranteed about each item of a list."""
    is_map: bool = False
    """It is the sorted entries of a map: pairs of name and value."""

    @property
    def non_null(self) -> ValueInfo:
        """The same about a value that is not null."""
        return replace(self, is_nullable=False)


UNKNOWN_VALUE = ValueInfo()


def infer_field(field: Descriptor, *, is_nullable: bool) -> ValueInfo:
    """Returns what is guaranteed about a field of a message."""
    is_trusted = field.message_type is None
    messages = frozenset[str]() if is_trusted else frozenset({field.message_type.full_name})
    value = ValueInfo(is_nullable, is_trusted, messages)
    return ValueInfo(is_nullable, items=value.non_null) if field.is_repeated else value


def infer_message(message: Descriptor, *, is_nullable: bool = True) -> ValueInfo:
    """Returns what is guaranteed about a message of this type."""
    return ValueInfo(is_nullable, messages=frozenset({message.full_name}))


def infer_loaded(loader: BatchLoader) -> ValueInfo:
    """Returns what is guaranteed about the value that a batch loader returns for a key."""
    value_field = loader.item.fields_by_name[loader.value_name] if loader.value_name else None
    item = infer_field(value_field, is_nullable=True) if value_field is not None else infer_message(loader.item)
    return ValueInfo(items=item.non_null) if loader.is_list else item


def value_classes(type_: GraphQLObjectType) -> tuple[type[Any], ...] | None:
    """Returns the Python classes of an object type's values; None if any object may be one."""
    definition: Any = type_.extensions["strawberry-definition"]
    messages: tuple[type[Message], ...] | None = getattr(definition.origin, "__messages__", None)
    if messages is not None:
        return messages
    if definition.is_type_of is not None:
        raise Uncompiled("type")
    return (definition.origin,) if definition.interfaces else None


def selections_by_class(field: Field) -> dict[type[Any], Selection]:
    """Returns the selections on an interface or union by the class of the value; raises `Uncompiled` if a class has several types."""
    found: dict[type[Any], Selection] = {}
    for selection in field.selections.values():
        for each in value_classes(selection.type) or ():
            if each in found:
                raise Uncompiled("type")
            found[each] = selection
    return found
