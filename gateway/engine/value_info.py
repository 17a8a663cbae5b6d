"""What the protos tell of a value before there is one."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from graphql import GraphQLObjectType
from msgspec import Struct
from msgspec.structs import replace

from gateway.engine.collect_fields import Uncompiled
from gateway.rpc.clients import Descriptor


class Known(Struct, frozen=True):
    """`nullable`: it may be None. `vouched`: a leaf of a field of a message. `messages`: the full names of the messages it can be,
    when it is one of them for sure. `items`: of each item, when it is a list; `entries`: they are those of
    a map, sorted pairs of name and value."""

    nullable: bool = True
    vouched: bool = False
    messages: frozenset[str] = frozenset()
    items: Known | None = None
    entries: bool = False

    @property
    def present(self) -> Known:
        """The same of a value that is there."""
        return replace(self, nullable=False)


ANYTHING = Known()


def of_field(field: Descriptor, *, nullable: bool) -> Known:
    """Of a field of a message, read as it is."""
    vouched = field.message_type is None
    messages = frozenset[str]() if vouched else frozenset({field.message_type.full_name})
    one = Known(nullable, vouched, messages)
    return Known(nullable, items=replace(one, nullable=False)) if field.is_repeated else one


def of_messages(*messages: Any, nullable: bool = True) -> Known:
    """Of one of these messages (their descriptors)."""
    return Known(nullable, messages=frozenset(message.full_name for message in messages))


def classes(type_: GraphQLObjectType) -> tuple[type[Any], ...] | None:
    """The classes of the values of an object type; None when any value may be one."""
    definition: Any = type_.extensions["strawberry-definition"]
    messages: tuple[type[Message], ...] | None = getattr(definition.origin, "__messages__", None)
    if messages is not None:
        return messages
    if definition.is_type_of is not None:
        raise Uncompiled("type")
    return (definition.origin,) if definition.interfaces else None
