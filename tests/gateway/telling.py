"""Traffic for subscriptions: a gRPC server in this process that tells of orders whatever a test puts into it."""

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
"""Ends a stream in order."""


class Teller(orders_pb2_grpc.OrderServiceServicer):
    """`told` is what the streams say, one after the other: the number of an event, `END`, a refusal or a status that breaks it."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[Any] = asyncio.Queue()
        self.asked: asyncio.Queue[orders_pb2.WatchOrderRequest] = asyncio.Queue()
        self.left: asyncio.Queue[str] = asyncio.Queue()
        """The orders whose streams have ended, however they did."""
        self.first_cursor = ""

    async def WatchOrder(self, request: orders_pb2.WatchOrderRequest, context: Any) -> AsyncIterator[orders_pb2.WatchOrderResponse]:  # type: ignore[override]
        self.asked.put_nowait(request)
        try:
            if self.first_cursor:
                await context.send_initial_metadata(((CURSOR_KEY, self.first_cursor),))
            while (told := await self.told.get()) is not END:
                if isinstance(told, Refusal):
                    await context.abort_with_status(rpc_status.to_status(status.to_status(told)))
                if isinstance(told, grpc.StatusCode):
                    await context.abort(told, "broken")
                yield event(request.order_id, told)
        finally:
            self.left.put_nowait(request.order_id)


def event(order_id: str, number: int) -> orders_pb2.WatchOrderResponse:
    """The event of that number."""
    order = orders_pb2.Order(id=order_id, state=orders_pb2.ORDER_STATE_PLACED)
    return orders_pb2.WatchOrderResponse(order=order, cursor=f"c{number}")


@asynccontextmanager
async def telling() -> AsyncIterator[tuple[Teller, str]]:
    """A teller and its address, for the time of the block."""
    teller, server = Teller(), grpc.aio.server()
    orders_pb2_grpc.add_OrderServiceServicer_to_server(teller, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield teller, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
