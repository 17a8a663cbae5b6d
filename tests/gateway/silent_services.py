"""Silent services: a gRPC server in this process that accepts every rpc and answers only when it is released."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc


class SilentServices(grpc.GenericRpcHandler):
    """Queues of rpc names: `called`, then `cancelled` or, with an empty response once `released` is set, `completed`."""

    def __init__(self) -> None:
        self.called: asyncio.Queue[str] = asyncio.Queue()
        self.cancelled: asyncio.Queue[str] = asyncio.Queue()
        self.completed: asyncio.Queue[str] = asyncio.Queue()
        self.released = asyncio.Event()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        service, _, name = handler_call_details.method.rpartition("/")  # type: ignore[attr-defined]
        if not service.startswith("/quanyu."):
            return None

        async def answer(request: bytes, context: Any) -> bytes:
            self.called.put_nowait(name)
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                self.cancelled.put_nowait(name)
                raise
            self.completed.put_nowait(name)
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@asynccontextmanager
async def serve_silent() -> AsyncIterator[tuple[SilentServices, str]]:
    """Yields running services and their address."""
    silent, server = SilentServices(), grpc.aio.server()
    server.add_generic_rpc_handlers((silent,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield silent, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
