"""Forms: what a client gives, declared over the request it becomes.

    @form(orders_pb2.PayOrderRequest)
    class PayOrderInput:
        idempotency_key: str
        order_id: ID
        method: PaymentMethod

A form is an input object of a mutation, or the arguments of a field. Nullable parts may be left out: then the request does not set
them. `idempotency_key` is the request's `request_id`. `part` declares what its name does not say.
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
from gateway.schema.registry import NAMES, Wanted, annotation, declare, wanted
from services.kit import ids
from services.kit.errors import Denied, Invalid, under

if TYPE_CHECKING:
    from gateway.schema.resolver_context import ResolverContext

T = TypeVar("T")

IDEMPOTENCY_KEY = "idempotency_key"
PLACE = re.compile(r"\[(\d+)\]")
"""A place in a list, as services write it."""
KEY_DESCRIPTION = (
    "The call's own key, 1 to 128 characters, chosen by whoever calls: calls with the same key are carried out once and answered alike, "
    "so that a call whose answer was lost may be made again."
)


class Special(Struct, frozen=True):
    """See `part`."""

    mine: str
    field: str
    description: str


def part(*, mine: str = "", field: str = "", description: str = "") -> Any:
    """A part that is declared otherwise than its name says.

    `mine`: it stands for the signed-in person's own `consumer_id` or `staff_id` when it is left out. `field`: the field it fills.
    `description`: where the proto's comment does not fit.
    """
    return Special(mine, field, description)


class Part(Struct, frozen=True):
    """One part of a form: the request's field it fills and how it is declared."""

    name: str
    field: FieldDescriptor
    text: str
    wanted: Wanted
    mine: str
    description: str


class Form:
    """How the values of a client become a request."""

    def __init__(self, message: type[Message], parts: tuple[Part, ...]) -> None:
        self.message, self.parts = message, parts

    @classmethod
    def of(cls, arguments: type[Any] | None, message: type[Message]) -> "Form":
        """The form that declares a field's arguments over this request (None: it takes none); TypeError when it is of another."""
        found: Form = getattr(arguments, "__form__", None) or cls(message, ())
        if found.message is not message:
            raise TypeError(f"{arguments} is no form of {message.DESCRIPTOR.full_name}")
        return found

    def build(self, values: Mapping[str, Any], context: "ResolverContext", **bound: Any) -> Message:
        """The request; `bound` are fields that the field's own source gives. `Invalid` names the part that cannot be."""
        message = self.message(**bound)
        self.fill(message, values, context)
        return message

    def fill(self, message: Message, values: Mapping[str, Any], context: "ResolverContext") -> None:
        """Sets the parts on a message that has fields of these names."""
        chosen: dict[str, str] = {}
        for part in self.parts:
            value = values.get(part.name)
            if value is None or value is UNSET:
                value = self._left_out(part, context)
            if value is None:
                continue
            if (oneof := part.field.containing_oneof) is not None and chosen.setdefault(oneof.full_name, part.name) != part.name:
                raise Invalid(
                    "INVALID_FIELD",
                    f"give one of {descriptions.camel(chosen[oneof.full_name])} and {descriptions.camel(part.name)}",
                    field=descriptions.camel(part.name),
                )
            try:
                _set(message, part.field, value, context)
            except Invalid as refused:
                raise refused.under(descriptions.camel(part.name)) from None
            except (ValueError, TypeError):
                raise Invalid("INVALID_FIELD", "this value cannot be", field=descriptions.camel(part.name)) from None

    def written(self, path: str) -> str:
        """How a client wrote what a service calls `lines[0].unit_price.minor`: `lines.0.unitPrice.amount`. What no part fills is told
        under its own name, entries of a map under the map's."""
        form: Form | None = self
        steps = PLACE.sub(r".\1", path.replace("[...]", "")).split(".")
        for index, name in enumerate(steps):
            if name.isdigit():
                continue
            part = next((part for part in form.parts if part.field.name == name), None) if form else None
            form = getattr(NAMES.get(part.wanted.name), "__form__", None) if part else None
            steps[index] = descriptions.camel(part.name if part else name)
        return ".".join(steps)

    def _left_out(self, part: Part, context: "ResolverContext") -> Any:
        if part.name == IDEMPOTENCY_KEY:
            return ids.new("req")
        if not part.mine:
            return None
        own = getattr(context.session, part.mine)
        if own:
            return own
        name = descriptions.camel(part.name)
        if context.session.principal is None:
            raise Denied("UNAUTHENTICATED", f"sign in, or say {name}")
        raise Invalid("INVALID_FIELD", f"say {name}; you are signed in as no {part.mine.removesuffix('_id')}", field=name)

    def arguments(self) -> list[StrawberryArgument]:
        """The parts as the arguments of a field."""
        return [
            StrawberryArgument(
                python_name=part.name, graphql_name=None, type_annotation=annotation(part.text), description=part.description, default=UNSET
            )
            for part in self.parts
        ]


def _set(message: Message, field: FieldDescriptor, value: Any, context: "ResolverContext") -> None:
    """Sets one field of a request from what a client gave."""
    if field.message_type is None:
        if field.is_repeated:
            getattr(message, field.name).extend(_plain(item) for item in value)
        else:
            setattr(message, field.name, _plain(value))
    elif field.message_type.GetOptions().map_entry:
        entries = {entry.name: entry.value for entry in value}
        if len(entries) < len(value):
            raise Invalid("INVALID_FIELD", "give each name once")
        getattr(message, field.name).update(entries)
    elif field.is_repeated:
        for place, item in enumerate(value):
            with under(str(place)):
                _fill(getattr(message, field.name).add(), item, context)
    else:
        _fill(getattr(message, field.name), value, context)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _fill(message: Message, value: Any, context: "ResolverContext") -> None:
    message.SetInParent()
    if isinstance(message, Timestamp):
        message.FromDatetime(value)
    else:
        nested: Form = type(value).__form__
        nested.fill(message, vars(value), context)


def form(message: type[Message], *, made: type[Form] = Form, description: str = "") -> Callable[[type[T]], type[T]]:
    """A form over a request or over a message within one. `made` is another kind of form, where parts are no fields one by one.
    `description`: unless the message has one."""

    def declared(cls: type[T]) -> type[T]:
        parts = tuple(_part(message, cls, name, text) for name, text in cls.__annotations__.items())
        cls.__form__ = made(message, parts)  # type: ignore[attr-defined]
        for part in parts:
            default = UNSET if part.wanted.nullable else strawberry.field().default
            setattr(cls, part.name, StrawberryField(python_name=part.name, default=default, description=part.description))
        described = descriptions.of(message.DESCRIPTOR.full_name) or description or f"What `{_rpc_name(message)}` is asked with."
        strawberry.input(cls, description=described)
        by_name = {part.name: part for part in parts}
        definition: Any = cls.__strawberry_definition__  # type: ignore[attr-defined]
        for field in definition.fields:
            field.type_annotation = annotation(by_name[field.python_name].text)
        declare(cls.__name__, cls)
        return cls

    return declared


def _rpc_name(message: type[Message]) -> str:
    name = message.DESCRIPTOR.name.removesuffix("Request")
    return name[0].lower() + name[1:]


def _part(message: type[Message], cls: type[Any], name: str, text: Any) -> Part:
    special = cls.__dict__.get(name, Special("", "", ""))
    descriptor: Descriptor = message.DESCRIPTOR
    field = descriptor.fields_by_name.get(special.field or ("request_id" if name == IDEMPOTENCY_KEY else name))
    if field is None:
        raise TypeError(f"{descriptor.full_name} has no field {name}")
    described = special.description or (KEY_DESCRIPTION if name == IDEMPOTENCY_KEY else descriptions.of_field(field) or "")
    if special.mine:
        described = f"{described} Left out: whoever is signed in."
    return Part(name, field, text, wanted(text), special.mine, described)
