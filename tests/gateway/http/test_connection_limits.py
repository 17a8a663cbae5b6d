"""Limits of connections: their number per address, the time for a request to arrive, and the time for a client to read."""

import asyncio
import gc
import inspect
import json
import socket
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from graphql import get_introspection_query
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gateway.http import connection_limits, protocol
from gateway.http.connection_limits import ConnectionLimits
from gateway.http.protocol import HEAD_BYTES_MAX
from gateway.limits.client_address import ClientAddresses
from gateway.observability import coalesced_log
from services.kit.settings import Settings, SettingsError
from tests.gateway.conftest import Gateway, Open
from tests.gateway.live_gateway import SECONDS_MAX, LiveGateway, serve, wait_until
from tests.gateway.subscriptions.test_connections import HANDSHAKE, INIT, encode_frame

ELSEWHERE = "10.0.0.1"
CHUNKED = b"POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
BODY = json.dumps({"query": get_introspection_query()})
LARGE = f"POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(BODY)}\r\n\r\n{BODY}".encode()
BUFFER = 4_096


def find_limits(served: LiveGateway) -> ConnectionLimits:
    return served.server.config.http.keywords["limits"]  # type: ignore[union-attr]


async def send_bytes(served: LiveGateway, sent: bytes) -> tuple[bytes, asyncio.StreamWriter]:
    """Returns the first line of the response, and its connection, which stays open."""
    host, _, port = served.address.partition(":")
    async with asyncio.timeout(SECONDS_MAX):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        return await reader.readline(), writer


@pytest.mark.parametrize("sent", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * HEAD_BYTES_MAX + b"\r\n\r\n"])
async def test_malformed_request_is_400_with_log_id(alone: Gateway, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with serve(alone) as served:
        host, _, port = served.address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        async with asyncio.timeout(SECONDS_MAX):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        assert head.startswith(b"HTTP/1.1 400 ") and b"content-type: application/json" in head
        (error,) = json.loads(body)["errors"]
        assert error["extensions"] == {"code": "BAD_REQUEST", "id": find_limits(served).malformed.id}
    assert not caplog.records, "all malformed requests share one log line"


async def test_trailers_are_not_headers(alone: Gateway) -> None:
    body = b'{"query":"{__typename}"}'
    async with serve(alone) as served:
        status_line, writer = await send_bytes(served, CHUNKED + b"%x\r\n%b\r\n0\r\nauthorization: Bearer x\r\n\r\n" % (len(body), body))
        writer.close()
        assert status_line.split()[1] == b"200"


@pytest.mark.parametrize("trailer", [b"a: b\r\n", b"bbbbbb"])
async def test_trailers_above_the_limit_are_answered_with_400(alone: Gateway, trailer: bytes) -> None:
    async with serve(alone, limit_body_bytes=1_000) as served, asyncio.timeout(protocol.REQUEST_SECONDS_MAX - 1):
        host, _, port = served.address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(CHUNKED + b"2\r\n{}\r\n0\r\na: b")
        await wait_until(lambda: bool(served.server.server_state.connections))
        (connection,) = served.server.server_state.connections
        await wait_until(lambda: connection.cycle is not None)  # type: ignore[union-attr]
        for _ in range(10):
            writer.write(trailer * (HEAD_BYTES_MAX // len(trailer) // 4))
            await writer.drain()
        assert (await reader.readline()).split()[1] == b"400"
        assert len(connection.scope["headers"]) == 3  # type: ignore[union-attr]
        writer.close()


async def test_body_chunk_may_exceed_the_head_limit(alone: Gateway) -> None:
    body = b'{"query":"{__typename}"' + b" " * 200_000 + b"}"
    async with serve(alone) as served:
        status_line, writer = await send_bytes(served, CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        writer.close()
        assert status_line.split()[1] == b"200"


@pytest.mark.parametrize("sent", [HEALTH, b"POST" + HEALTH[3:-2] + b"content-length: 100\r\n\r\n"])
async def test_bytes_without_a_request_end_the_connection(alone: Gateway, sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(alone) as served, asyncio.timeout(SECONDS_MAX):
        monkeypatch.setattr(protocol, "REQUEST_SECONDS_MAX", 0.2)
        _, writer = await send_bytes(served, sent)
        while served.server.server_state.connections:
            writer.write(b"\r\n")
            await asyncio.sleep(0.01)
        writer.close()


async def test_response_to_head_has_no_body(open_gateway: Open) -> None:
    async with serve(await open_gateway(operations_max=0)) as served:
        host, _, port = served.address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        for path, status in (("/graphql", b"503"), ("/webhooks/a/b", b"503"), ("/nowhere", b"404"), ("/health", b"200")):
            writer.write(f"HEAD {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            async with asyncio.timeout(SECONDS_MAX):
                head = await reader.readuntil(b"\r\n\r\n")
            assert head.split()[1] == status
        writer.close()


async def test_request_leaves_no_reference_cycles(alone: Gateway) -> None:
    async with serve(alone) as served, httpx.AsyncClient(base_url=f"http://{served.address}", trust_env=False) as http:
        gc.disable()
        try:
            answered = []
            for _ in range(3):
                assert (await http.post("/graphql", json={"query": "{ __typename }"})).status_code == 200
                (connection,) = served.server.server_state.connections
                answered.append(weakref.ref(connection.cycle))  # type: ignore[union-attr]
            await wait_until(lambda: not any(request() for request in answered[:-1]))
        finally:
            gc.enable()


def test_production_does_not_trust_every_proxy() -> None:
    assert ClientAddresses(Settings(trusted_proxies="*")).connection_key("10.0.0.1") == ""
    with pytest.raises(SettingsError, match="QUANYU_TRUSTED_PROXIES"):
        ClientAddresses(Settings(trusted_proxies="*", env="production"))


async def test_connections_of_one_address_are_limited(
    alone: Gateway, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(coalesced_log, "WINDOW_SECONDS", 0.05)
    async with serve(alone, connections_address=2, trusted_proxies=ELSEWHERE) as served:
        kept = [await send_bytes(served, sent) for sent in (HEALTH, HANDSHAKE)]
        assert [status_line.split()[1] for status_line, _ in kept] == [b"200", b"101"]
        for _ in range(3):
            refused, writer = await send_bytes(served, b"")
            assert refused == b"HTTP/1.1 503 Service Unavailable\r\n"
            writer.close()
        for number, (_, writer) in enumerate(kept):
            writer.close()
            await wait_until(lambda left=1 - number: find_limits(served).slots.used == left)  # type: ignore[misc]
            status_line, another = await send_bytes(served, HEALTH)
            assert status_line.split()[1] == b"200", "its slot is free"
            another.close()
            await wait_until(lambda left=1 - number: find_limits(served).slots.used == left)  # type: ignore[misc]
        await wait_until(lambda: not find_limits(served).rejected.count)
    (line,) = [line for line in capfd.readouterr().out.splitlines() if "connections rejected" in line]
    assert "count=" in line and "127.0.0.1" not in line


async def test_connections_of_a_trusted_proxy_are_not_limited(alone: Gateway) -> None:
    async with serve(alone, connections_address=1, trusted_proxies="127.0.0.0/8") as served:
        for status_line, writer in [await send_bytes(served, HEALTH) for _ in range(3)]:
            assert status_line.split()[1] == b"200"
            writer.close()


async def test_connections_of_a_process_are_limited(alone: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits, "CONNECTIONS_MAX", 1)
    async with serve(alone) as served:
        responses = [await send_bytes(served, HEALTH) for _ in range(2)]
        assert [status_line.split()[1] for status_line, _ in responses] == [b"200", b"503"]
        for _, writer in responses:
            writer.close()


def test_addresses_of_an_ipv6_network_share_a_key() -> None:
    addresses = ClientAddresses(Settings())
    assert addresses.connection_key("2001:db8::1") == addresses.connection_key("2001:db8::2")
    assert addresses.connection_key("2001:db8::1") != addresses.connection_key("2001:db8:0:1::1")


@contextmanager
def connect_without_reading(served: LiveGateway, sent: bytes) -> Iterator[socket.socket]:
    """A client that sends a request and does not read."""
    host, _, port = served.address.partition(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        client.settimeout(SECONDS_MAX)
        client.connect((host, int(port)))
        client.sendall(sent)
        yield client


def count_unsent_bytes(served: LiveGateway) -> int:
    """Returns the bytes in all write buffers."""
    return sum(each.transport.get_write_buffer_size() for each in served.server.server_state.connections)


@pytest.mark.parametrize("sent", [LARGE, LARGE * 3], ids=["one", "pipelined"])
async def test_client_that_does_not_read_is_aborted(alone: Gateway, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(connection_limits, "SEND_SECONDS_MAX", 0.2)
    async with serve(alone, buffer_bytes=BUFFER) as served:
        with connect_without_reading(served, sent):
            await wait_until(lambda: count_unsent_bytes(served) > 0)
            await wait_until(lambda: not served.server.server_state.connections)
        await wait_until(lambda: not served.server.server_state.tasks)


async def test_too_many_unsent_bytes_abort_the_connection(alone: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits, "UNSENT_BYTES_MAX", 10_000)
    async with serve(alone, buffer_bytes=BUFFER) as served:
        with connect_without_reading(served, LARGE):
            await wait_until(lambda: served.server.server_state.total_requests == 1)
            await wait_until(lambda: not served.server.server_state.connections)


async def test_client_that_does_not_read_holds_no_slot(open_gateway: Open) -> None:
    alone = await open_gateway(operations_max=1)
    async with serve(alone, buffer_bytes=BUFFER) as served:
        with connect_without_reading(served, LARGE * 3):
            await wait_until(lambda: served.server.server_state.total_requests == 1)
            waiting = count_unsent_bytes(served)
            async with httpx.AsyncClient(base_url=f"http://{served.address}", trust_env=False, timeout=SECONDS_MAX) as http:
                response = await http.post("/graphql", content=BODY, headers={"content-type": "application/json"})
            assert response.status_code == 200
            assert count_unsent_bytes(served) <= waiting
            assert served.server.server_state.total_requests == 2, "the pipelined requests are not answered"


async def test_unread_pings_are_answered_once(alone: Gateway) -> None:
    async with serve(alone, buffer_bytes=BUFFER) as served:
        with connect_without_reading(served, HANDSHAKE) as client:
            assert (await asyncio.to_thread(client.recv, 1_000)).startswith(b"HTTP/1.1 101")
            client.sendall(encode_frame(INIT) + encode_frame(json.dumps({"id": "1", "type": "subscribe", "payload": json.loads(BODY)})))
            await wait_until(lambda: count_unsent_bytes(served) > 0)
            waiting, (connection,) = count_unsent_bytes(served), served.server.server_state.connections
            for number in range(1_000):
                client.sendall(b"\x89\x84" + bytes(4) + b"%04d" % number)
            await wait_until(lambda: connection.unsent_pong == b"\x8a\x04" + b"0999")  # type: ignore[union-attr]
            assert count_unsent_bytes(served) <= waiting
            received = bytearray()
            while b"\x8a\x04" + b"0999" not in received:
                received += await asyncio.to_thread(client.recv, 1_000_000)
            assert received.count(b"\x8a\x04") == 1


def test_uvicorn_has_the_attributes_that_protocols_use() -> None:
    """A new version of uvicorn without one of these attributes fails here with its name."""
    used = {
        HttpToolsProtocol: "app_state client cycle headers pipeline scope transport loop handle_websocket_upgrade on_body on_header "
        "on_headers_complete on_message_complete on_url send_400_response",
        RequestResponseCycle: "more_body response_complete response_started",
        WebSocketsSansIOProtocol: "client close_sent conn handle_ping loop transport writable",
    }
    for kind, names in used.items():
        source = inspect.getsource(kind)
        missing = [name for name in names.split() if f"self.{name}" not in source and f"def {name}" not in source]
        assert not missing, f"{kind.__name__} of uvicorn has no {', '.join(missing)}; see gateway/http/protocol.py"
