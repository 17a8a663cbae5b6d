"""Object types and enums of the graph, declared over the messages and enums of the protos.

    @object_type(tasks_pb2.Task, node="tsk_", loader=task_by_id)
    class Task(Node):
        id: ID
        state: TaskState
        due_at: DateTime | None
        assignee: Staff | None = reference(by="staff_id", loader=staff_by_id)

A resolver returns the message itself, and the type reads its fields. Nothing is copied, so a field that is not selected costs nothing.
An unset value is null if the annotation allows it: an unset message or optional field, an empty string, an unspecified enum.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from operator import attrgetter
from typing import Any, TypeVar

import strawberry
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from msgspec import Struct
from strawberry.types import Info

from gateway.schema import descriptions
from gateway.schema.batch_loader import BatchLoader
from gateway.schema.fields import GraphField
from gateway.schema.registry import TYPES, register

T = TypeVar("T")
FieldReader = Callable[[Any], Any]

ANNOTATIONS: Mapping[int, frozenset[str]] = {
    FieldDescriptor.TYPE_STRING: frozenset({"str", "ID"}),
    FieldDescriptor.TYPE_BOOL: frozenset({"bool"}),
    FieldDescriptor.TYPE_INT32: frozenset({"int", "Long"}),
    FieldDescriptor.TYPE_INT64: frozenset({"Long"}),
    FieldDescriptor.TYPE_DOUBLE: frozenset({"float"}),
}
"""The allowed annotations by proto type. 64-bit numbers and counts are never `int`, because GraphQL's Int has 32 bits."""
TIMESTAMP = "google.protobuf.Timestamp"

ENUMS: dict[str, str] = {}
"""The name of each enum of the graph by the full name of its proto."""


class NodeType(Struct, frozen=True):
    """A type whose objects `node` finds, and the batch loader that loads them."""

    name: str
    loader: BatchLoader


NODE_TYPES: dict[str, NodeType] = {}
"""The node types by the prefix of their ids, such as `tsk_`."""


class Attribute(Struct, frozen=True):
    """An entry of a `map<string, string>`."""

    name: str
    value: str


class MessageField(GraphField):
    """A field of the message; of a root type, an attribute. Strawberry calls it without context or arguments, which is its fastest path."""

    read: FieldReader

    def validate(self, where: str) -> None:
        if self.owner is None:
            self.read = attrgetter(self.python_name)
            return
        if self.python_name not in self.owner.fields_by_name:
            raise TypeError(f"{where}: the message has no such field.")
        field, info = self.owner.fields_by_name[self.python_name], self.annotation_info
        allowed = ANNOTATIONS.get(field.type)
        if allowed is not None and info.name not in allowed:
            raise TypeError(f"{where} is declared as {info.name} and must be one of {', '.join(sorted(allowed))}.")
        if info.is_list != field.is_repeated:
            raise TypeError(f"{where} must {'' if field.is_repeated else 'not '}be declared as a list, like the field of its message.")
        self.read = field_reader(field, is_nullable=info.is_nullable)

    def get_result(self, source: Any, info: Info[Any, Any] | None, args: list[Any], kwargs: Any) -> Any:
        return self.read(source)


class ComputedField(GraphField):
    """A field that `computed_field` declares."""

    def __init__(self, read: FieldReader, description: str, source_field: str, list_size: int) -> None:
        super().__init__(description=description)
        self.read, self.source_field, self.list_size = read, source_field, list_size

    def get_result(self, source: Any, info: Info[Any, Any] | None, args: list[Any], kwargs: Any) -> Any:
        return self.read(source)


def computed_field(read: FieldReader, description: str, *, source_field: str = "", list_size: int = 0) -> Any:
    """Declares a field that `read` computes from the message, without an rpc.

    `source_field`: the repeated field that it returns under another name. `list_size`: the price of a list in items.
    """
    return ComputedField(read, description, source_field, list_size)


def format_timestamp(at: Timestamp) -> str:
    """Returns the time as RFC 3339 in UTC; raises ValueError if the calendar has no such time."""
    return at.ToJsonString()


def field_reader(field: FieldDescriptor, *, is_nullable: bool) -> FieldReader:
    """Returns the function that reads a field of a message."""
    name = field.name
    get = attrgetter(name)
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        return lambda source: [Attribute(*entry) for entry in sorted(get(source).items())]
    if field.is_repeated:
        return get
    if message is not None and message.full_name == TIMESTAMP:
        return lambda source: format_timestamp(get(source)) if source.HasField(name) else None
    if field.has_presence:
        return lambda source: get(source) if source.HasField(name) else None
    if is_nullable and field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_ENUM):
        return lambda source: get(source) or None
    return get


def object_type(
    *messages: type[Message], node: str | tuple[str, ...] = (), loader: BatchLoader | None = None
) -> Callable[[type[T]], type[T]]:
    """Declares an object type over a message, or over several that share the declared fields.

    `node`: the prefixes of its ids, if `node` finds its objects by `loader`; the class then inherits `Node`.
    """
    descriptor = messages[0].DESCRIPTOR

    def decorate(cls: type[T]) -> type[T]:
        cls.__messages__ = messages  # type: ignore[attr-defined]
        cls.is_type_of = classmethod(lambda _cls, value, _info: isinstance(value, messages))  # type: ignore[attr-defined]
        define_type(cls, descriptor, description=descriptions.find_comment(descriptor.full_name) or _response_description(descriptor))
        for prefix in (node,) if isinstance(node, str) else node:
            if loader is None or prefix in NODE_TYPES:
                raise TypeError(f"{cls.__name__}: the id prefix {prefix} needs a loader, and only one type may have it.")
            NODE_TYPES[prefix] = NodeType(cls.__name__, loader)
        return cls

    return decorate


def _response_description(descriptor: Any) -> str | None:
    """The description of an rpc's response that has no comment."""
    name = str(descriptor.name)
    return f"The response of `{name[0].lower()}{name[1:].removesuffix('Response')}`." if name.endswith("Response") else None


def root_type(description: str) -> Callable[[type[T]], type[T]]:
    """Declares an object type without a message: its fields read the attributes of any object."""

    def decorate(cls: type[T]) -> type[T]:
        define_type(cls, None, description=description)
        return cls

    return decorate


def define_type(cls: type[Any], owner: Any, *, description: str | None, name: str | None = None) -> None:
    """Makes the class an object type over the message with the descriptor `owner`."""
    for field_name, annotation in cls.__annotations__.items():
        field = cls.__dict__.get(field_name) or MessageField()
        field.bind(owner, field_name, annotation)
        setattr(cls, field_name, field)
    strawberry.type(cls, name=name, description=description)
    for field in cls.__strawberry_definition__.fields:
        if isinstance(field, GraphField):
            field.resolve_annotation()
    register(name or cls.__name__, cls)


def enum_type(wrapper: Any) -> Callable[[type[T]], type[T]]:
    """Declares an enum over that of a proto: its values without their common prefix, and without the unspecified one."""
    descriptor = wrapper.DESCRIPTOR

    def decorate(cls: type[T]) -> type[T]:
        prefix = _common_prefix(descriptor)
        values = {
            value.name.removeprefix(prefix): strawberry.enum_value(
                value.number, description=descriptions.find_comment(f"{descriptor.full_name}.{value.name}")
            )
            for value in descriptor.values
            if value.number
        }
        functional: Any = Enum  # mypy does not know this form of Enum's functional API
        enum = functional(cls.__name__, values, module=cls.__module__)
        strawberry.enum(enum, name=cls.__name__, description=descriptions.find_comment(descriptor.full_name))
        register(cls.__name__, enum)
        ENUMS[descriptor.full_name] = cls.__name__
        return cls

    return decorate


def _common_prefix(descriptor: Any) -> str:
    """Returns `TASK_STATE_` for TaskState; buf lint makes every value begin with it."""
    return str(descriptor.values_by_number[0].name.removesuffix("UNSPECIFIED"))


@strawberry.interface(description="An object with an id by which `node` finds it.")
class Node:
    """Ids are those of the suite: they have a prefix and are unique on every installation."""

    id: strawberry.ID = strawberry.field(description="Unique in the whole graph; it never changes.")


TYPES["Node"] = Node
