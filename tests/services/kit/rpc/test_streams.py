"""Streaming rpcs behind the real server: the gate and refusals of calls, bounds of their own, and an end that leaves nothing behind."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from quanyu.access.v1 import access_pb2
from services.kit.errors import Conflict, Denied, Overloaded, Unavailable
from services.kit.mongo.client import Database
from services.kit.projections.scopes import ScopeProjection
from services.kit.rpc.channel import iterate_responses, open_channel
from services.kit.rpc.server import Server
from services.kit.rpc.streams import StreamBounds
from services.kit.security.authorization import Authorizer
from services.kit.security.caller import current_caller
from services.kit.security.principals import Grant, Principal, Signer, Verifier
from services.local.keys import new_keys
from tests.services.kit.hearing import until
from tests.services.kit.probe import add, called, probe, request, servicer

RULE = access_pb2.Rule(roles=[access_pb2.ROLE_CONSUMER])
KEYS = new_keys()
ROOMY = StreamBounds(100, 10, 60.0)
DRAIN_SECONDS = 30.0


class Running:
    """A server with one streaming rpc and one unary one, and how somebody calls them."""

    def __init__(self, server: Server, port: int, service: Any) -> None:
        self.server, self.streams, self.service = server, server.streams, service
        self.address = f"127.0.0.1:{port}"
        self.channels: list[grpc.aio.Channel] = []

    def channel(self, who: str = "con_a", role: str = "ROLE_CONSUMER") -> grpc.aio.Channel:
        signer = Signer("gateway", KEYS.signing_setting("gateway"))
        principal = Principal(who, (Grant(role, "SCOPE_KIND_CONSUMER", who),))
        self.channels.append(open_channel(self.address, lambda: signer.sign("here", principal), 5.0))
        return self.channels[-1]

    def watch(self, channel: grpc.aio.Channel, **fields: Any) -> AsyncGenerator[Any, None]:
        method = self.service.methods_by_name["Watch"]
        return iterate_responses(called(channel, method, request(method, **fields)))

    def ask(self, channel: grpc.aio.Channel) -> Any:
        method = self.service.methods_by_name["Ask"]
        return called(channel, method, request(method))

    async def idle(self) -> bool:
        return not self.streams.places.taken and not self.streams.of_each and not self.streams._open


Serve = Callable[..., Any]


@pytest.fixture
def serve(database: Database) -> Serve:
    """`async with serve(behaviour, bounds) as running`: the behaviour of its streaming rpc."""

    @asynccontextmanager
    async def serving(watch: Callable[..., Any], bounds: StreamBounds = ROOMY, ask: Callable[..., Awaitable[Any]] | None = None) -> Any:
        service = probe({"Watch": RULE, "Ask": RULE}, streaming=["Watch"])
        built = servicer(service, "Ask", Watch=watch, **({"Ask": ask} if ask else {}))
        gate = Authorizer(Verifier("here", KEYS.issuers_setting(), development=True), ScopeProjection(database))
        server = Server([(add, built)], gate, drain_seconds=DRAIN_SECONDS, bounds=bounds)
        running = Running(server, await server.start("127.0.0.1:0"), service)
        try:
            yield running
        finally:
            for channel in running.channels:
                await channel.close()
            await server.stop()

    return serving


class Forever:
    """A stream that answers once and then waits; who it ran for, and whether its end was reached."""

    def __init__(self) -> None:
        self.callers: list[str] = []
        self.ended = 0

    @property
    def behaviour(self) -> Callable[..., Any]:
        async def watch(servicer: Any, request: Any, context: Any) -> AsyncIterator[Any]:
            self.callers.append(current_caller().id)
            try:
                yield request
                await asyncio.Event().wait()
            finally:
                self.ended += 1

        return watch

    async def all_ended(self) -> bool:
        return self.ended == len(self.callers)


async def test_responses_come_and_then_the_refusal_as_itself(serve: Serve) -> None:
    async def watch(servicer: Any, request: Any, context: Any) -> AsyncIterator[Any]:
        yield request
        yield request
        raise Conflict("ORDER_PAID", "it is paid", order_id="ord_1")

    async with serve(watch) as running:
        heard = []
        with pytest.raises(Conflict) as refused:
            async for each in running.watch(running.channel(), consumer_id="con_a"):
                heard.append(each.consumer_id)
        assert heard == ["con_a", "con_a"]
        assert (refused.value.reason, refused.value.metadata) == ("ORDER_PAID", {"order_id": "ord_1"})


async def test_an_unknown_exception_leaks_no_text_and_one_line_is_logged(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    async def watch(servicer: Any, request: Any, context: Any) -> AsyncIterator[Any]:
        yield request
        raise RuntimeError("the password is 123456")

    async with serve(watch) as running:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in running.watch(running.channel()):
                pass
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert "123456" not in str(caught.value)
        await until(running.idle)
    lines = [line for line in capsys.readouterr().out.splitlines() if "ProbeService.Watch" in line and " call " in line]
    assert len(lines) == 1 and "INTERNAL" in lines[0]


async def test_the_gate_stands_before_streams_too(serve: Serve) -> None:
    forever = Forever()
    async with serve(forever.behaviour) as running:
        for channel, reason in [
            (running.channel(role="ROLE_GUIDE"), "NOT_PERMITTED"),
            (grpc.aio.insecure_channel(running.address), "UNAUTHENTICATED"),
        ]:
            with pytest.raises(Denied) as refused:
                await anext(running.watch(channel))
            assert refused.value.reason == reason
        assert forever.callers == []
        assert (await anext(running.watch(running.channel("con_b"), consumer_id="x"))).consumer_id == "x"
        assert forever.callers == ["con_b"]


async def test_a_client_that_goes_leaves_nothing_behind(serve: Serve) -> None:
    forever = Forever()
    async with serve(forever.behaviour) as running:
        channel = running.channel()
        stream = running.watch(channel)
        await anext(stream)
        assert running.streams.places.taken == 1
        await stream.aclose()
        await until(forever.all_ended)
        await until(running.idle)
        other = running.watch(running.channel("con_b"))
        await anext(other)
        await running.channels[-1].close()
        await until(forever.all_ended)
        await until(running.idle)
        assert forever.ended == 2


async def test_a_stream_whose_time_is_over_ends_well(serve: Serve) -> None:
    forever = Forever()
    async with serve(forever.behaviour, StreamBounds(10, 10, 0.2)) as running:
        assert len([each async for each in running.watch(running.channel())]) == 1
        await until(running.idle)
        assert forever.ended == 1


async def test_a_timeout_inside_is_a_bug_not_the_end_of_its_time(serve: Serve) -> None:
    async def watch(servicer: Any, request: Any, context: Any) -> AsyncIterator[Any]:
        yield request
        raise TimeoutError

    async with serve(watch) as running:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in running.watch(running.channel()):
                pass
        assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_one_caller_has_so_many_streams_and_all_together_so_many(serve: Serve) -> None:
    forever = Forever()
    async with serve(forever.behaviour, StreamBounds(3, 2, 60.0)) as running:
        anna, bert, carl = (running.channel(who) for who in ("con_a", "con_b", "con_c"))
        first, second = running.watch(anna), running.watch(anna)
        await anext(first), await anext(second)
        with pytest.raises(Overloaded) as refused:
            await anext(running.watch(anna))
        assert (refused.value.reason, refused.value.metadata) == ("TOO_MANY_STREAMS", {"most": "2"})
        third = running.watch(bert)
        await anext(third)
        with pytest.raises(Overloaded) as refused:
            await anext(running.watch(carl))
        assert (refused.value.reason, refused.value.metadata) == ("TOO_MANY_STREAMS", {"most": "3"})
        await running.ask(carl)  # calls have places of their own
        await first.aclose()
        await until(lambda: _is(running.streams.places.taken == 2))
        fourth = running.watch(anna)
        await anext(fourth)


async def test_all_who_come_at_once_are_let_in(serve: Serve) -> None:
    """As when another replica stops. The transport would drop some of more than a thousand."""
    forever, many = Forever(), 1_200
    async with serve(forever.behaviour, StreamBounds(many, many, 60.0)) as running:
        channel = running.channel()
        streams = [running.watch(channel) for _ in range(many)]
        async with asyncio.timeout(30):
            await asyncio.gather(*map(anext, streams))
        assert len(forever.callers) == many


async def test_calls_that_fill_their_places_leave_those_of_streams(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.kit.rpc.interceptor.CALLS_MAX", 2)
    begun, go = asyncio.Semaphore(0), asyncio.Event()

    async def ask(servicer: Any, request: Any, context: Any) -> Any:
        begun.release()
        await go.wait()
        return request

    async with serve(Forever().behaviour, ask=ask) as running:
        channel = running.channel()
        calls = [asyncio.ensure_future(running.ask(channel)) for _ in range(2)]
        for _ in calls:
            await begun.acquire()
        with pytest.raises(Overloaded) as refused:
            await running.ask(channel)
        assert refused.value.reason == "TOO_MANY_CALLS"
        await anext(running.watch(channel))
        go.set()
        await asyncio.gather(*calls)
        await running.ask(channel)


async def test_a_server_that_stops_ends_its_streams_at_once(serve: Serve) -> None:
    forever = Forever()
    async with serve(forever.behaviour) as running:
        streams = [running.watch(running.channel(f"con_{number}")) for number in range(5)]
        for stream in streams:
            await anext(stream)
        started = time.monotonic()
        stopping = asyncio.create_task(running.server.stop())
        for stream in streams:
            with pytest.raises(Unavailable) as ended:
                await anext(stream)
            assert ended.value.reason == "SERVER_STOPPING"
        await stopping
        assert time.monotonic() - started < DRAIN_SECONDS / 3
        assert forever.ended == 5


async def test_a_reader_that_takes_nothing_is_dropped_with_the_reason(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.kit.rpc.streams.WRITE_SECONDS_MAX", 0.3)
    ended = asyncio.Event()

    async def watch(servicer: Any, request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            while True:
                yield type(request)(consumer_id="x" * 100_000)
        finally:
            ended.set()

    async with serve(watch) as running:
        stream = running.watch(running.channel())
        await anext(stream)
        async with asyncio.timeout(20):
            await ended.wait()
        await until(running.idle)
        with pytest.raises(Overloaded) as refused:
            async for _ in stream:
                pass
        assert refused.value.reason == "SUBSCRIBER_TOO_SLOW"


async def _is(condition: bool) -> bool:
    return condition
