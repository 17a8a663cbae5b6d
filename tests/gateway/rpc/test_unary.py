"""Unary rpcs by the inner call: they behave like grpc.aio's own callables."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from gateway.rpc.unary import InnerCall, unary
from services.kit.errors import Conflict, Refusal
from services.kit.rpc import status

PATH = "/test.Service/Say"
METADATA = (("quanyu-who", "anna"),)
SECONDS_MAX = 10.0


class Server:
    """Answers as it is asked to; knows what it heard and whether a caller has gone."""

    def __init__(self) -> None:
        self.heard: list[tuple[bytes, str]] = []
        self.asked, self.gone = asyncio.Event(), asyncio.Event()

    async def say(self, request: bytes, context: Any) -> bytes:
        self.heard.append((request, dict(context.invocation_metadata())["quanyu-who"]))
        self.asked.set()
        if request == b"refuse":
            await context.abort_with_status(rpc_status.to_status(status.to_status(Conflict("TASK_CLOSED", "it is done", task_id="tsk_1"))))
        if request == b"break":
            raise ZeroDivisionError
        if request == b"wait":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.gone.set()
                raise
        return request.upper()


class Renamed:
    """A channel of a grpcio that has other names: calls go by its own callables."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.unary_unary = channel.unary_unary


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Server, list[Callable[..., Awaitable[Any]]]]]:
    """Starts a server; yields it and both ways to call it: the inner call, and grpc.aio's own callables."""
    answering, server = Server(), grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(answering.say)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", {"Say": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            inner = unary(channel, PATH, bytes, bytes)
            assert isinstance(inner, InnerCall), "this grpcio has other names, so calls use its own callables"
            yield answering, [inner, unary(Renamed(channel), PATH, bytes, bytes)]  # type: ignore[arg-type]
    finally:
        await server.stop(None)


async def refused(ask: Callable[..., Awaitable[Any]], request: bytes, timeout: float = SECONDS_MAX) -> Refusal:
    with pytest.raises(Refusal) as raised:
        await ask(request, timeout=timeout, metadata=METADATA)
    return raised.value


async def test_it_answers_and_hands_on_who_asks() -> None:
    async with serving() as (server, ways):
        assert [await ask(b"hello", timeout=SECONDS_MAX, metadata=METADATA) for ask in ways] == [b"HELLO"] * 2
        assert server.heard == [(b"hello", "anna")] * 2


async def test_a_refusal_comes_back_as_it_is() -> None:
    async with serving() as (_, ways):
        for ask in ways:
            refusal = await refused(ask, b"refuse")
            assert isinstance(refusal, Conflict)
            assert (refusal.reason, refusal.message, refusal.metadata) == ("TASK_CLOSED", "it is done", {"task_id": "tsk_1"})


async def test_it_ends_with_its_time() -> None:
    async with serving() as (_, ways):
        assert [(await refused(ask, b"wait", 0.1)).reason for ask in ways] == ["DEADLINE_EXCEEDED"] * 2


async def test_a_service_that_is_not_there_is_unavailable() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        assert (await refused(unary(channel, PATH, bytes, bytes), b"hello")).reason == "SERVICE_UNAVAILABLE"


async def test_a_bug_of_a_service_stays_the_error_it_is() -> None:
    async with serving() as (_, ways):
        for ask in ways:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await ask(b"break", timeout=SECONDS_MAX, metadata=METADATA)
            assert raised.value.code() is grpc.StatusCode.UNKNOWN


async def test_who_goes_away_ends_the_call() -> None:
    async with serving() as (server, ways), asyncio.timeout(SECONDS_MAX):
        for ask in ways:
            server.asked.clear()
            server.gone.clear()
            asking = asyncio.ensure_future(ask(b"wait", timeout=SECONDS_MAX, metadata=METADATA))
            await server.asked.wait()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await server.gone.wait()
