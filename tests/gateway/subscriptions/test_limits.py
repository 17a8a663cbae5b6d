"""Limits of subscriptions: their number, the rate of messages, slow clients, and resumed streams."""

import asyncio
import json
from collections.abc import AsyncGenerator

import grpc
import pytest
from websockets.exceptions import InvalidStatus

from gateway.auth import sessions
from gateway.execution.pipeline import USUAL_CALLS
from gateway.limits.concurrency import ConcurrencyLimiter
from gateway.limits.rate_limit import RateLimiter
from gateway.observability import coalesced_log
from gateway.subscriptions import buffer, runner
from gateway.subscriptions.buffer import buffer_events
from gateway.subscriptions.lifetime import LifetimeRegistry
from services.kit.errors import Denied, Overloaded, Unavailable
from tests.gateway.conftest import Open
from tests.gateway.limits.test_rate_limit import Clock
from tests.gateway.live_gateway import SECONDS_MAX
from tests.gateway.order_stream import END
from tests.gateway.subscriptions.test_websocket import SUBSCRIPTION, order_data, order_gateway


async def count_to(numbers_max: int) -> AsyncGenerator[int, None]:
    for number in range(numbers_max):
        yield number


async def test_buffer_passes_all_events_to_its_reader() -> None:
    assert [number async for number in buffer_events(count_to(1_000), 4)] == list(range(1_000))


async def test_full_buffer_ends_its_slow_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer, "FULL_SECONDS_MAX", 0.02)
    closed = asyncio.Event()

    async def source() -> AsyncGenerator[int, None]:
        try:
            async for number in count_to(10):
                yield number
        finally:
            closed.set()

    events = buffer_events(source(), 4)
    assert await anext(events) == 0
    await asyncio.wait_for(closed.wait(), SECONDS_MAX)
    with pytest.raises(Overloaded, match="SUBSCRIBER_TOO_SLOW"):
        await anext(events)


async def test_failure_of_the_source_ends_the_buffer() -> None:
    async def source() -> AsyncGenerator[int, None]:
        yield 1
        raise Denied("NO", "no")

    events = []
    with pytest.raises(Denied):
        async for number in buffer_events(source(), 4):
            events.append(number)
    assert events in ([], [1])


async def test_closed_buffer_closes_its_source() -> None:
    closed = asyncio.Event()

    async def source() -> AsyncGenerator[int, None]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            closed.set()

    events = buffer_events(source(), 4)
    assert await anext(events) == 1
    await events.aclose()
    assert closed.is_set()


def test_concurrency_is_limited_in_total_and_by_key() -> None:
    limiter = ConcurrencyLimiter(3, 2, "things")
    with limiter.slot("a"), limiter.slot("a"):
        with pytest.raises(Overloaded, match="TOO_MANY_THINGS"), limiter.slot("a"):
            pass
        with limiter.slot("b"), pytest.raises(Overloaded, match="OVERLOADED"), limiter.slot("c"):
            pass
    assert (limiter.used, dict(limiter.used_by_key)) == (0, {})


async def test_subscriptions_of_a_principal_are_limited(open_gateway: Open) -> None:
    async with (
        order_gateway(open_gateway, subscriptions_principal=2) as (served, orders),
        served.socket("operator") as one,
        served.socket("operator") as other,
    ):
        first = await one.subscribe(SUBSCRIPTION, {"id": "ord_1"})
        assert (await orders.requests.get()).order_id == "ord_1"
        async with served.stream(SUBSCRIPTION, {"id": "ord_2"}, subject="operator") as stream:
            assert (await orders.requests.get()).order_id == "ord_2"
            refused = await other.subscribe(SUBSCRIPTION, {"id": "ord_3"})
            assert await other.error(refused) == "TOO_MANY_SUBSCRIPTIONS"
            orders.script.put_nowait(1)
            orders.script.put_nowait(1)
            assert await one.next(first) == order_data("ord_1", 1)
            assert await stream.next() == order_data("ord_2", 1)
        assert await orders.ended.get() == "ord_2"
        await other.subscribe(SUBSCRIPTION, {"id": "ord_4"})
        assert (await orders.requests.get()).order_id == "ord_4"


async def test_sockets_and_their_operations_are_limited(open_gateway: Open) -> None:
    async with order_gateway(open_gateway, subscriptions_principal=1) as (served, _), served.socket("operator") as socket:
        async with served.socket() as other:
            await other.send(type="connection_init", payload={"authorization": f"Bearer {served.gateway.token('operator')}"})
            assert (await other.wait_closed())[0] == 1013
        await socket.subscribe(SUBSCRIPTION, {"id": "ord_1"})
        assert await socket.error(await socket.subscribe("{ __typename }")) == "TOO_MANY_OPERATIONS"


async def test_slow_client_gets_an_error_and_no_more(open_gateway: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer, "FULL_SECONDS_MAX", 0.2)
    long_id = "ord_" + "x" * 50_000
    async with order_gateway(open_gateway, subscription_events=4) as (served, orders), served.socket("operator", max_queue=1) as socket:
        name = await socket.subscribe(SUBSCRIPTION, {"id": long_id})
        for number in range(2_000):
            orders.script.put_nowait(number)
        async with asyncio.timeout(SECONDS_MAX):
            await orders.ended.get()
        received = 0
        while (message := await socket.receive())["type"] == "next":
            assert message["payload"]["data"] == order_data(long_id, received)
            received += 1
        assert (message["id"], message["payload"][0]["extensions"]["code"]) == (name, "SUBSCRIBER_TOO_SLOW")
        assert received + orders.script.qsize() < 2_000, "the buffered events are dropped"
        await socket.expect_silence()


async def test_sockets_above_the_limit_are_503(
    open_gateway: Open, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(coalesced_log, "WINDOW_SECONDS", 0.2)
    ids = set()
    async with order_gateway(open_gateway, sockets_max=1) as (served, _), served.socket():
        for _ in range(5):
            with pytest.raises(InvalidStatus) as refused:
                async with served.socket():
                    pass
            assert refused.value.response.status_code == 503
            assert refused.value.response.headers["retry-after"] == "1"
            (error,) = json.loads(refused.value.response.body)["errors"]
            ids.add(error["extensions"].pop("id"))
            assert error["extensions"] == {"code": "OVERLOADED", "retryable": True}
        lines: list[str] = []
        while len(lines) < len(ids):
            lines += [line for line in capfd.readouterr().out.splitlines() if "sockets refused" in line]
            await asyncio.sleep(0.01)
    assert all(any(id in line for line in lines) for id in ids)


async def test_operations_of_a_socket_count_for_the_rate(open_gateway: Open) -> None:
    async with order_gateway(open_gateway, rate_principal=1.0) as (served, _), served.socket("operator") as socket:
        codes = []
        for _ in range(4):
            name = await socket.subscribe("{ __typename }")
            message = await socket.receive()
            if message["type"] == "next":
                await socket.complete(name)
            codes.append(message["type"])
        assert codes[0] == "next" and codes[-1] == "error", codes


async def test_malformed_request_counts_for_its_address(open_gateway: Open) -> None:
    async with order_gateway(open_gateway, rate_address=2.0) as (served, _), served.socket("operator") as socket:
        clock, statuses = Clock(), []
        buckets: RateLimiter = served.gateway.app.state.rates.addresses
        buckets.clock = clock
        buckets.full_at.clear()
        assert await socket.error(await socket.subscribe("{ __typename }", operationName=7)) == "BAD_REQUEST"
        for _ in range(4):
            async with served.stream("{ __typename }", [7]) as stream:
                statuses.append(stream.response.status_code)
        assert statuses == [400, 400, 400, 429]
        assert await socket.error(await socket.subscribe("{ __typename }", operationName=7)) == "RATE_LIMITED"


async def test_expensive_operation_is_charged_again(open_gateway: Open) -> None:
    fields = " ".join(f"a{number}: offers(first: 1) {{ nodes {{ id }} }}" for number in range(15))
    query, clock, taken = f"query {{ {fields} }}", Clock(), []
    async with order_gateway(open_gateway, rate_principal=100.0) as (served, _):
        buckets: RateLimiter = served.gateway.app.state.rates.principals
        buckets.clock = clock
        for transport in ("socket", "socket", "stream"):
            clock.now += 100
            if transport == "stream":
                async with served.stream(query, subject="operator") as stream:
                    assert [(await stream.receive())[0] for _ in range(2)] == ["next", "complete"]
            else:
                async with served.socket("operator") as socket:
                    clock.now += 100
                    await socket.subscribe(query)
                    assert [(await socket.receive())["type"] for _ in range(2)] == ["next", "complete"]
            taken.append((next(iter(buckets.full_at.values())) - clock.now) * buckets.per_second)
    assert taken[1:] == [pytest.approx(15 / USUAL_CALLS, rel=0.1)] * 2, "the first one is also charged for its new document"


async def test_too_many_messages_close_the_socket(open_gateway: Open) -> None:
    async with order_gateway(open_gateway, rate_address=5.0) as (served, _), served.socket("operator") as socket:
        for _ in range(12):
            await socket.send(type="pong")
        assert await socket.wait_closed() == (1008, "Too many messages. Send fewer per second.")


async def test_ended_stream_is_resumed_after_its_cursor(open_gateway: Open) -> None:
    async with order_gateway(open_gateway) as (served, orders), served.socket("operator") as socket:
        name = await socket.subscribe(SUBSCRIPTION, {"id": "ord_1", "after": "c0"})
        assert (await orders.requests.get()).after == "c0"
        for number, end in enumerate((END, grpc.StatusCode.UNAVAILABLE, Unavailable("CHANGES_LOST", "again")), 1):
            orders.script.put_nowait(number)
            assert await socket.next(name) == order_data("ord_1", number)
            orders.script.put_nowait(end)
            async with asyncio.timeout(SECONDS_MAX):
                assert (await orders.requests.get()).after == f"c{number}"
        await socket.expect_silence()


async def test_stream_is_resumed_after_its_operations_deadline(open_gateway: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SESSION_TTL_SECONDS", 0.1)
    async with order_gateway(open_gateway, deadline_seconds=0.5) as (served, orders), served.socket("operator") as socket:
        name = await socket.subscribe(SUBSCRIPTION, {"id": "ord_1", "after": "c0"})
        await orders.requests.get()
        await asyncio.sleep(0.7)  # the deadline of the operation and the cached session have expired
        orders.script.put_nowait(END)
        async with asyncio.timeout(SECONDS_MAX):
            assert (await orders.requests.get()).after == "c0"
        orders.script.put_nowait(1)
        assert await socket.next(name) == order_data("ord_1", 1)


async def test_stream_is_resumed_after_its_first_cursor(open_gateway: Open) -> None:
    async with order_gateway(open_gateway) as (served, orders), served.socket("operator") as socket:
        orders.first_cursor = "from here"
        await socket.subscribe(SUBSCRIPTION, {"id": "ord_1"})
        assert (await orders.requests.get()).after == ""
        orders.script.put_nowait(END)
        async with asyncio.timeout(SECONDS_MAX):
            assert (await orders.requests.get()).after == "from here"


async def test_short_streams_are_resumed_up_to_the_limit(open_gateway: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "RESUME_DELAY_SECONDS", 0.0)
    async with order_gateway(open_gateway) as (served, orders), served.socket("operator") as socket:
        for _ in range(runner.RESUMES_MAX + 1):
            orders.script.put_nowait(END)
        assert await socket.error(await socket.subscribe(SUBSCRIPTION, {"id": "ord_1", "after": "c0"})) == "SUBSCRIPTION_ENDED"
        assert orders.requests.qsize() == runner.RESUMES_MAX + 1


async def test_stable_streams_are_resumed_without_limit(open_gateway: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "RESUME_DELAY_SECONDS", 0.0)
    monkeypatch.setattr(runner, "STABLE_SECONDS", 0.0)
    async with order_gateway(open_gateway) as (served, orders), served.socket("operator") as socket:
        for _ in range(runner.RESUMES_MAX + 2):
            orders.script.put_nowait(END)
        orders.script.put_nowait(1)
        name = await socket.subscribe(SUBSCRIPTION, {"id": "ord_1", "after": "c0"})
        assert await socket.next(name) == order_data("ord_1", 1)


async def test_failure_of_a_task_ends_the_lifetime() -> None:
    async def fail() -> None:
        raise ValueError("bug")

    with LifetimeRegistry().register() as lifetime:
        async with lifetime:
            lifetime.start_task(asyncio.sleep(0), ends_connection=False)
            lifetime.start_task(fail(), ends_connection=False)
            async with asyncio.timeout(SECONDS_MAX):
                assert isinstance(await lifetime.ended, ValueError)


async def test_stream_that_cannot_be_resumed_ends(open_gateway: Open) -> None:
    async with order_gateway(open_gateway) as (served, orders), served.socket("operator") as socket:
        orders.script.put_nowait(END)
        assert await socket.error(await socket.subscribe(SUBSCRIPTION, {"id": "ord_1"})) == "SUBSCRIPTION_ENDED"
        orders.script.put_nowait(Denied("NOT_PERMITTED", "not you"))
        assert await socket.error(await socket.subscribe(SUBSCRIPTION, {"id": "ord_1"})) == "NOT_PERMITTED"
        orders.script.put_nowait(Overloaded("SUBSCRIBER_TOO_SLOW", "too slow"))
        assert await socket.error(await socket.subscribe(SUBSCRIPTION, {"id": "ord_1"})) == "SUBSCRIBER_TOO_SLOW"
        orders.script.put_nowait(grpc.StatusCode.INTERNAL)
        assert await socket.error(await socket.subscribe(SUBSCRIPTION, {"id": "ord_1"})) == "INTERNAL"
