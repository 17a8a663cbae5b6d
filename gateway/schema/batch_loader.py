"""Batch loader: loads many keys by one batch rpc, such as `BatchGetStores`.

    store_by_id = BatchLoader(chart_pb2.BatchGetStoresRequest)

Within a request, each key is loaded once, across all levels. A key that is missing or outside the caller's scope gives None.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message
from strawberry.dataloader import DataLoader

from gateway.rpc.clients import Descriptor, rpc_of

if TYPE_CHECKING:
    from gateway.schema.resolver_context import ResolverContext

KEYS_MAX = 500
"""One call loads at most this many keys; more keys are split over several calls."""

BatchParameters = bytes
"""The fields of a batch request other than its keys, serialized. Keys with different parameters are loaded by different calls."""


class BatchLoader:
    """A batch rpc: its request has the field `keys`; each of the `items` in its response carries its key in the field `key`.

    `keys` and `items` may be omitted if the message has only one repeated field. `value` is the field of an item to return; by default,
    the item itself. `is_list`: several items may have the same key.
    """

    def __init__(
        self,
        request: type[Message],
        *,
        keys: str = "",
        items: str = "",
        key: str = "id",
        value: str = "",
        is_list: bool = False,
        keys_max: int = KEYS_MAX,
    ) -> None:
        self.rpc = rpc_of(request)
        self.keys, self.items = keys or _only_repeated_field(request), items or _only_repeated_field(self.rpc.response)
        response: Descriptor = self.rpc.response.DESCRIPTOR
        self.item: Descriptor = response.fields_by_name[self.items].message_type
        for name in (key, value):
            if name and name not in self.item.fields_by_name:
                raise TypeError(f"{self.item.full_name} has no field {name}.")
        self.key_name, self.value_name = key, value
        self.get_key, self.get_value = attrgetter(key), attrgetter(value) if value else None
        self.is_list, self.keys_max = is_list, keys_max

    def serialize_parameters(self, **fields: Any) -> BatchParameters:
        """Returns these fields of the request as parameters."""
        return self.rpc.request(**fields).SerializeToString(deterministic=True)

    async def load(self, context: ResolverContext, keys: Sequence[str], parameters: BatchParameters = b"") -> list[Any]:
        """Returns the values of the keys, in their order: None (or [] if `is_list`) for a missing one."""
        return self.extract_values(await context.call(self.build_request(keys, parameters)), keys)

    def build_request(self, keys: Sequence[str], parameters: BatchParameters) -> Message:
        """Returns the request for these keys."""
        request = self.rpc.request()
        getattr(request, self.keys).extend(keys)
        if parameters:
            request.MergeFromString(parameters)
        return request

    def extract_values(self, response: Message, keys: Sequence[str]) -> list[Any]:
        """Returns the values of the keys from the response, in the order of the keys."""
        values: dict[str, Any] = {}
        for item in getattr(response, self.items):
            value = self.get_value(item) if self.get_value else item
            if self.is_list:
                values.setdefault(self.get_key(item), []).append(value)
            else:
                values[self.get_key(item)] = value
        return [values.get(key, []) for key in keys] if self.is_list else [values.get(key) for key in keys]

    def create_data_loader(self, context: ResolverContext, parameters: BatchParameters = b"") -> DataLoader[str, Any]:
        """Returns a new data loader for one request."""

        async def load(keys: list[str]) -> list[Any]:
            return await self.load(context, keys, parameters)

        return DataLoader(load_fn=load, max_batch_size=self.keys_max)


def _only_repeated_field(message: type[Message]) -> str:
    repeated = [field.name for field in message.DESCRIPTOR.fields if field.is_repeated]
    if len(repeated) != 1:
        raise TypeError(f"{message.DESCRIPTOR.full_name} has {len(repeated)} repeated fields. Name the one to use.")
    return repeated[0]
