"""What bounds subscriptions: how many there may be, how often somebody may ask, and how slow a client may be."""

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
from gateway.subscriptions.buffer import buffered
from gateway.subscriptions.lifetime import Endings
from services.kit.errors import Denied, Overloaded, Unavailable
from tests.gateway.conftest import Open
from tests.gateway.limits.test_rate_limit import Clock
from tests.gateway.serving import SECONDS_MAX
from tests.gateway.subscriptions.test_websocket import WATCHED, telling_gateway, told
from tests.gateway.telling import END


async def numbers(most: int) -> AsyncGenerator[int, None]:
    for number in range(most):
        yield number


async def test_who_takes_what_comes_gets_all_of_a_burst() -> None:
    assert [number async for number in buffered(numbers(1_000), 4)] == list(range(1_000))


async def test_who_takes_nothing_from_a_full_buffer_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer, "FULL_SECONDS_MAX", 0.02)
    closed = asyncio.Event()

    async def source() -> AsyncGenerator[int, None]:
        try:
            async for number in numbers(10):
                yield number
        finally:
            closed.set()

    events = buffered(source(), 4)
    assert await anext(events) == 0
    await asyncio.wait_for(closed.wait(), SECONDS_MAX)
    with pytest.raises(Overloaded, match="SUBSCRIBER_TOO_SLOW"):
        await anext(events)


async def test_a_source_that_fails_ends_its_events() -> None:
    async def source() -> AsyncGenerator[int, None]:
        yield 1
        raise Denied("NO", "no")

    heard = []
    with pytest.raises(Denied):
        async for number in buffered(source(), 4):
            heard.append(number)
    assert heard in ([], [1])


async def test_the_source_is_closed_with_its_buffer() -> None:
    closed = asyncio.Event()

    async def source() -> AsyncGenerator[int, None]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            closed.set()

    events = buffered(source(), 4)
    assert await anext(events) == 1
    await events.aclose()
    assert closed.is_set()


def test_concurrency_is_limited_in_all_and_by_key() -> None:
    limiter = ConcurrencyLimiter(3, 2, "things")
    with limiter.slot("a"), limiter.slot("a"):
        with pytest.raises(Overloaded, match="TOO_MANY_THINGS"), limiter.slot("a"):
            pass
        with limiter.slot("b"), pytest.raises(Overloaded, match="OVERLOADED"), limiter.slot("c"):
            pass
    assert (limiter.used, dict(limiter.used_by_key)) == (0, {})


async def test_somebody_has_so_many_subscriptions_over_all_sockets(open_gateway: Open) -> None:
    async with (
        telling_gateway(open_gateway, subscriptions_principal=2) as (served, teller),
        served.socket("operator") as one,
        served.socket("operator") as other,
    ):
        first = await one.subscribe(WATCHED, {"id": "ord_1"})
        assert (await teller.asked.get()).order_id == "ord_1"
        async with served.stream(WATCHED, {"id": "ord_2"}, who="operator") as stream:
            assert (await teller.asked.get()).order_id == "ord_2"
            refused = await other.subscribe(WATCHED, {"id": "ord_3"})
            assert await other.error(refused) == "TOO_MANY_SUBSCRIPTIONS"
            teller.told.put_nowait(1)
            teller.told.put_nowait(1)
            assert await one.next(first) == told("ord_1", 1)
            assert await stream.next() == told("ord_2", 1)
        assert await teller.left.get() == "ord_2"
        await other.subscribe(WATCHED, {"id": "ord_4"})
        assert (await teller.asked.get()).order_id == "ord_4"


async def test_somebody_has_so_many_sockets_and_operations_on_each(open_gateway: Open) -> None:
    async with telling_gateway(open_gateway, subscriptions_principal=1) as (served, _), served.socket("operator") as socket:
        async with served.socket() as other:
            await other.say(type="connection_init", payload={"authorization": f"Bearer {served.gateway.token('operator')}"})
            assert (await other.closed())[0] == 1013
        await socket.subscribe(WATCHED, {"id": "ord_1"})
        assert await socket.error(await socket.subscribe("{ __typename }")) == "TOO_MANY_OPERATIONS"


async def test_a_client_that_is_slow_hears_that_it_was_dropped(open_gateway: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer, "FULL_SECONDS_MAX", 0.2)
    long_id = "ord_" + "x" * 50_000
    async with telling_gateway(open_gateway, subscription_events=4) as (served, teller), served.socket("operator", max_queue=1) as socket:
        name = await socket.subscribe(WATCHED, {"id": long_id})
        for number in range(2_000):
            teller.told.put_nowait(number)
        async with asyncio.timeout(SECONDS_MAX):
            await teller.left.get()
        heard = 0
        while (message := await socket.heard())["type"] == "next":
            assert message["payload"]["data"] == told(long_id, heard)
            heard += 1
        assert (message["id"], message["payload"][0]["extensions"]["code"]) == (name, "SUBSCRIBER_TOO_SLOW")
        assert heard + teller.told.qsize() < 2_000, "what waited in buffers was forgotten"
        await socket.quiet()


async def test_a_full_house_takes_no_more_sockets_and_has_one_line_for_all_of_a_moment(
    open_gateway: Open, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(coalesced_log, "WINDOW_SECONDS", 0.2)
    ids = set()
    async with telling_gateway(open_gateway, sockets_max=1) as (served, _), served.socket():
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


async def test_each_operation_counts(open_gateway: Open) -> None:
    async with telling_gateway(open_gateway, rate_principal=1.0) as (served, _), served.socket("operator") as socket:
        codes = []
        for _ in range(4):
            name = await socket.subscribe("{ __typename }")
            message = await socket.heard()
            if message["type"] == "next":
                await socket.complete(name)
            codes.append(message["type"])
        assert codes[0] == "next" and codes[-1] == "error", codes


async def test_what_is_no_request_counts_for_its_address(open_gateway: Open) -> None:
    async with telling_gateway(open_gateway, rate_address=2.0) as (served, _), served.socket("operator") as socket:
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


async def test_more_work_than_usual_counts_as_more_than_one(open_gateway: Open) -> None:
    fields = " ".join(f"a{number}: offers(first: 1) {{ nodes {{ id }} }}" for number in range(15))
    query, clock, taken = f"query {{ {fields} }}", Clock(), []
    async with telling_gateway(open_gateway, rate_principal=100.0) as (served, _):
        buckets: RateLimiter = served.gateway.app.state.rates.principals
        buckets.clock = clock
        for way in ("socket", "socket", "stream"):
            clock.now += 100
            if way == "stream":
                async with served.stream(query, who="operator") as stream:
                    assert [(await stream.heard())[0] for _ in range(2)] == ["next", "complete"]
            else:
                async with served.socket("operator") as socket:
                    clock.now += 100
                    await socket.subscribe(query)
                    assert [(await socket.heard())["type"] for _ in range(2)] == ["next", "complete"]
            taken.append((next(iter(buckets.full_at.values())) - clock.now) * buckets.per_second)
    assert taken[1:] == [pytest.approx(15 / USUAL_CALLS, rel=0.1)] * 2, "the first is read, too"


async def test_so_many_messages_a_second_come_over_one_socket(open_gateway: Open) -> None:
    async with telling_gateway(open_gateway, rate_address=5.0) as (served, _), served.socket("operator") as socket:
        for _ in range(12):
            await socket.say(type="pong")
        assert await socket.closed() == (1008, "too many messages")


async def test_a_stream_that_ends_is_gone_on_with_after_its_last_cursor(open_gateway: Open) -> None:
    async with telling_gateway(open_gateway) as (served, teller), served.socket("operator") as socket:
        name = await socket.subscribe(WATCHED, {"id": "ord_1", "after": "c0"})
        assert (await teller.asked.get()).after == "c0"
        for number, end in enumerate((END, grpc.StatusCode.UNAVAILABLE, Unavailable("CHANGES_LOST", "again")), 1):
            teller.told.put_nowait(number)
            assert await socket.next(name) == told("ord_1", number)
            teller.told.put_nowait(end)
            async with asyncio.timeout(SECONDS_MAX):
                assert (await teller.asked.get()).after == f"c{number}"
        await socket.quiet()


async def test_a_stream_is_gone_on_with_long_after_the_time_of_its_operation(open_gateway: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SESSION_TTL_SECONDS", 0.1)
    async with telling_gateway(open_gateway, deadline_seconds=0.5) as (served, teller), served.socket("operator") as socket:
        name = await socket.subscribe(WATCHED, {"id": "ord_1", "after": "c0"})
        await teller.asked.get()
        await asyncio.sleep(0.7)  # the operation's time and that of what is known of its bearer have passed
        teller.told.put_nowait(END)
        async with asyncio.timeout(SECONDS_MAX):
            assert (await teller.asked.get()).after == "c0"
        teller.told.put_nowait(1)
        assert await socket.next(name) == told("ord_1", 1)


async def test_where_a_stream_begins_is_a_cursor_too(open_gateway: Open) -> None:
    async with telling_gateway(open_gateway) as (served, teller), served.socket("operator") as socket:
        teller.first_cursor = "from here"
        await socket.subscribe(WATCHED, {"id": "ord_1"})
        assert (await teller.asked.get()).after == ""
        teller.told.put_nowait(END)
        async with asyncio.timeout(SECONDS_MAX):
            assert (await teller.asked.get()).after == "from here"


async def test_a_service_that_breaks_off_at_once_is_asked_so_often_and_no_more(open_gateway: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "RESUME_SECONDS", 0.0)
    async with telling_gateway(open_gateway) as (served, teller), served.socket("operator") as socket:
        for _ in range(runner.RESUMES_MAX + 1):
            teller.told.put_nowait(END)
        assert await socket.error(await socket.subscribe(WATCHED, {"id": "ord_1", "after": "c0"})) == "SUBSCRIPTION_ENDED"
        assert teller.asked.qsize() == runner.RESUMES_MAX + 1


async def test_streams_that_lasted_are_gone_on_with_without_end(open_gateway: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "RESUME_SECONDS", 0.0)
    monkeypatch.setattr(runner, "LASTING_SECONDS", 0.0)
    async with telling_gateway(open_gateway) as (served, teller), served.socket("operator") as socket:
        for _ in range(runner.RESUMES_MAX + 2):
            teller.told.put_nowait(END)
        teller.told.put_nowait(1)
        name = await socket.subscribe(WATCHED, {"id": "ord_1", "after": "c0"})
        assert await socket.next(name) == told("ord_1", 1)


async def test_a_connection_ends_with_what_goes_wrong_in_it() -> None:
    async def bug() -> None:
        raise ValueError("bug")

    with Endings().one() as ending:
        async with ending:
            ending.task(asyncio.sleep(0), ends=False)
            ending.task(bug(), ends=False)
            async with asyncio.timeout(SECONDS_MAX):
                assert isinstance(await ending.why, ValueError)


async def test_what_cannot_be_gone_on_with_ends(open_gateway: Open) -> None:
    async with telling_gateway(open_gateway) as (served, teller), served.socket("operator") as socket:
        teller.told.put_nowait(END)
        assert await socket.error(await socket.subscribe(WATCHED, {"id": "ord_1"})) == "SUBSCRIPTION_ENDED"
        teller.told.put_nowait(Denied("NOT_PERMITTED", "not you"))
        assert await socket.error(await socket.subscribe(WATCHED, {"id": "ord_1"})) == "NOT_PERMITTED"
        teller.told.put_nowait(Overloaded("SUBSCRIBER_TOO_SLOW", "too slow"))
        assert await socket.error(await socket.subscribe(WATCHED, {"id": "ord_1"})) == "SUBSCRIBER_TOO_SLOW"
        teller.told.put_nowait(grpc.StatusCode.INTERNAL)
        assert await socket.error(await socket.subscribe(WATCHED, {"id": "ord_1"})) == "INTERNAL"
