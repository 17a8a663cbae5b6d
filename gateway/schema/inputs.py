"""Input types: the values of a client, declared over the request message that they become.

    @input_type(orders_pb2.PayOrderRequest)
    class PayOrderInput:
        idempotency_key: str
        order_id: ID
        method: PaymentMethod

An input type is the input object of a mutation, or the arguments of a field. A client may omit nullable fields; the request then leaves
them unset. `idempotency_key` fills `request_id` of the request. `input_field` declares a field that differs from its proto field.
"""

import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

import strawberry
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from msgspec import Struct
from strawberry import UNSET
from strawberry.types.arguments import StrawberryArgument
from strawberry.types.field import StrawberryField

from gateway.rpc.clients import Descriptor
from gateway.schema import descriptions
from gateway.schema.registry import TYPES, AnnotationInfo, parse_annotation, register, strawberry_annotation
from services.kit import ids
from services.kit.errors import Denied, Invalid, field_prefix

if TYPE_CHECKING:
    from gateway.schema.resolver_context import ResolverContext

T = TypeVar("T")

IDEMPOTENCY_KEY = "idempotency_key"
LIST_INDEX = re.compile(r"\[(\d+)\]")
"""An index of a list in a field path of a service."""
IDEMPOTENCY_KEY_DESCRIPTION = (
    "Idempotency key chosen by the client (1-128 characters). Repeating the mutation with the same key and input within 7 days returns the "
    "first result and changes nothing."
)


class InputFieldOptions(Struct, frozen=True):
    """The options that `input_field` declares."""

    session_default: str = ""
    proto_field: str = ""
    description: str = ""


def input_field(*, session_default: str = "", proto_field: str = "", description: str = "") -> Any:
    """Declares a field of an input type with options.

    `session_default`: if the client omits the field, it is this id of the session (`consumer_id` or `staff_id`). `proto_field`: the field
    of the message that it fills, if that has another name. `description`: replaces the comment of the proto.
    """
    return InputFieldOptions(session_default, proto_field, description)


class InputField(Struct, frozen=True):
    """A field of an input type, and the field of the message that it fills."""

    name: str
    field: FieldDescriptor
    annotation: str
    info: AnnotationInfo
    session_default: str
    description: str

    @property
    def client_name(self) -> str:
        """The name in the client's spelling."""
        return descriptions.to_camel_case(self.name)


class InputType:
    """Converts the values of a client to a request message."""

    def __init__(self, message: type[Message], fields: tuple[InputField, ...]) -> None:
        self.message, self.fields = message, fields

    @classmethod
    def from_declaration(cls, arguments: type[Any] | None, message: type[Message]) -> "InputType":
        """Returns the input type of a declared class, or one without fields; raises TypeError if it is over another message."""
        declared: InputType = getattr(arguments, "__input_type__", None) or cls(message, ())
        if declared.message is not message:
            raise TypeError(f"{arguments} is not an input type over {message.DESCRIPTOR.full_name}.")
        return declared

    def build(self, values: Mapping[str, Any], context: "ResolverContext", **preset: Any) -> Message:
        """Returns the request; `preset` are fields that the source message fills. `Invalid` names the wrong field of the input."""
        message = self.message(**preset)
        self.fill(message, values, context)
        return message

    def fill(self, message: Message, values: Mapping[str, Any], context: "ResolverContext") -> None:
        """Sets the fields of a message from the values; raises `Invalid` with the path of the wrong field."""
        chosen: dict[str, InputField] = {}
        for field in self.fields:
            value = values.get(field.name)
            if value is None or value is UNSET:
                value = _default_value(field, context)
            if value is None:
                continue
            if (oneof := field.field.containing_oneof) is not None and (other := chosen.setdefault(oneof.full_name, field)) is not field:
                raise Invalid(
                    "INVALID_FIELD", f"Give either `{other.client_name}` or `{field.client_name}`, not both.", field=field.client_name
                )
            try:
                _set_field(message, field.field, value, context)
            except Invalid as refusal:
                raise refusal.with_field_prefix(field.client_name) from None
            except (ValueError, TypeError):
                message_text = f"`{field.client_name}` has an invalid value. Check its format and range."
                raise Invalid("INVALID_FIELD", message_text, field=field.client_name) from None

    def client_path(self, path: str) -> str:
        """Returns the path of a request's field in the client's input: `lines.0.unitPrice.amount` for `lines[0].unit_price.minor`.

        A step without an input field keeps its own name; the entries of a map have the path of the map.
        """
        input_type: InputType | None = self
        steps = LIST_INDEX.sub(r".\1", path.replace("[...]", "")).split(".")
        for index, name in enumerate(steps):
            if name.isdigit():
                continue
            field = next((field for field in input_type.fields if field.field.name == name), None) if input_type else None
            input_type = getattr(TYPES.get(field.info.name), "__input_type__", None) if field else None
            steps[index] = field.client_name if field else descriptions.to_camel_case(name)
        return ".".join(steps)

    def arguments(self) -> list[StrawberryArgument]:
        """Returns the fields as the arguments of a field of the graph."""
        return [
            StrawberryArgument(
                python_name=field.name,
                graphql_name=None,
                type_annotation=strawberry_annotation(field.annotation),
                description=field.description,
                default=UNSET,
            )
            for field in self.fields
        ]


def _default_value(field: InputField, context: "ResolverContext") -> Any:
    """Returns the value of a field that the client omitted; raises `Denied` or `Invalid` if the session has none."""
    if field.name == IDEMPOTENCY_KEY:
        return ids.new("req")
    if not field.session_default:
        return None
    value = getattr(context.session, field.session_default)
    if value:
        return value
    name = field.client_name
    if context.session.principal is None:
        raise Denied("UNAUTHENTICATED", f"You are not signed in. Sign in, or give `{name}`.")
    role = {"consumer_id": "a consumer", "staff_id": "a member of staff"}[field.session_default]
    raise Invalid("INVALID_FIELD", f"`{name}` is required, because you are not signed in as {role}.", field=name)


def _set_field(message: Message, field: FieldDescriptor, value: Any, context: "ResolverContext") -> None:
    """Sets one field of a message from a client's value."""
    if field.message_type is None:
        if field.is_repeated:
            getattr(message, field.name).extend(_unwrap_enum(item) for item in value)
        else:
            setattr(message, field.name, _unwrap_enum(value))
    elif field.message_type.GetOptions().map_entry:
        entries = {entry.name: entry.value for entry in value}
        if len(entries) < len(value):
            raise Invalid("INVALID_FIELD", "A name is given twice. Give each name once.")
        getattr(message, field.name).update(entries)
    elif field.is_repeated:
        for index, item in enumerate(value):
            with field_prefix(str(index)):
                _fill_message(getattr(message, field.name).add(), item, context)
    else:
        _fill_message(getattr(message, field.name), value, context)


def _unwrap_enum(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _fill_message(message: Message, value: Any, context: "ResolverContext") -> None:
    message.SetInParent()
    if isinstance(message, Timestamp):
        message.FromDatetime(value)
    else:
        nested: InputType = type(value).__input_type__
        nested.fill(message, vars(value), context)


def input_type(message: type[Message], *, converter: type[InputType] = InputType, description: str = "") -> Callable[[type[T]], type[T]]:
    """Declares an input type over a request, or over a message within one.

    `converter`: a subclass of `InputType` for a message whose fields depend on each other. `description`: for a message without comment.
    """

    def decorate(cls: type[T]) -> type[T]:
        fields = tuple(_declare_field(message, cls, name, annotation) for name, annotation in cls.__annotations__.items())
        cls.__input_type__ = converter(message, fields)  # type: ignore[attr-defined]
        for field in fields:
            default = UNSET if field.info.is_nullable else strawberry.field().default
            setattr(cls, field.name, StrawberryField(python_name=field.name, default=default, description=field.description))
        comment = descriptions.find_comment(message.DESCRIPTOR.full_name)
        strawberry.input(cls, description=comment or description or f"The input of `{_rpc_name(message)}`.")
        by_name = {field.name: field for field in fields}
        definition: Any = cls.__strawberry_definition__  # type: ignore[attr-defined]
        for each in definition.fields:
            each.type_annotation = strawberry_annotation(by_name[each.python_name].annotation)
        register(cls.__name__, cls)
        return cls

    return decorate


def _rpc_name(message: type[Message]) -> str:
    name = message.DESCRIPTOR.name.removesuffix("Request")
    return name[0].lower() + name[1:]


def _declare_field(message: type[Message], cls: type[Any], name: str, annotation: Any) -> InputField:
    options = cls.__dict__.get(name, InputFieldOptions())
    descriptor: Descriptor = message.DESCRIPTOR
    field = descriptor.fields_by_name.get(options.proto_field or ("request_id" if name == IDEMPOTENCY_KEY else name))
    if field is None:
        raise TypeError(f"{descriptor.full_name} has no field {name}.")
    description = options.description
    if not description:
        description = IDEMPOTENCY_KEY_DESCRIPTION if name == IDEMPOTENCY_KEY else descriptions.describe_field(field) or ""
    if options.session_default:
        description = f"{description} Defaults to your own id."
    return InputField(name, field, annotation, parse_annotation(annotation), options.session_default, description)
