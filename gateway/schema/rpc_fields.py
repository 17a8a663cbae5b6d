"""Fields that call an rpc with arguments: look-ups, pages and mutations.

offers: OfferConnection | None = page(catalog_pb2.SearchOffersRequest, arguments=OfferSearch)
tasks: TaskConnection | None = page(tasks_pb2.ListTasksRequest, by={"staff_id": "id"})
pay_order: PayOrderPayload | None = mutation(PayOrderInput)
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
from gateway.schema.fields import GraphField
from gateway.schema.inputs import IDEMPOTENCY_KEY, Form
from gateway.schema.references import Batch, Bound
from gateway.schema.registry import NAMES, annotation
from services.kit.errors import NotFound, Refusal

if TYPE_CHECKING:
    from gateway.schema.resolver_context import ResolverContext


class CallField(GraphField):
    """See `ask` and `page`."""

    def __init__(
        self,
        request: type[Message],
        form: Form,
        by: Mapping[str, str],
        item: str,
        *,
        paged: bool,
        first: Batch | None = None,
        key: str = "",
        description: str | None,
    ) -> None:
        super().__init__(description=description)
        self.rpc = rpc_of(request)
        self.form, self.paged, self.first = form, paged, first
        self.by = {name: attrgetter(attribute) for name, attribute in by.items()}
        if first is not None:
            self.key = attrgetter(key or next(iter(by.values())))
            for name in ("first", *(part.field.name for part in form.parts)):
                if name not in first.rpc.request.DESCRIPTOR.fields_by_name:
                    raise TypeError(f"{first.rpc.request.DESCRIPTOR.full_name} has no field {name}")
        self.item_name, self.item = item, attrgetter(item) if item else None
        self._arguments = [*form.arguments(), *(connections.arguments() if paged else ())]

    @property
    def is_basic_field(self) -> bool:
        return False

    def check(self, where: str) -> None:
        if not self.wanted.nullable:
            raise TypeError(f"{where} asks a service: it must be nullable")

    def described(self) -> str | None:
        """The rpc's comment. What the request must name stands in the request's comment; a source fills that in itself."""
        parts = [descriptions.of(self.rpc.method.full_name)]
        if not self.by:
            parts.append(descriptions.of(self.rpc.request.DESCRIPTOR.full_name))
        if self.item is not None:
            parts.append("Here it is null where nothing is found.")
        return " ".join(filter(None, parts)) or None

    def get_result(self, source: Any, info: Info[Any, Any] | None, args: list[Any], kwargs: Any) -> Any:
        assert info is not None
        bound = self.bound(source)
        if bound is None:
            return None
        if self.first is not None:
            return self._one_of_many(info.context, self.key(source), bound, kwargs)
        return self.answer(info.context, bound, kwargs)

    def bound(self, source: Any) -> dict[str, Any] | None:
        """What the source gives; None when a part of it is empty, so that nothing is asked."""
        bound = {name: value(source) for name, value in self.by.items()}
        return bound if all(bound.values()) else None

    def first_pages(self, context: "ResolverContext", given: dict[str, Any]) -> Bound | None:
        """What the batch of first pages is asked with to these arguments; None when they ask for a further page."""
        assert self.first is not None
        page = connections.page_request(given.get("first"), given.get("after"))
        if page.after:
            return None
        request = self.first.rpc.request(first=page.first)
        self.form.fill(request, given, context)
        return request.SerializeToString(deterministic=True)

    async def _one_of_many(self, context: "ResolverContext", key: str, bound: dict[str, Any], given: dict[str, Any]) -> Any:
        first = self.first_pages(context, given)
        if first is None:
            return await self.answer(context, bound, given)
        assert self.first is not None
        found = await context.loader(self.first, first).load(key)
        return self.rpc.response() if found is None else found

    async def answer(self, context: "ResolverContext", bound: dict[str, Any], given: dict[str, Any]) -> Any:
        """What the rpc says to the arguments and what the source gives; None when there is no such thing."""
        if self.paged:
            bound = bound | {"page": connections.page_request(given.get("first"), given.get("after"))}
        request = self.form.build(given, context, **bound)
        if self.item is None:
            return await context.call(request)
        try:
            return self.item(await context.call(request))
        except NotFound:
            return None


def ask(request: type[Message], *, arguments: type[Any] | None = None, item: str = "", description: str | None = None) -> Any:
    """A field of a root that answers what an rpc does, or one `item` of its response: null when there is no such thing.

    `arguments` are the parts of a form. What belongs to a source is an edge (`edges.py`): below a list this would be a call for each item.
    """
    return CallField(request, Form.of(arguments, request), {}, item, paged=False, description=description)


def page(
    request: type[Message],
    *,
    arguments: type[Any] | None = None,
    by: Mapping[str, str] | None = None,
    first: Batch | None = None,
    key: str = "",
    description: str | None = None,
) -> Any:
    """A connection over a `List…` rpc. `arguments` are the parts of a form, `by` fills fields of the request from the source's attributes
    (null when one of those is empty). With `first`, a `BatchList…` rpc that takes the same arguments, the first pages of many sources are
    one call; the source's `key` is what it is asked for (unless given: the one attribute of `by`)."""
    return CallField(request, Form.of(arguments, request), by or {}, "", paged=True, first=first, key=key, description=description)


class MutationField(GraphField):
    """See `mutation`."""

    def __init__(self, given: type[Any]) -> None:
        self.given, self.form = given, given.__form__
        self.rpc = rpc_of(self.form.message)
        super().__init__()
        self.members: tuple[type[Any], ...] = ()

    @property
    def is_basic_field(self) -> bool:
        return False

    def check(self, where: str) -> None:
        if not self.wanted.nullable:
            raise TypeError(f"{where} asks a service: it must be nullable")
        if not any(part.name == IDEMPOTENCY_KEY for part in self.form.parts):
            raise TypeError(f"{where} takes no idempotency key")
        self.members = tuple(dict.fromkeys((*refusal_types.types_declared_by(self.rpc.method), *refusal_types.family_types())))
        self._arguments = [
            StrawberryArgument(
                python_name="input", graphql_name=None, type_annotation=annotation(self.given.__name__), description="What is asked for."
            )
        ]

    def described(self) -> str | None:
        return descriptions.of(self.rpc.method.full_name)

    def resolve_annotation(self) -> None:
        payload = NAMES[self.wanted.name]
        name = self.wanted.name.removesuffix("Payload") + "Result"
        described = f"What came of `{descriptions.camel(self.python_name)}`: it was done, or why not."
        members = (payload, *self.members)
        union = StrawberryUnion(name=name, type_annotations=tuple(map(StrawberryAnnotation, members)), description=described)
        self.type_annotation = StrawberryAnnotation(StrawberryOptional(of_type=union))

    def get_result(self, source: Any, info: Info[Any, Any] | None, args: list[Any], kwargs: Any) -> Any:
        assert info is not None
        return self.carry_out(info.context, vars(kwargs["input"]))

    async def carry_out(self, context: "ResolverContext", given: dict[str, Any]) -> Any:
        """The payload, or the refusal as a member of the result."""
        try:
            return await context.call(self.form.build(given, context))
        except Refusal as refused:
            if refused.reason in refusal_types.TOP_LEVEL:
                raise
            return refusal_types.as_refusal_type(refused, self.members, self.form.written)


def mutation(given: type[Any]) -> Any:
    """Declares a mutation that carries out the rpc of a form; it is annotated with its payload.

    Its result is a union of the payload, the refusals with a type of their own whose reasons the rpc declares, and the general refusals.
    """
    return MutationField(given)
