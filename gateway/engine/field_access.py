"""Field access: the expressions that read a field from its source object without an rpc."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from msgspec import Struct

from gateway.engine.collect_fields import Field, Uncompiled
from gateway.engine.source_builder import SourceBuilder
from gateway.engine.value_info import UNKNOWN_VALUE, ValueInfo, infer_field, infer_message
from gateway.schema.references import ReferenceField
from gateway.schema.subscription_fields import SubscriptionField
from gateway.schema.types import TIMESTAMP, ComputedField, MessageField, format_timestamp


class FieldAccess(Struct, frozen=True):
    """An expression that reads a field, and what is guaranteed about its value."""

    expression: str
    info: ValueInfo = UNKNOWN_VALUE
    guard: str | None = None
    """The condition under which the field has a value; None if the expression itself is null without one."""


TRUSTED_RETURN_TYPES = frozenset({str, "str", bool, "bool"})
"""A function annotated with one of these returns a value of it: mypy checks that."""


def _return_type(function: Any) -> Any:
    return getattr(function, "__annotations__", {}).get("return")


def access_field(source: SourceBuilder, field: Field, obj: str) -> FieldAccess:
    """Returns the access to the field of the object named `obj`; raises `Uncompiled` for an unknown kind of field."""
    definition: Any = field.definition
    if isinstance(definition, ComputedField):
        if definition.source_field:
            proto_field = definition.owner.fields_by_name[definition.source_field]
            return FieldAccess(f"{obj}.{definition.source_field}", infer_field(proto_field, is_nullable=False))
        is_trusted = _return_type(definition.read) in TRUSTED_RETURN_TYPES
        info = ValueInfo(is_nullable=False, is_trusted=True) if is_trusted else UNKNOWN_VALUE
        return FieldAccess(f"{source.constant(definition.read, 'read')}({obj})", info)
    if isinstance(definition, SubscriptionField):
        return FieldAccess(obj, infer_message(definition.rpc.response.DESCRIPTOR, is_nullable=False))
    if isinstance(definition, MessageField):
        if definition.owner is None:
            return FieldAccess(f"{obj}.{definition.python_name}")
        return _access_message_field(source, definition, definition.owner.fields_by_name[definition.python_name], obj)
    if definition is not None and definition.is_basic_field and not isinstance(definition, ReferenceField):
        return FieldAccess(f"{obj}.{definition.python_name}")
    raise Uncompiled("field")


def _access_message_field(source: SourceBuilder, definition: MessageField, field: FieldDescriptor, obj: str) -> FieldAccess:
    """Returns the access with the same result as `types.field_reader`."""
    name, message = field.name, field.message_type
    if message is not None and message.GetOptions().map_entry:
        return FieldAccess(f"sorted({obj}.{name}.items())", ValueInfo(is_nullable=False, is_map=True))
    if field.is_repeated:
        return FieldAccess(f"{obj}.{name}", infer_field(field, is_nullable=False))
    guard = f"{obj}.HasField({name!r})"
    if message is not None and message.full_name == TIMESTAMP:
        expression = f"{source.constant(format_timestamp, 'timestamp')}({obj}.{name})"
        return FieldAccess(expression, ValueInfo(is_nullable=False, is_trusted=True), guard)
    if field.has_presence:
        return FieldAccess(f"{obj}.{name}", infer_field(field, is_nullable=False), guard)
    if definition.annotation_info.is_nullable and field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_ENUM):
        return FieldAccess(f"({obj}.{name} or None)", infer_field(field, is_nullable=True))
    return FieldAccess(f"{obj}.{name}", infer_field(field, is_nullable=False))
