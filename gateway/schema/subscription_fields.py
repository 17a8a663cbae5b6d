"""Subscription fields: each follows a streaming rpc.

order_changed: OrderEvent = subscription_field(orders_pb2.WatchOrderRequest, arguments=WatchedOrder)
"""

from collections.abc import AsyncGenerator
from typing import Any

import grpc
from google.protobuf.message import Message
from strawberry.types import Info

from gateway.rpc.clients import Clients, rpc_of
from gateway.schema import descriptions
from gateway.schema.fields import GraphField
from gateway.schema.inputs import InputType
from services.kit.rpc import channel

CURSOR, AFTER = "cursor", "after"
"""Each response of such an rpc has the field `cursor`; its request takes the last one as `after`."""


class Feed:
    """The source stream of a subscription: a streaming rpc, and its request with the last cursor that was received.

    If every cursor of the rpc can be resumed from, the service sends the first one before the first event.
    """

    def __init__(self, clients: Clients, request: Any) -> None:
        self.clients, self.request = clients, request

    @property
    def resumable(self) -> bool:
        """True if a new stream can continue after the last event; otherwise, events between the two streams are lost."""
        return bool(self.request.after)

    def follow(self) -> AsyncGenerator[Message, None]:
        """Opens a stream after the last cursor, in the name of `acting_as`, and yields its responses; raises its refusals."""
        return self._read(self.clients.follow(self.request))

    async def _read(self, call: grpc.aio.UnaryStreamCall[Any, Any]) -> AsyncGenerator[Message, None]:
        try:
            first_cursor = dict(await call.initial_metadata()).get(channel.CURSOR_KEY)
            if first_cursor:
                self.request.after = first_cursor
            async for response in channel.iterate_responses(call):
                self.request.after = response.cursor
                yield response
        finally:
            call.cancel()

    def __aiter__(self) -> AsyncGenerator[Message, None]:
        return self.follow()


class SubscriptionField(GraphField):
    """A field that `subscription_field` declares. Subscribing returns a `Feed`; for an event, it returns the response of the rpc."""

    def __init__(self, request: type[Message], input_type: InputType) -> None:
        super().__init__(is_subscription=True)
        self.rpc, self.input_type = rpc_of(request), input_type
        self._arguments = input_type.arguments()

    @property
    def is_basic_field(self) -> bool:
        return False

    def validate(self, where: str) -> None:
        response_fields = self.rpc.response.DESCRIPTOR.fields_by_name
        has_after = any(field.name == AFTER for field in self.input_type.fields)
        if not self.rpc.method.server_streaming or CURSOR not in response_fields or not has_after:
            raise TypeError(f"{where} needs a streaming rpc with `{AFTER}` in its request and `{CURSOR}` in its responses.")
        if self.annotation_info.is_nullable or self.annotation_info.is_list:
            raise TypeError(f"{where} must be one event and never null.")

    def default_description(self) -> str | None:
        return descriptions.find_comment(self.rpc.method.full_name)

    def get_result(self, source: Any, info: Info[Any, Any] | None, args: list[Any], kwargs: Any) -> Any:
        if info is None:
            return source
        return Feed(info.context.clients, self.input_type.build(kwargs, info.context))


def subscription_field(request: type[Message], *, arguments: type[Any]) -> Any:
    """Declares a subscription to a streaming rpc. Its annotation is an object type over the response, `arguments` an input type."""
    return SubscriptionField(request, InputType.from_declaration(arguments, request))
