"""Fields that call an rpc with arguments: queries, connections and mutations.

offers: OfferConnection | None = connection_field(catalog_pb2.SearchOffersRequest, arguments=OfferSearch)
tasks: TaskConnection | None = connection_field(tasks_pb2.ListTasksRequest, by={"staff_id": "id"}, loader=tasks_of_staff)
pay_order: PayOrderPayload | None = mutation_field(PayOrderInput)
"""

from collections.abc import Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message
from strawberry.annotation import StrawberryAnnotation
from strawberry.types import Info
from strawberry.types.arguments import StrawberryArgument
from strawberry.types.base import StrawberryOptional
from strawberry.types.union import StrawberryUnion

from gateway.rpc.clients import rpc_of
from gateway.schema import connections, descriptions, refusal_types
from gateway.schema.batch_loader import BatchLoader, BatchParameters
from gateway.schema.fields import GraphField
from gateway.schema.inputs import IDEMPOTENCY_KEY, InputType
from gateway.schema.registry import TYPES, strawberry_annotation
from services.kit.errors import NotFound, Refusal

if TYPE_CHECKING:
    from gateway.schema.resolver_context import ResolverContext


class RpcField(GraphField):
    """A field that `rpc_field` or `connection_field` declares."""

    def __init__(
        self,
        request: type[Message],
        input_type: InputType,
        by: Mapping[str, str],
        item: str,
        *,
        is_paginated: bool,
        loader: BatchLoader | None = None,
        key: str = "",
        description: str | None,
    ) -> None:
        super().__init__(description=description)
        self.rpc = rpc_of(request)
        self.input_type, self.is_paginated, self.loader = input_type, is_paginated, loader
        self.by = {name: attrgetter(attribute) for name, attribute in by.items()}
        if loader is not None:
            self.get_key = attrgetter(key or next(iter(by.values())))
            for name in ("first", *(field.field.name for field in input_type.fields)):
                if name not in loader.rpc.request.DESCRIPTOR.fields_by_name:
                    raise TypeError(f"{loader.rpc.request.DESCRIPTOR.full_name} has no field {name}.")
        self.item_name, self.get_item = item, attrgetter(item) if item else None
        self._arguments = [*input_type.arguments(), *(connections.pagination_arguments() if is_paginated else ())]

    @property
    def is_basic_field(self) -> bool:
        return False

    def validate(self, where: str) -> None:
        if not self.annotation_info.is_nullable:
            raise TypeError(f"{where} calls a service: it must be nullable.")

    def default_description(self) -> str | None:
        """The comment of the rpc and, on a root type, the comment of its request: elsewhere the source message fills the request."""
        parts = [descriptions.find_comment(self.rpc.method.full_name)]
        if not self.by:
            parts.append(descriptions.find_comment(self.rpc.request.DESCRIPTOR.full_name))
        if self.get_item is not None:
            parts.append("Null if it does not exist or you may not see it.")
        return " ".join(filter(None, parts)) or None

    def get_result(self, source: Any, info: Info[Any, Any] | None, args: list[Any], kwargs: Any) -> Any:
        assert info is not None
        preset = self.source_fields(source)
        if preset is None:
            return None
        if self.loader is not None:
            return self._load_page(info.context, self.get_key(source), preset, kwargs)
        return self.call(info.context, preset, kwargs)

    def source_fields(self, source: Any) -> dict[str, Any] | None:
        """Returns the fields of the request that the source message fills; None if one of them is empty, so that no rpc is called."""
        fields = {name: get(source) for name, get in self.by.items()}
        return fields if all(fields.values()) else None

    def first_page_parameters(self, context: "ResolverContext", arguments: dict[str, Any]) -> BatchParameters | None:
        """Returns the parameters of the batch rpc for these arguments; None if they request a later page."""
        assert self.loader is not None
        page = connections.build_page_request(arguments.get("first"), arguments.get("after"))
        if page.after:
            return None
        request = self.loader.rpc.request(first=page.first)
        self.input_type.fill(request, arguments, context)
        return request.SerializeToString(deterministic=True)

    async def _load_page(self, context: "ResolverContext", key: str, preset: dict[str, Any], arguments: dict[str, Any]) -> Any:
        parameters = self.first_page_parameters(context, arguments)
        if parameters is None:
            return await self.call(context, preset, arguments)
        assert self.loader is not None
        page = await context.loader(self.loader, parameters).load(key)
        return self.rpc.response() if page is None else page

    async def call(self, context: "ResolverContext", preset: dict[str, Any], arguments: dict[str, Any]) -> Any:
        """Calls the rpc; returns its response, or the item of it, which is None if the service answers NOT_FOUND."""
        if self.is_paginated:
            preset = preset | {"page": connections.build_page_request(arguments.get("first"), arguments.get("after"))}
        request = self.input_type.build(arguments, context, **preset)
        if self.get_item is None:
            return await context.call(request)
        try:
            return self.get_item(await context.call(request))
        except NotFound:
            return None


def rpc_field(request: type[Message], *, arguments: type[Any] | None = None, item: str = "", description: str | None = None) -> Any:
    """Declares a root field that returns the response of an rpc, or one `item` of it: null if the service answers NOT_FOUND.

    `arguments` is an input type over the request. A field of another type is a `reference`: this one would call the rpc for each parent.
    """
    return RpcField(request, InputType.from_declaration(arguments, request), {}, item, is_paginated=False, description=description)


def connection_field(
    request: type[Message],
    *,
    arguments: type[Any] | None = None,
    by: Mapping[str, str] | None = None,
    loader: BatchLoader | None = None,
    key: str = "",
    description: str | None = None,
) -> Any:
    """Declares a connection over a `List…` rpc.

    `arguments` is an input type over the request. `by` maps fields of the request to fields of the source message; the connection is null
    if one of these is empty. `loader` is a `BatchList…` rpc with the same arguments, which loads the first pages of many sources in one
    call, by the source's field `key` (by default, the only one in `by`).
    """
    input_type = InputType.from_declaration(arguments, request)
    return RpcField(request, input_type, by or {}, "", is_paginated=True, loader=loader, key=key, description=description)


class MutationField(GraphField):
    """A field that `mutation_field` declares."""

    def __init__(self, input_class: type[Any]) -> None:
        self.input_class, self.input_type = input_class, input_class.__input_type__
        self.rpc = rpc_of(self.input_type.message)
        super().__init__()
        self.members: tuple[type[Any], ...] = ()

    @property
    def is_basic_field(self) -> bool:
        return False

    def validate(self, where: str) -> None:
        if not self.annotation_info.is_nullable:
            raise TypeError(f"{where} calls a service: it must be nullable.")
        if not any(field.name == IDEMPOTENCY_KEY for field in self.input_type.fields):
            raise TypeError(f"{where} needs an idempotency key.")
        self.members = tuple(dict.fromkeys((*refusal_types.declared_refusal_types(self.rpc.method), *refusal_types.family_refusal_types())))
        self._arguments = [
            StrawberryArgument(
                python_name="input",
                graphql_name=None,
                type_annotation=strawberry_annotation(self.input_class.__name__),
                description="The input of the mutation.",
            )
        ]

    def default_description(self) -> str | None:
        return descriptions.find_comment(self.rpc.method.full_name)

    def resolve_annotation(self) -> None:
        payload = TYPES[self.annotation_info.name]
        name = self.annotation_info.name.removesuffix("Payload") + "Result"
        mutation = descriptions.to_camel_case(self.python_name)
        description = f"The result of `{mutation}`: its payload, or the refusal that explains why nothing was changed."
        members = (payload, *self.members)
        union = StrawberryUnion(name=name, type_annotations=tuple(map(StrawberryAnnotation, members)), description=description)
        self.type_annotation = StrawberryAnnotation(StrawberryOptional(of_type=union))

    def get_result(self, source: Any, info: Info[Any, Any] | None, args: list[Any], kwargs: Any) -> Any:
        assert info is not None
        return self.execute(info.context, vars(kwargs["input"]))

    async def execute(self, context: "ResolverContext", values: dict[str, Any]) -> Any:
        """Calls the rpc; returns its payload, or its refusal as a member of the result. Raises refusals of `TOP_LEVEL`."""
        try:
            return await context.call(self.input_type.build(values, context))
        except Refusal as refusal:
            if refusal.reason in refusal_types.TOP_LEVEL:
                raise
            return refusal_types.build_refusal(refusal, self.members, self.input_type.client_path)


def mutation_field(input_class: type[Any]) -> Any:
    """Declares a mutation that calls the rpc of an input type; its annotation is the payload.

    Its result is a union of the payload, the types of the reasons that the rpc declares, and the types of the refusal families.
    """
    return MutationField(input_class)
