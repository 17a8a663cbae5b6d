"""Documents, messages and structs share one shape: same field names, enums as full proto labels, times as UTC datetimes.

A read asks Mongo for the message's own fields (`projection`) and hands the documents to the message's constructor; nothing maps.
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
DEPTH_MAX = 8
Descriptor: TypeAlias = Any
"""A message's descriptor; the library's two implementations share no type."""


@cache
def projection(descriptor: Descriptor) -> Document:
    """The inclusion projection of a message's descriptor: `id` from `_id`, dotted paths of sub-messages, nothing else."""
    paths: dict[str, Any] = {}
    _include(descriptor, "", paths, 0)
    if "id" in paths:
        paths["id"] = "$_id"
    paths["_id"] = 0
    return paths


def _include(descriptor: Descriptor, prefix: str, paths: dict[str, Any], depth: int) -> None:
    if depth > DEPTH_MAX:
        raise ValueError(f"{descriptor.full_name} nests deeper than {DEPTH_MAX}")
    for field in descriptor.fields:
        inner = field.message_type
        if inner is None or inner.full_name.startswith(WELL_KNOWN) or inner.GetOptions().map_entry:
            paths[prefix + field.name] = 1
        else:
            _include(inner, f"{prefix}{field.name}.", paths, depth + 1)


def builtins(value: object) -> Any:
    """A struct (or several) as documents: times and bytes stay what they are."""
    return msgspec.to_builtins(value, builtin_types=(datetime, bytes))


def checked(value: S) -> S:
    """The same struct after its bounds were checked, which constructors and `replace` do not do; `Invalid` names the field."""
    return as_struct(builtins(value), type(value))


def as_struct(document: Document, struct: type[S]) -> S:
    """A document (or a message's fields) as a struct, bounds checked; `Invalid` names the field that is out of them."""
    if "_id" in document and "id" not in document:
        document = document | {"id": document["_id"]}
    try:
        return msgspec.convert(document, struct)
    except msgspec.ValidationError:
        raise validation.invalid(document, struct) from None


def as_document(value: msgspec.Struct) -> Document:
    """A struct as the document to store: checked, `id` as `_id`, absent values left out."""
    document: Document = {name: item for name, item in builtins(checked(value)).items() if item is not None}
    if "id" in document:
        document["_id"] = document.pop("id")
    return document


def as_documents(values: Sequence[msgspec.Struct]) -> list[Document]:
    """Structs as the documents to store, all in one go and unchecked: for bulk writes of values whose bounds hold already."""
    documents: list[Document] = [{name: item for name, item in each.items() if item is not None} for each in builtins(values)]
    for document in documents:
        document["_id"] = document.pop("id")
    return documents


def shaped(document: Document, descriptor: Descriptor) -> Document:
    """A whole stored document as a projected read would answer it: the message's own fields, `id` from `_id`."""
    answer: Document = {}
    for field in descriptor.fields:
        value = document.get(field.name)
        if field.name == "id" and value is None:
            value = document.get("_id")
        if value is None:
            continue
        inner = field.message_type
        if inner is None or inner.full_name.startswith(WELL_KNOWN) or inner.GetOptions().map_entry:
            answer[field.name] = value
        elif isinstance(value, list | tuple):
            answer[field.name] = [shaped(item, inner) for item in value]
        else:
            answer[field.name] = shaped(value, inner)
    return answer


def fields(message: Message) -> Document:
    """What a request sets, as builtins for `as_struct`: enums as labels, times as datetimes, unset fields left out."""
    return {field.name: _value(field, value) for field, value in message.ListFields()}


def _value(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return [_single(field, item) for item in value]
    return _single(field, value)


def _single(field: FieldDescriptor, value: Any) -> Any:
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        if named is None:
            raise Invalid("INVALID_FIELD", f"{value} is not a {field.enum_type.name}", field=field.name)
        return named.name
    if field.message_type is None:
        return value
    if field.message_type.full_name == "google.protobuf.Timestamp":
        return value.ToDatetime(tzinfo=UTC)
    if field.message_type.full_name == "google.protobuf.Duration":
        return value.ToTimedelta()
    return fields(value)
