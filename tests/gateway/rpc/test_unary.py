"""Unary rpcs by the inner call: they behave like grpc.aio's own callables."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from gateway.rpc.unary import InnerCall, create_unary
from services.kit.errors import Conflict, Refusal
from services.kit.rpc import status

PATH = "/test.Service/Say"
METADATA = (("quanyu-caller", "anna"),)
SECONDS_MAX = 10.0


class Service:
    """A service whose request selects its behaviour; it records its calls and whether one was cancelled."""

    def __init__(self) -> None:
        self.calls: list[tuple[bytes, str]] = []
        self.called, self.cancelled = asyncio.Event(), asyncio.Event()

    async def answer(self, request: bytes, context: Any) -> bytes:
        self.calls.append((request, dict(context.invocation_metadata())["quanyu-caller"]))
        self.called.set()
        if request == b"refuse":
            await context.abort_with_status(rpc_status.to_status(status.to_status(Conflict("TASK_CLOSED", "it is done", task_id="tsk_1"))))
        if request == b"break":
            raise ZeroDivisionError
        if request == b"wait":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        return request.upper()


class OtherChannel:
    """A channel without the undocumented names of grpcio, so that calls use its own callables."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.unary_unary = channel.unary_unary


@asynccontextmanager
async def serve() -> AsyncIterator[tuple[Service, list[Callable[..., Awaitable[Any]]]]]:
    """Yields a running service and two callables of its rpc: the inner call, and grpc.aio's own callable."""
    service, server = Service(), grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(service.answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", {"Say": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            inner = create_unary(channel, PATH, bytes, bytes)
            assert isinstance(inner, InnerCall), "this grpcio has other names, so calls use its own callables"
            yield service, [inner, create_unary(OtherChannel(channel), PATH, bytes, bytes)]  # type: ignore[arg-type]
    finally:
        await server.stop(None)


async def call_refused(call: Callable[..., Awaitable[Any]], request: bytes, timeout: float = SECONDS_MAX) -> Refusal:
    with pytest.raises(Refusal) as raised:
        await call(request, timeout=timeout, metadata=METADATA)
    return raised.value


async def test_call_returns_response_and_sends_metadata() -> None:
    async with serve() as (service, callables):
        assert [await call(b"hello", timeout=SECONDS_MAX, metadata=METADATA) for call in callables] == [b"HELLO"] * 2
        assert service.calls == [(b"hello", "anna")] * 2


async def test_refusal_keeps_reason_message_and_metadata() -> None:
    async with serve() as (_, callables):
        for call in callables:
            refusal = await call_refused(call, b"refuse")
            assert isinstance(refusal, Conflict)
            assert (refusal.reason, refusal.message, refusal.metadata) == ("TASK_CLOSED", "it is done", {"task_id": "tsk_1"})


async def test_call_ends_at_its_deadline() -> None:
    async with serve() as (_, callables):
        assert [(await call_refused(call, b"wait", 0.1)).reason for call in callables] == ["DEADLINE_EXCEEDED"] * 2


async def test_unreachable_service_is_unavailable() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        assert (await call_refused(create_unary(channel, PATH, bytes, bytes), b"hello")).reason == "SERVICE_UNAVAILABLE"


async def test_unexpected_error_of_a_service_is_raised() -> None:
    async with serve() as (_, callables):
        for call in callables:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call(b"break", timeout=SECONDS_MAX, metadata=METADATA)
            assert raised.value.code() is grpc.StatusCode.UNKNOWN


async def test_cancelled_caller_cancels_the_rpc() -> None:
    async with serve() as (service, callables), asyncio.timeout(SECONDS_MAX):
        for call in callables:
            service.called.clear()
            service.cancelled.clear()
            task = asyncio.ensure_future(call(b"wait", timeout=SECONDS_MAX, metadata=METADATA))
            await service.called.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await service.cancelled.wait()
