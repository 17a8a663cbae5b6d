"""Tests of streaming rpcs on a real server: authorization, refusals, limits, and the end of a stream."""

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
from tests.services.kit.event_services import wait_until
from tests.services.kit.probe_service import add_servicer, call_rpc, make_request, make_service, make_servicer

RULE = access_pb2.Rule(roles=[access_pb2.ROLE_CONSUMER])
KEYS = new_keys()
WIDE_BOUNDS = StreamBounds(100, 10, 60.0)
DRAIN_SECONDS = 30.0


class ProbeServer:
    """A server with one streaming and one unary rpc, and clients of it."""

    def __init__(self, server: Server, port: int, service: Any) -> None:
        self.server, self.streams, self.service = server, server.streams, service
        self.address = f"127.0.0.1:{port}"
        self.channels: list[grpc.aio.Channel] = []

    def channel(self, id: str = "con_a", role: str = "ROLE_CONSUMER") -> grpc.aio.Channel:
        signer = Signer("gateway", KEYS.signing_setting("gateway"))
        principal = Principal(id, (Grant(role, "SCOPE_KIND_CONSUMER", id),))
        self.channels.append(open_channel(self.address, lambda: signer.sign("here", principal), 5.0))
        return self.channels[-1]

    def watch(self, channel: grpc.aio.Channel, **fields: Any) -> AsyncGenerator[Any, None]:
        method = self.service.methods_by_name["Watch"]
        return iterate_responses(call_rpc(channel, method, make_request(method, **fields)))

    def ask(self, channel: grpc.aio.Channel) -> Any:
        method = self.service.methods_by_name["Ask"]
        return call_rpc(channel, method, make_request(method))

    async def is_idle(self) -> bool:
        return not self.streams.limit.active and not self.streams.per_caller and not self.streams._timeouts


Serve = Callable[..., Any]


@pytest.fixture
def serve(database: Database) -> Serve:
    """Returns `serve`: `async with serve(watch, bounds) as probe` runs a server whose streaming rpc is `watch`."""

    @asynccontextmanager
    async def serving(
        watch: Callable[..., Any], bounds: StreamBounds = WIDE_BOUNDS, ask: Callable[..., Awaitable[Any]] | None = None
    ) -> Any:
        service = make_service({"Watch": RULE, "Ask": RULE}, streaming=["Watch"])
        echo_servicer = make_servicer(service, "Ask", Watch=watch, **({"Ask": ask} if ask else {}))
        authorizer = Authorizer(Verifier("here", KEYS.issuers_setting(), development=True), ScopeProjection(database))
        server = Server([(add_servicer, echo_servicer)], authorizer, drain_seconds=DRAIN_SECONDS, bounds=bounds)
        probe = ProbeServer(server, await server.start("127.0.0.1:0"), service)
        try:
            yield probe
        finally:
            for channel in probe.channels:
                await channel.close()
            await server.stop()

    return serving


class EndlessStream:
    """A stream that yields one response and waits. It records its callers and how often it ended."""

    def __init__(self) -> None:
        self.callers: list[str] = []
        self.ended = 0

    @property
    def behaviour(self) -> Callable[..., Any]:
        async def watch(make_servicer: Any, make_request: Any, context: Any) -> AsyncIterator[Any]:
            self.callers.append(current_caller().id)
            try:
                yield make_request
                await asyncio.Event().wait()
            finally:
                self.ended += 1

        return watch

    async def have_all_ended(self) -> bool:
        return self.ended == len(self.callers)


async def test_responses_precede_the_refusal(serve: Serve) -> None:
    async def watch(make_servicer: Any, make_request: Any, context: Any) -> AsyncIterator[Any]:
        yield make_request
        yield make_request
        raise Conflict("ORDER_PAID", "It is paid.", order_id="ord_1")

    async with serve(watch) as probe:
        received = []
        with pytest.raises(Conflict) as refused:
            async for each in probe.watch(probe.channel(), consumer_id="con_a"):
                received.append(each.consumer_id)
        assert received == ["con_a", "con_a"]
        assert (refused.value.reason, refused.value.metadata) == ("ORDER_PAID", {"order_id": "ord_1"})


async def test_unknown_exception_leaks_no_text(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    async def watch(make_servicer: Any, make_request: Any, context: Any) -> AsyncIterator[Any]:
        yield make_request
        raise RuntimeError("the password is 123456")

    async with serve(watch) as probe:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in probe.watch(probe.channel()):
                pass
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert "123456" not in str(caught.value)
        await wait_until(probe.is_idle)
    lines = [line for line in capsys.readouterr().out.splitlines() if "ProbeService.Watch" in line and " call " in line]
    assert len(lines) == 1 and "INTERNAL" in lines[0]


async def test_stream_is_authorized(serve: Serve) -> None:
    endless = EndlessStream()
    async with serve(endless.behaviour) as probe:
        for channel, reason in [
            (probe.channel(role="ROLE_GUIDE"), "NOT_PERMITTED"),
            (grpc.aio.insecure_channel(probe.address), "UNAUTHENTICATED"),
        ]:
            with pytest.raises(Denied) as refused:
                await anext(probe.watch(channel))
            assert refused.value.reason == reason
        assert endless.callers == []
        assert (await anext(probe.watch(probe.channel("con_b"), consumer_id="x"))).consumer_id == "x"
        assert endless.callers == ["con_b"]


async def test_disconnected_client_leaves_nothing_behind(serve: Serve) -> None:
    endless = EndlessStream()
    async with serve(endless.behaviour) as probe:
        channel = probe.channel()
        stream = probe.watch(channel)
        await anext(stream)
        assert probe.streams.limit.active == 1
        await stream.aclose()
        await wait_until(endless.have_all_ended)
        await wait_until(probe.is_idle)
        other = probe.watch(probe.channel("con_b"))
        await anext(other)
        await probe.channels[-1].close()
        await wait_until(endless.have_all_ended)
        await wait_until(probe.is_idle)
        assert endless.ended == 2


async def test_stream_ends_without_error_at_its_limit(serve: Serve) -> None:
    endless = EndlessStream()
    async with serve(endless.behaviour, StreamBounds(10, 10, 0.2)) as probe:
        assert len([each async for each in probe.watch(probe.channel())]) == 1
        await wait_until(probe.is_idle)
        assert endless.ended == 1


async def test_timeout_error_of_a_stream_is_internal(serve: Serve) -> None:
    async def watch(make_servicer: Any, make_request: Any, context: Any) -> AsyncIterator[Any]:
        yield make_request
        raise TimeoutError

    async with serve(watch) as probe:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in probe.watch(probe.channel()):
                pass
        assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_streams_are_limited_per_caller_and_process(serve: Serve) -> None:
    endless = EndlessStream()
    async with serve(endless.behaviour, StreamBounds(3, 2, 60.0)) as probe:
        anna, bert, carl = (probe.channel(id) for id in ("con_a", "con_b", "con_c"))
        first, second = probe.watch(anna), probe.watch(anna)
        await anext(first), await anext(second)
        with pytest.raises(Overloaded) as refused:
            await anext(probe.watch(anna))
        assert (refused.value.reason, refused.value.metadata) == ("TOO_MANY_STREAMS", {"most": "2"})
        third = probe.watch(bert)
        await anext(third)
        with pytest.raises(Overloaded) as refused:
            await anext(probe.watch(carl))
        assert (refused.value.reason, refused.value.metadata) == ("TOO_MANY_STREAMS", {"most": "3"})
        await probe.ask(carl)  # calls have a separate limit
        await first.aclose()
        await wait_until(lambda: _is(probe.streams.limit.active == 2))
        fourth = probe.watch(anna)
        await anext(fourth)


async def test_concurrent_streams_within_limit_are_all_admitted(serve: Serve) -> None:
    """When another replica stops, its streams arrive at once; by default the transport would drop some of more than a thousand."""
    endless, many = EndlessStream(), 1_200
    async with serve(endless.behaviour, StreamBounds(many, many, 60.0)) as probe:
        channel = probe.channel()
        streams = [probe.watch(channel) for _ in range(many)]
        async with asyncio.timeout(30):
            await asyncio.gather(*map(anext, streams))
        assert len(endless.callers) == many


async def test_limit_of_calls_does_not_affect_streams(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.kit.rpc.interceptor.CALLS_MAX", 2)
    started, finish = asyncio.Semaphore(0), asyncio.Event()

    async def ask(make_servicer: Any, make_request: Any, context: Any) -> Any:
        started.release()
        await finish.wait()
        return make_request

    async with serve(EndlessStream().behaviour, ask=ask) as probe:
        channel = probe.channel()
        calls = [asyncio.ensure_future(probe.ask(channel)) for _ in range(2)]
        for _ in calls:
            await started.acquire()
        with pytest.raises(Overloaded) as refused:
            await probe.ask(channel)
        assert refused.value.reason == "TOO_MANY_CALLS"
        await anext(probe.watch(channel))
        finish.set()
        await asyncio.gather(*calls)
        await probe.ask(channel)


async def test_stopping_server_ends_its_streams_at_once(serve: Serve) -> None:
    endless = EndlessStream()
    async with serve(endless.behaviour) as probe:
        streams = [probe.watch(probe.channel(f"con_{number}")) for number in range(5)]
        for stream in streams:
            await anext(stream)
        started = time.monotonic()
        stopping = asyncio.create_task(probe.server.stop())
        for stream in streams:
            with pytest.raises(Unavailable) as refused:
                await anext(stream)
            assert refused.value.reason == "SERVER_STOPPING"
        await stopping
        assert time.monotonic() - started < DRAIN_SECONDS / 3
        assert endless.ended == 5


async def test_stalled_reader_is_refused(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.kit.rpc.streams.WRITE_SECONDS_MAX", 0.3)
    ended = asyncio.Event()

    async def watch(make_servicer: Any, make_request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            while True:
                yield type(make_request)(consumer_id="x" * 100_000)
        finally:
            ended.set()

    async with serve(watch) as probe:
        stream = probe.watch(probe.channel())
        await anext(stream)
        async with asyncio.timeout(20):
            await ended.wait()
        await wait_until(probe.is_idle)
        with pytest.raises(Overloaded) as refused:
            async for _ in stream:
                pass
        assert refused.value.reason == "SUBSCRIBER_TOO_SLOW"


async def _is(condition: bool) -> bool:
    return condition
