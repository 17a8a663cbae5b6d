"""Edges: fields that lead from one message to others by their ids, one rpc for all of a level.

    store_by_id = Batch(chart_pb2.BatchGetStoresRequest)
    store: Store | None = edge(by="store_id", through=store_by_id)

    scorecard: Scorecard | None = edge(by="id", through=scorecard_of_store, arguments=Period)

A batch follows one `BatchGet…` rpc. Within a request a key is fetched once, across levels; ids that are missing or out of scope
give null. Every edge is nullable: a service that is down costs the fields it owns and not the page.
"""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from strawberry.dataloader import DataLoader
from strawberry.types import Info

from gateway.rpc.clients import Descriptor, rpc_of
from gateway.schema import descriptions
from gateway.schema.fields import GraphField
from gateway.schema.inputs import Form

if TYPE_CHECKING:
    from gateway.schema.resolver_context import ResolverContext

KEYS_MAX = 500
"""Keys of one call; more are asked for in several."""

Bound = bytes
"""The further fields of a batch's request, serialized: keys with different ones are different batches."""


class Batch:
    """A batch rpc: `keys` of its request are asked for, `items` of its response carry theirs as `key`.

    Names may be left out where the messages have one repeated field only. `value` names the part of an item that is meant (default:
    the item itself), `many` says that several items share a key.
    """

    def __init__(
        self,
        request: type[Message],
        *,
        keys: str = "",
        items: str = "",
        key: str = "id",
        value: str = "",
        many: bool = False,
        keys_max: int = KEYS_MAX,
    ) -> None:
        self.rpc = rpc_of(request)
        self.keys, self.items = keys or _only_repeated(request), items or _only_repeated(self.rpc.response)
        response: Descriptor = self.rpc.response.DESCRIPTOR
        self.item: Descriptor = response.fields_by_name[self.items].message_type
        for name in (key, value):
            if name and name not in self.item.fields_by_name:
                raise TypeError(f"{self.item.full_name} has no field {name}")
        self.key, self.value, self.value_name = attrgetter(key), attrgetter(value) if value else None, value
        self.many, self.keys_max = many, keys_max

    def bound(self, **fields: Any) -> Bound:
        """These further fields of the request."""
        return self.rpc.request(**fields).SerializeToString(deterministic=True)

    async def load(self, context: "ResolverContext", keys: Sequence[str], bound: Bound = b"") -> list[Any]:
        """What the keys stand for, in their order: None (or [] with `many`) for what is missing."""
        return self.found(await context.call(self.asked(keys, bound)), keys)

    def asked(self, keys: Sequence[str], bound: Bound) -> Message:
        """The request."""
        request = self.rpc.request()
        getattr(request, self.keys).extend(keys)
        if bound:
            request.MergeFromString(bound)
        return request

    def found(self, response: Message, keys: Sequence[str]) -> list[Any]:
        """What the response says of the keys."""
        found: dict[str, Any] = {}
        for item in getattr(response, self.items):
            value = self.value(item) if self.value else item
            if self.many:
                found.setdefault(self.key(item), []).append(value)
            else:
                found[self.key(item)] = value
        return [found.get(key, []) for key in keys] if self.many else [found.get(key) for key in keys]

    def loader(self, context: "ResolverContext", bound: Bound = b"") -> DataLoader[str, Any]:
        """The batch's loader within one request."""

        async def load(keys: list[str]) -> list[Any]:
            return await self.load(context, keys, bound)

        return DataLoader(load_fn=load, max_batch_size=self.keys_max)


def _only_repeated(message: type[Message]) -> str:
    repeated = [field.name for field in message.DESCRIPTOR.fields if field.is_repeated]
    if len(repeated) != 1:
        raise TypeError(f"{message.DESCRIPTOR.full_name} has {len(repeated)} repeated fields; name the one that is meant")
    return repeated[0]


class EdgeField(GraphField):
    """See `edge`."""

    def __init__(
        self, by: str, through: Batch, using: Mapping[str, str], arguments: type[Any] | None, list_size: int, description: str | None
    ) -> None:
        super().__init__(description=description)
        self.by, self.through, self.key, self.list_size = by, through, attrgetter(by), list_size
        self.form = Form.of(arguments, through.rpc.request)
        self._arguments = self.form.arguments()
        self.using = tuple((name, attrgetter(attribute)) for name, attribute in using.items())

    @property
    def is_basic_field(self) -> bool:
        return False

    def check(self, where: str) -> None:
        if not self.wanted.nullable:
            raise TypeError(f"{where} leads to another service: it must be nullable")
        if self.owner is not None:
            keyed = _field_at(self.owner, self.by)
            if keyed is None:
                raise TypeError(f"{where}: {self.owner.full_name} has no field {self.by}")

    def described(self) -> str | None:
        field = _field_at(self.owner, self.by) if self.owner is not None else None
        if field is None:
            return None
        return descriptions.of(field.full_name) or descriptions.PLAIN.get(self.python_name) or descriptions.of_field(field)

    def shown(self) -> FieldDescriptor | None:
        """The several ids of its key, or the part of a batch's item that it shows."""
        if self.keyed_by_many:
            return _field_at(self.owner, self.by)
        return self.through.item.fields_by_name[self.through.value_name] if self.through.value_name else None

    @property
    def keyed_by_many(self) -> bool:
        """Whether its key is several ids."""
        field = _field_at(self.owner, self.by) if self.owner is not None else None
        return field is not None and field.is_repeated

    def bound(self, source: Any) -> Bound:
        """The further fields of the batch's request that the source gives."""
        if not self.using:
            return b""
        return self.through.bound(**{name: value(source) for name, value in self.using})

    def given(self, context: "ResolverContext", arguments: Mapping[str, Any]) -> Bound:
        """Those that a client gives."""
        if not self.form.parts:
            return b""
        return self.form.build(arguments, context).SerializeToString(deterministic=True)

    def get_result(self, source: Any, info: Info[Any, Any] | None, args: list[Any], kwargs: Any) -> Any:
        assert info is not None
        keys = self.key(source)
        if keys == "":
            return None
        loader = info.context.loader(self.through, self.bound(source) + self.given(info.context, kwargs))
        return loader.load(keys) if isinstance(keys, str) else loader.load_many(list(keys))


def _field_at(owner: Descriptor, path: str) -> FieldDescriptor | None:
    """The field a dotted path leads to."""
    field = None
    for name in path.split("."):
        field = owner.fields_by_name.get(name) if owner is not None else None
        owner = field.message_type if field is not None else None
    return field


def edge(
    *,
    by: str,
    through: Batch,
    using: Mapping[str, str] | None = None,
    arguments: type[Any] | None = None,
    list_size: int = 0,
    description: str | None = None,
) -> Any:
    """An edge to what `by` (a field of the message: one id or several) names.

    `using` fills further fields of the batch's request from fields of the message, `arguments` (the parts of a form over it) from what a
    client gives: keys asked for with the same are one call. The description is the key's unless given. `list_size`: how many items a list
    is priced as, where a batch finds several for each key.
    """
    return EdgeField(by, through, using or {}, arguments, list_size, description)
