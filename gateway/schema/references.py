"""Reference fields: they lead from one message to others by their ids, with one batch rpc for all objects of a level.

    store: Store | None = reference(by="store_id", loader=store_by_id)
    scorecard: Scorecard | None = reference(by="id", loader=scorecard_of_store, arguments=Period)

Every reference is nullable: a service that is unavailable costs only its own fields.
"""

from collections.abc import Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor
from strawberry.types import Info

from gateway.rpc.clients import Descriptor
from gateway.schema import descriptions
from gateway.schema.batch_loader import BatchLoader, BatchParameters
from gateway.schema.fields import GraphField
from gateway.schema.inputs import InputType

if TYPE_CHECKING:
    from gateway.schema.resolver_context import ResolverContext


class ReferenceField(GraphField):
    """A field that `reference` declares."""

    def __init__(
        self,
        by: str,
        loader: BatchLoader,
        parameters: Mapping[str, str],
        arguments: type[Any] | None,
        list_size: int,
        description: str | None,
    ) -> None:
        super().__init__(description=description)
        self.by, self.loader, self.get_keys, self.list_size = by, loader, attrgetter(by), list_size
        self.input_type = InputType.from_declaration(arguments, loader.rpc.request)
        self._arguments = self.input_type.arguments()
        self.parameters = tuple((name, attrgetter(attribute)) for name, attribute in parameters.items())

    @property
    def is_basic_field(self) -> bool:
        return False

    def validate(self, where: str) -> None:
        if not self.annotation_info.is_nullable:
            raise TypeError(f"{where} calls a service: it must be nullable.")
        if self.owner is not None and _find_field(self.owner, self.by) is None:
            raise TypeError(f"{where}: {self.owner.full_name} has no field {self.by}.")

    def default_description(self) -> str | None:
        field = _find_field(self.owner, self.by) if self.owner is not None else None
        if field is None:
            return None
        return (
            descriptions.find_comment(field.full_name)
            or descriptions.DEFAULT_DESCRIPTIONS.get(self.python_name)
            or descriptions.describe_field(field)
        )

    def proto_field(self) -> FieldDescriptor | None:
        """The repeated key of the message, or the field of the loader's items that it returns."""
        if self.has_key_list:
            return _find_field(self.owner, self.by)
        return self.loader.item.fields_by_name[self.loader.value_name] if self.loader.value_name else None

    @property
    def has_key_list(self) -> bool:
        """True if its key is a repeated field."""
        field = _find_field(self.owner, self.by) if self.owner is not None else None
        return field is not None and field.is_repeated

    def source_parameters(self, source: Any) -> BatchParameters:
        """Returns the parameters that come from the source message."""
        if not self.parameters:
            return b""
        return self.loader.serialize_parameters(**{name: get(source) for name, get in self.parameters})

    def argument_parameters(self, context: "ResolverContext", arguments: Mapping[str, Any]) -> BatchParameters:
        """Returns the parameters that come from the client's arguments."""
        if not self.input_type.fields:
            return b""
        return self.input_type.build(arguments, context).SerializeToString(deterministic=True)

    def get_result(self, source: Any, info: Info[Any, Any] | None, args: list[Any], kwargs: Any) -> Any:
        assert info is not None
        keys = self.get_keys(source)
        if keys == "":
            return None
        loader = info.context.loader(self.loader, self.source_parameters(source) + self.argument_parameters(info.context, kwargs))
        return loader.load(keys) if isinstance(keys, str) else loader.load_many(list(keys))


def _find_field(owner: Descriptor, path: str) -> FieldDescriptor | None:
    """Returns the field at a dotted path; None if the message has no such field."""
    field = None
    for name in path.split("."):
        field = owner.fields_by_name.get(name) if owner is not None else None
        owner = field.message_type if field is not None else None
    return field


def reference(
    *,
    by: str,
    loader: BatchLoader,
    parameters: Mapping[str, str] | None = None,
    arguments: type[Any] | None = None,
    list_size: int = 0,
    description: str | None = None,
) -> Any:
    """Declares a reference to the objects whose ids the message has in the field `by` (one id or a list).

    `parameters` maps further fields of the batch request to fields of the message. `arguments` is an input type over the batch request;
    keys with equal parameters share one call. The default description is that of the key. `list_size` is the price of a list in items,
    for a loader that returns several items for a key.
    """
    return ReferenceField(by, loader, parameters or {}, arguments, list_size, description)
