"""Conversion between MongoDB documents, protobuf messages and msgspec structs, which share one shape.

All three have the same field names, enums as full proto labels and times as UTC datetimes. A read asks MongoDB for the fields of the
message only (`projection`) and passes the documents to the message's constructor, without mapping code.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeAlias, TypeVar

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from services.kit.errors import Invalid
from services.kit.mongo.client import Document
from services.kit.values import validation

S = TypeVar("S", bound=msgspec.Struct)
WELL_KNOWN = "google.protobuf."
"""The package of the messages that are values here, like Timestamp."""
DEPTH_MAX = 8
"""Messages may nest at most this deep."""
Descriptor: TypeAlias = Any
"""A message's descriptor; the library's two implementations share no type."""


@cache
def projection(descriptor: Descriptor) -> Document:
    """Returns the inclusion projection of a message: its own fields only, `id` from `_id`, dotted paths for sub-messages."""
    paths: dict[str, Any] = {}
    _include(descriptor, "", paths, 0)
    if "id" in paths:
        paths["id"] = "$_id"
    paths["_id"] = 0
    return paths


def _include(descriptor: Descriptor, prefix: str, paths: dict[str, Any], depth: int) -> None:
    if depth > DEPTH_MAX:
        raise ValueError(f"{descriptor.full_name} nests deeper than {DEPTH_MAX} levels. Flatten it.")
    for field in descriptor.fields:
        inner = field.message_type
        if inner is None or inner.full_name.startswith(WELL_KNOWN) or inner.GetOptions().map_entry:
            paths[prefix + field.name] = 1
        else:
            _include(inner, f"{prefix}{field.name}.", paths, depth + 1)


def to_builtins(value: object) -> Any:
    """Converts a struct, or a sequence of structs, to dicts and lists; datetimes and bytes are kept."""
    return msgspec.to_builtins(value, builtin_types=(datetime, bytes))


def validate(value: S) -> S:
    """Returns an equal struct after checking its bounds; `Invalid` names the field. Constructors and `replace` do not check bounds."""
    return to_struct(to_builtins(value), type(value))


def to_struct(document: Document, struct: type[S]) -> S:
    """Converts a document, or the fields of a message, to a struct and checks its bounds; `Invalid` names the field."""
    if "_id" in document and "id" not in document:
        document = document | {"id": document["_id"]}
    try:
        return msgspec.convert(document, struct)
    except msgspec.ValidationError:
        raise validation.invalid(document, struct) from None


def to_document(value: msgspec.Struct) -> Document:
    """Converts a struct to the document to store: validated, `id` as `_id`, without fields that are None."""
    document: Document = {name: item for name, item in to_builtins(validate(value)).items() if item is not None}
    if "id" in document:
        document["_id"] = document.pop("id")
    return document


def to_documents(values: Sequence[msgspec.Struct]) -> list[Document]:
    """Converts structs to documents in one call and without validation, for bulk writes of valid structs."""
    documents: list[Document] = [{name: item for name, item in each.items() if item is not None} for each in to_builtins(values)]
    for document in documents:
        document["_id"] = document.pop("id")
    return documents


def project(document: Document, descriptor: Descriptor) -> Document:
    """Returns a stored document as a read with `projection` returns it: the message's own fields only, `id` from `_id`."""
    projected: Document = {}
    for field in descriptor.fields:
        value = document.get(field.name)
        if field.name == "id" and value is None:
            value = document.get("_id")
        if value is None:
            continue
        inner = field.message_type
        if inner is None or inner.full_name.startswith(WELL_KNOWN) or inner.GetOptions().map_entry:
            projected[field.name] = value
        elif isinstance(value, list | tuple):
            projected[field.name] = [project(item, inner) for item in value]
        else:
            projected[field.name] = project(value, inner)
    return projected


def request_fields(message: Message) -> Document:
    """Converts the fields that a request sets to builtins for `to_struct`: enums as labels, times as datetimes."""
    return {field.name: _field_value(field, value) for field, value in message.ListFields()}


def _field_value(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return [_item_value(field, item) for item in value]
    return _item_value(field, value)


def _item_value(field: FieldDescriptor, value: Any) -> Any:
    if field.enum_type is not None:
        label = field.enum_type.values_by_number.get(value)
        if label is None:
            raise Invalid("INVALID_FIELD", f"{value} is not a {field.enum_type.name}. Use one of its values.", field=field.name)
        return label.name
    if field.message_type is None:
        return value
    if field.message_type.full_name == "google.protobuf.Timestamp":
        return value.ToDatetime(tzinfo=UTC)
    if field.message_type.full_name == "google.protobuf.Duration":
        return value.ToTimedelta()
    return request_fields(value)
