"""Views: types of the graph over the messages of the protos.

    @view(tasks_pb2.Task, node="tsk_", through=task_by_id)
    class Task(Node):
        id: ID
        state: TaskState
        due_at: DateTime | None
        assignee: Staff | None = edge(by="staff_id", through=staff_by_id)

A resolver returns the message itself; the view reads its fields. What is not set is null where the annotation allows it: an unset
sub-message or optional field, an empty text, an enum that is not specified. Nothing is copied: a field nobody asks for costs nothing.
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
from gateway.schema.fields import GraphField
from gateway.schema.references import Batch
from gateway.schema.registry import NAMES, declare

T = TypeVar("T")
Read = Callable[[Any], Any]

FITS: Mapping[int, frozenset[str]] = {
    FieldDescriptor.TYPE_STRING: frozenset({"str", "ID"}),
    FieldDescriptor.TYPE_BOOL: frozenset({"bool"}),
    FieldDescriptor.TYPE_INT32: frozenset({"int", "Long"}),
    FieldDescriptor.TYPE_INT64: frozenset({"Long"}),
    FieldDescriptor.TYPE_DOUBLE: frozenset({"float"}),
}
"""Which names a plain field may be declared as. 64 bits are never `int`, which GraphQL ends at 32; nor are counts, however small."""
TIMESTAMP = "google.protobuf.Timestamp"

ENUMS: dict[str, str] = {}
"""Full name of a proto's enum -> its name in the graph."""


class NodeType(Struct, frozen=True):
    """A type that `node` finds: by the prefix of its ids, through a batch."""

    name: str
    through: Batch


NODES: dict[str, NodeType] = {}
"""Prefix of an id, like `tsk_` -> the type it belongs to."""


class Attribute(Struct, frozen=True):
    """An entry of a `map<string, string>`."""

    name: str
    value: str


class MessageField(GraphField):
    """A field of the message as the annotation wants it (of a root: an attribute). Strawberry calls it without context or arguments,
    which is its quickest way."""

    read: Read

    def check(self, where: str) -> None:
        if self.owner is None:
            self.read = attrgetter(self.python_name)
            return
        if self.python_name not in self.owner.fields_by_name:
            raise TypeError(f"{where}: the message has no such field")
        field = self.owner.fields_by_name[self.python_name]
        fits = FITS.get(field.type)
        if fits is not None and self.wanted.name not in fits:
            raise TypeError(f"{where} is declared as {self.wanted.name} and may be one of {', '.join(sorted(fits))}")
        if self.wanted.many != field.is_repeated:
            raise TypeError(f"{where} is declared as {'many' if self.wanted.many else 'one'} and is not")
        self.read = reader(field, nullable=self.wanted.nullable)

    def get_result(self, source: Any, info: Info[Any, Any] | None, args: list[Any], kwargs: Any) -> Any:
        return self.read(source)


class ComputedField(GraphField):
    """A field worked out from the whole message."""

    def __init__(self, read: Read, description: str, of: str, list_size: int) -> None:
        super().__init__(description=description)
        self.read, self.of, self.list_size = read, of, list_size

    def get_result(self, source: Any, info: Info[Any, Any] | None, args: list[Any], kwargs: Any) -> Any:
        return self.read(source)


def computed(read: Read, description: str, *, of: str = "", list_size: int = 0) -> Any:
    """A field that `read` computes from the message, without an rpc. `of`: the repeated field that it is, under another name.
    `list_size`: how many items a list is priced as."""
    return ComputedField(read, description, of, list_size)


def moment(at: Timestamp) -> str:
    """A time as the graph writes it; ValueError for one that no calendar has."""
    return at.ToJsonString()


def reader(field: FieldDescriptor, *, nullable: bool) -> Read:
    """How a field of a message is read."""
    name = field.name
    get = attrgetter(name)
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        return lambda source: [Attribute(*entry) for entry in sorted(get(source).items())]
    if field.is_repeated:
        return get
    if message is not None and message.full_name == TIMESTAMP:
        return lambda source: moment(get(source)) if source.HasField(name) else None
    if field.has_presence:
        return lambda source: get(source) if source.HasField(name) else None
    if nullable and field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_ENUM):
        return lambda source: get(source) or None
    return get


def view(*messages: type[Message], node: str | tuple[str, ...] = (), through: Batch | None = None) -> Callable[[type[T]], type[T]]:
    """A type of the graph over a message (or several that share the declared fields).

    `node`: the prefixes of its ids, when `node` of the graph finds it `through` that batch; the class then inherits `Node`.
    """
    descriptor = messages[0].DESCRIPTOR

    def declared(cls: type[T]) -> type[T]:
        cls.__messages__ = messages  # type: ignore[attr-defined]
        cls.is_type_of = classmethod(lambda _cls, value, _info: isinstance(value, messages))  # type: ignore[attr-defined]
        build(cls, descriptor, description=descriptions.of(descriptor.full_name) or _of_answer(descriptor))
        for prefix in (node,) if isinstance(node, str) else node:
            if through is None or prefix in NODES:
                raise TypeError(f"{cls.__name__}: nodes of prefix {prefix} are told by one batch")
            NODES[prefix] = NodeType(cls.__name__, through)
        return cls

    return declared


def _of_answer(descriptor: Any) -> str | None:
    """An rpc's answer needs no comment of its own."""
    name = str(descriptor.name)
    return f"What `{name[0].lower()}{name[1:].removesuffix('Response')}` answers." if name.endswith("Response") else None


def root(description: str) -> Callable[[type[T]], type[T]]:
    """A type of the graph that is no message: its resolvers return anything with the attributes it reads."""

    def declared(cls: type[T]) -> type[T]:
        build(cls, None, description=description)
        return cls

    return declared


def build(cls: type[Any], owner: Any, *, description: str | None, name: str | None = None) -> None:
    """Makes the class a type of the graph, its annotations read by `owner`'s fields."""
    for field_name, text in cls.__annotations__.items():
        field = cls.__dict__.get(field_name) or MessageField()
        field.settle(owner, field_name, text)
        setattr(cls, field_name, field)
    strawberry.type(cls, name=name, description=description)
    for field in cls.__strawberry_definition__.fields:
        if isinstance(field, GraphField):
            field.resolve_annotation()
    declare(name or cls.__name__, cls)


def enumeration(wrapper: Any) -> Callable[[type[T]], type[T]]:
    """An enum of the graph over a proto's: its values without their prefix, and without the one that says it is not set."""
    descriptor = wrapper.DESCRIPTOR

    def declared(cls: type[T]) -> type[T]:
        prefix = _common_prefix(descriptor)
        members = {value.name.removeprefix(prefix): value.number for value in descriptor.values if value.number}
        described = {
            value.name.removeprefix(prefix): descriptions.of(f"{descriptor.full_name}.{value.name}") for value in descriptor.values
        }
        values = {name: strawberry.enum_value(number, description=described[name]) for name, number in members.items()}
        functional: Any = Enum  # by its functional form: mypy knows the other only
        made = functional(cls.__name__, values, module=cls.__module__)
        strawberry.enum(made, name=cls.__name__, description=descriptions.of(descriptor.full_name))
        declare(cls.__name__, made)
        ENUMS[descriptor.full_name] = cls.__name__
        return cls

    return declared


def _common_prefix(descriptor: Any) -> str:
    """`TASK_STATE_` of TaskState, which buf lint has every value begin with."""
    return str(descriptor.values_by_number[0].name.removesuffix("UNSPECIFIED"))


@strawberry.interface(description="Whatever has an id by which `node` finds it again.")
class Node:
    """Ids are the suite's own: prefixed, and unique on every installation."""

    id: strawberry.ID = strawberry.field(description="Unique in the whole graph, for good.")


NAMES["Node"] = Node
