"""Subscriptions over real connections: clients that do not read or send invalid bytes, and a server that stops."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed

from gateway.http import connection_limits
from tests.gateway.conftest import Open
from tests.gateway.live_gateway import PROTOCOL, SECONDS_MAX, LiveGateway, wait_until
from tests.gateway.subscriptions.test_websocket import SUBSCRIPTION, order_data, order_gateway

LARGE = "ord_" + "x" * 10_000
"""The id of an order whose events are large, since each contains it."""
INIT = '{"type":"connection_init"}'
HANDSHAKE = (
    "GET /graphql HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    f"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-protocol: {PROTOCOL}\r\n\r\n"
).encode()


def subscription_payload(id: str) -> dict[str, object]:
    return {"query": SUBSCRIPTION, "variables": {"id": id}}


def encode_subscribe(id: str) -> str:
    return json.dumps({"id": "1", "type": "subscribe", "payload": subscription_payload(id)})


def encode_frame(text: str) -> bytes:
    """Returns a text frame with a mask of zeros."""
    data = text.encode()
    length = bytes([0x80 | len(data)]) if len(data) < 126 else bytes([0x80 | 126]) + len(data).to_bytes(2, "big")
    return b"\x81" + length + bytes(4) + data


def encode_post(id: str) -> bytes:
    """Returns a request for an event stream."""
    body = json.dumps(subscription_payload(id))
    head = "POST /graphql HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()


SENT = [[HANDSHAKE, encode_frame(INIT) + encode_frame(encode_subscribe(LARGE))], [encode_post(LARGE)]]


@pytest.mark.parametrize("sent", SENT, ids=["websocket", "sse"])
async def test_subscriber_that_does_not_read_is_disconnected(
    open_gateway: Open, monkeypatch: pytest.MonkeyPatch, sent: list[bytes]
) -> None:
    monkeypatch.setattr(connection_limits, "SEND_SECONDS_MAX", 0.2)
    async with order_gateway(open_gateway) as (served, orders):
        for number in range(2_000):
            orders.script.put_nowait(number)
        host, port = served.address.split(":")
        lifetimes, loop = served.gateway.app.state.lifetimes, asyncio.get_running_loop()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.setblocking(False)
            async with asyncio.timeout(SECONDS_MAX):
                await loop.sock_connect(client, (host, int(port)))
                for part in sent[:-1]:
                    await loop.sock_sendall(client, part)
                    assert (await loop.sock_recv(client, 1_000)).startswith(b"HTTP/1.1 101")
                await loop.sock_sendall(client, sent[-1])
                await orders.requests.get()
            await wait_until(lambda: not lifetimes.lifetimes)
            assert orders.script.qsize() > 0, "events are left"


async def test_server_shutdown_closes_subscriptions_at_once(open_gateway: Open) -> None:
    loop = asyncio.get_running_loop()
    async with (
        order_gateway(open_gateway) as (served, orders),
        served.socket("operator") as opened,
        served.stream(SUBSCRIPTION, {"id": "ord_2"}, subject="operator") as stream,
    ):
        name = await opened.subscribe(SUBSCRIPTION, {"id": "ord_1"})
        assert {(await orders.requests.get()).order_id for _ in range(2)} == {"ord_1", "ord_2"}
        orders.script.put_nowait(1)
        orders.script.put_nowait(1)
        assert await opened.next(name) == order_data("ord_1", 1)
        assert await stream.next() == order_data("ord_2", 1)
        stopped_at, served.server.should_exit = loop.time(), True
        assert (await opened.wait_closed())[0] == 1001
        assert await stream.receive() == ("", None), "without `complete`, clients reconnect"
        await wait_until(lambda: not served.server.server_state.tasks)
        assert loop.time() - stopped_at < 2


@pytest.mark.parametrize(
    ("header", "status"), [("content-length: 5", b"400"), ("transfer-encoding: chunked", b"400"), ("origin: http://[", b"403")]
)
async def test_invalid_handshake_is_answered_and_ends_the_connection(open_gateway: Open, header: str, status: bytes) -> None:
    async with order_gateway(open_gateway) as (served, _), asyncio.timeout(SECONDS_MAX):
        reader, writer = await asyncio.open_connection(*served.address.split(":"))
        writer.write(HANDSHAKE.replace(b"host: x", b"host: x\r\n" + header.encode()))
        assert (await reader.read()).split()[1] == status
        writer.close()


async def test_message_above_the_limit_closes_the_socket(open_gateway: Open) -> None:
    async with order_gateway(open_gateway) as (served, _), served.socket("operator") as opened:
        await opened.opened.send("x" * 300_000)
        assert (await opened.wait_closed())[0] == 1009


async def test_invalid_utf8_closes_the_socket_without_log_lines(
    open_gateway: Open, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with order_gateway(open_gateway) as (served, _):
        for parts in ([b"\xff\xfe"], ["ü".encode()[:1], b"x"]):
            async with served.socket("operator") as opened:
                await opened.opened.send(parts, text=True)
                assert (await opened.wait_closed())[0] == 1007
    assert "Traceback" not in "".join(capfd.readouterr()) + caplog.text


MESSAGES = st.sampled_from(
    [
        INIT,
        '{"type":"ping","payload":{"a":1}}',
        '{"type":"pong"}',
        encode_subscribe("ord_1"),
        '{"id":"2","type":"subscribe","payload":{"query":"query ($a: ID!) { node(id: $a) { id } }","variables":{"a":"x"}}}',
        '{"id":"1","type":"complete"}',
    ]
)
PIECES = st.text(max_size=5) | st.sampled_from(['"', "{", "}", "null", "\\u0000", "\\ud800", "1e999", "[]"])
CODES = {1002, 1007, 4400, 4401, 4403, 4409, 4429}


@st.composite
def mutated_messages(draw: st.DrawFn) -> str | bytes:
    """A message of the protocol, often with a part replaced."""
    message = draw(MESSAGES)
    if draw(st.booleans()):
        return message
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=50))
    at, length = draw(st.integers(0, len(message))), draw(st.integers(0, 5))
    return message[:at] + draw(PIECES) + message[at + length :]


@pytest.fixture
async def served(open_gateway: Open) -> AsyncIterator[LiveGateway]:
    async with order_gateway(open_gateway) as (served, _):
        yield served


@given(st.lists(mutated_messages(), min_size=1, max_size=12))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_mutated_messages_cause_no_errors(
    served: LiveGateway, capfd: pytest.CaptureFixture[str], messages: list[str | bytes]
) -> None:
    async with served.socket() as opened:
        with suppress(ConnectionClosed):
            for message in [*messages, "no message"]:
                await opened.opened.send(message)
            while True:
                await opened.receive()
        assert (await opened.wait_closed())[0] in CODES
    log = "".join(capfd.readouterr())
    assert "Traceback" not in log
    assert "[error" not in log
    await wait_until(lambda: not served.gateway.app.state.lifetimes.lifetimes)


@given(st.lists(st.binary(max_size=200), max_size=4), st.integers(0, 200))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_random_bytes_cause_no_errors(served: LiveGateway, capfd: pytest.CaptureFixture[str], noise: list[bytes], cut: int) -> None:
    """Truncated, interleaved and unknown frames; then the client disconnects."""
    reader, writer = await asyncio.open_connection(*served.address.split(":"))
    async with asyncio.timeout(SECONDS_MAX):
        writer.write(HANDSHAKE)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        writer.write(encode_frame(INIT))
        assert b"connection_ack" in await reader.readuntil(b"}")
        writer.write(b"".join(noise) + encode_frame(encode_subscribe("ord_1"))[:cut])
        writer.write_eof()
        await reader.read()
    writer.close()
    await wait_until(lambda: not served.gateway.app.state.lifetimes.lifetimes)
    assert "Traceback" not in "".join(capfd.readouterr())
