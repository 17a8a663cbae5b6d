"""Stream of order events for tests of subscriptions: a gRPC server in this process that sends the events of a script."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_status import rpc_status

from quanyu.commerce.v1 import orders_pb2, orders_pb2_grpc
from services.kit.errors import Refusal
from services.kit.rpc import status
from services.kit.rpc.channel import CURSOR_KEY

END = object()
"""This element of a script ends a stream without an error."""


class OrderStream(orders_pb2_grpc.OrderServiceServicer):
    """The service of orders. Each element of `script` is the number of an event, `END`, or the refusal or status that ends a stream."""

    def __init__(self) -> None:
        self.script: asyncio.Queue[Any] = asyncio.Queue()
        self.requests: asyncio.Queue[orders_pb2.WatchOrderRequest] = asyncio.Queue()
        self.ended: asyncio.Queue[str] = asyncio.Queue()
        """The ids of orders whose streams have ended."""
        self.first_cursor = ""

    async def WatchOrder(self, request: orders_pb2.WatchOrderRequest, context: Any) -> AsyncIterator[orders_pb2.WatchOrderResponse]:  # type: ignore[override]
        self.requests.put_nowait(request)
        try:
            if self.first_cursor:
                await context.send_initial_metadata(((CURSOR_KEY, self.first_cursor),))
            while (element := await self.script.get()) is not END:
                if isinstance(element, Refusal):
                    await context.abort_with_status(rpc_status.to_status(status.to_status(element)))
                if isinstance(element, grpc.StatusCode):
                    await context.abort(element, "broken")
                yield order_event(request.order_id, element)
        finally:
            self.ended.put_nowait(request.order_id)


def order_event(order_id: str, number: int) -> orders_pb2.WatchOrderResponse:
    """Returns the event with that number as its cursor."""
    order = orders_pb2.Order(id=order_id, state=orders_pb2.ORDER_STATE_PLACED)
    return orders_pb2.WatchOrderResponse(order=order, cursor=f"c{number}")


@asynccontextmanager
async def serve_orders() -> AsyncIterator[tuple[OrderStream, str]]:
    """Yields a running stream and its address."""
    orders, server = OrderStream(), grpc.aio.server()
    orders_pb2_grpc.add_OrderServiceServicer_to_server(orders, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield orders, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
