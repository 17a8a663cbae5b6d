"""How a field's value is read from the object it stands on, without asking anybody."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from msgspec import Struct

from gateway.engine.collect_fields import Field, Uncompiled
from gateway.engine.source_builder import Source
from gateway.engine.value_info import ANYTHING, Known, of_field, of_messages
from gateway.schema.references import EdgeField
from gateway.schema.subscription_fields import FollowField
from gateway.schema.types import TIMESTAMP, ComputedField, MessageField, moment


class Read(Struct, frozen=True):
    """An expression, the condition under which there is a value (None: it says so itself), and what is known of it."""

    text: str
    known: Known = ANYTHING
    guard: str | None = None


VOUCHED = frozenset({str, "str", bool, "bool"})
"""What a function says it returns, where mypy sees to it that it does."""


def _returns(function: Any) -> Any:
    return getattr(function, "__annotations__", {}).get("return")


def read(source: Source, field: Field, text: str) -> Read:
    """How the field is read from `text`."""
    definition: Any = field.definition
    if isinstance(definition, ComputedField):
        if definition.of:
            return Read(f"{text}.{definition.of}", of_field(definition.owner.fields_by_name[definition.of], nullable=False))
        known = Known(nullable=False, vouched=True) if _returns(definition.read) in VOUCHED else ANYTHING
        return Read(f"{source.constant(definition.read, 'read')}({text})", known)
    if isinstance(definition, FollowField):
        return Read(text, of_messages(definition.rpc.response.DESCRIPTOR, nullable=False))
    if isinstance(definition, MessageField):
        if definition.owner is None:
            return Read(f"{text}.{definition.python_name}")
        return _of_message(source, definition, definition.owner.fields_by_name[definition.python_name], text)
    if definition is not None and definition.is_basic_field and not isinstance(definition, EdgeField):
        return Read(f"{text}.{definition.python_name}")
    raise Uncompiled("field")


def _of_message(source: Source, definition: MessageField, field: FieldDescriptor, text: str) -> Read:
    """As `view.reader` has it."""
    name, message = field.name, field.message_type
    if message is not None and message.GetOptions().map_entry:
        return Read(f"sorted({text}.{name}.items())", Known(nullable=False, entries=True))
    if field.is_repeated:
        return Read(f"{text}.{name}", of_field(field, nullable=False))
    guard = f"{text}.HasField({name!r})"
    if message is not None and message.full_name == TIMESTAMP:
        return Read(f"{source.constant(moment, 'moment')}({text}.{name})", Known(nullable=False, vouched=True), guard)
    if field.has_presence:
        return Read(f"{text}.{name}", of_field(field, nullable=False), guard)
    if definition.wanted.nullable and field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_ENUM):
        return Read(f"({text}.{name} or None)", of_field(field, nullable=True))
    return Read(f"{text}.{name}", of_field(field, nullable=False))
