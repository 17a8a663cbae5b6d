"""Services that say nothing until they are told to: a gRPC server in this process that hears any rpc of ours."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc


class Silent(grpc.GenericRpcHandler):
    """`asked` are the rpcs that came, `left` those that were cancelled, `answered` the others, with nothing, once `speak` is set."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[str] = asyncio.Queue()
        self.left: asyncio.Queue[str] = asyncio.Queue()
        self.answered: asyncio.Queue[str] = asyncio.Queue()
        self.speak = asyncio.Event()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        service, _, name = handler_call_details.method.rpartition("/")  # type: ignore[attr-defined]
        if not service.startswith("/quanyu."):
            return None

        async def say(request: bytes, context: Any) -> bytes:
            self.asked.put_nowait(name)
            try:
                await self.speak.wait()
            except asyncio.CancelledError:
                self.left.put_nowait(name)
                raise
            self.answered.put_nowait(name)
            return b""

        return grpc.unary_unary_rpc_method_handler(say)


@asynccontextmanager
async def silence() -> AsyncIterator[tuple[Silent, str]]:
    """Such a server and its address, for the time of the block."""
    silent, server = Silent(), grpc.aio.server()
    server.add_generic_rpc_handlers((silent,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield silent, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
