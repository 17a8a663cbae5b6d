"""Fields that follow a streaming rpc: subscriptions.

order_changed: OrderEvent = follow(orders_pb2.WatchOrderRequest, arguments=WatchedOrder)
"""

from collections.abc import AsyncGenerator
from typing import Any

import grpc
from google.protobuf.message import Message
from strawberry.types import Info

from gateway.rpc.clients import Clients, rpc_of
from gateway.schema import descriptions
from gateway.schema.fields import GraphField
from gateway.schema.inputs import Form
from services.kit.rpc import channel

CURSOR, AFTER = "cursor", "after"
"""What each response of such an rpc carries, and the field of its request that takes it."""


class Feed:
    """What a subscription follows: a streaming rpc and its request, which remembers the last cursor that was heard. Where the rpc goes by
    cursors that follow each other, the first of them is there before anything happened."""

    def __init__(self, clients: Clients, request: Any) -> None:
        self.clients, self.request = clients, request

    @property
    def resumable(self) -> bool:
        """Whether it can go on where it stopped: else what happens in between is missed."""
        return bool(self.request.after)

    def follow(self) -> AsyncGenerator[Message, None]:
        """The responses from here on, asked for on behalf of whoever `acting_as` says now; refusals are raised as they come."""
        return self._heard(self.clients.follow(self.request))

    async def _heard(self, call: grpc.aio.UnaryStreamCall[Any, Any]) -> AsyncGenerator[Message, None]:
        try:
            began = dict(await call.initial_metadata()).get(channel.CURSOR_KEY)
            if began:
                self.request.after = began
            async for response in channel.heard_each(call):
                self.request.after = response.cursor
                yield response
        finally:
            call.cancel()

    def __aiter__(self) -> AsyncGenerator[Message, None]:
        return self.follow()


class FollowField(GraphField):
    """See `follow`. Subscribed to, it is a `Feed`; of an event it is the event itself, a response of the rpc."""

    def __init__(self, request: type[Message], form: Form) -> None:
        super().__init__(is_subscription=True)
        self.rpc, self.form = rpc_of(request), form
        self._arguments = form.arguments()

    @property
    def is_basic_field(self) -> bool:
        return False

    def check(self, where: str) -> None:
        fields = self.rpc.response.DESCRIPTOR.fields_by_name
        if not self.rpc.method.server_streaming or CURSOR not in fields or not any(part.name == AFTER for part in self.form.parts):
            raise TypeError(f"{where} follows a streaming rpc that takes `{AFTER}` and tells a `{CURSOR}`")
        if self.wanted.nullable or self.wanted.many:
            raise TypeError(f"{where} is one event, and never null")

    def described(self) -> str | None:
        return descriptions.of(self.rpc.method.full_name)

    def get_result(self, source: Any, info: Info[Any, Any] | None, args: list[Any], kwargs: Any) -> Any:
        if info is None:
            return source
        return Feed(info.context.clients, self.form.build(kwargs, info.context))


def follow(request: type[Message], *, arguments: type[Any]) -> Any:
    """A subscription to what a streaming rpc tells; its annotation is a view of the rpc's response. `arguments` are the parts of a form."""
    form: Form = arguments.__form__
    if form.message is not request:
        raise TypeError(f"{arguments} is no form of {request.DESCRIPTOR.full_name}")
    return FollowField(request, form)
