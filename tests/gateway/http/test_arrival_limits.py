"""Arrival of requests: the size and the deadline of a head, the deadline of a body, and the memory of incomplete bodies."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest

from gateway.__main__ import Server, create_config
from gateway.http import protocol
from services.kit.settings import Settings
from tests.gateway.conftest import Gateway, Open
from tests.gateway.http.test_load_shedding import find_load_shedding
from tests.gateway.live_gateway import wait_until

SECONDS_MAX = 20.0


class ObservedServer(Server):
    """The gateway's own server, with an event for its start."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(create_config(gateway.app, Settings(drain_seconds=1)))
        self.config.lifespan = "off"
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@asynccontextmanager
async def listen(gateway: Gateway) -> AsyncIterator[int]:
    """Yields the port of a gateway with its own server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        gateway.app.state.address = f"127.0.0.1:{port}"
        server = ObservedServer(gateway)
        running = asyncio.create_task(server.serve([listener]))
        try:
            await asyncio.wait_for(server.ready.wait(), SECONDS_MAX)
            yield port
        finally:
            server.should_exit = True
            await running


async def exchange(port: int, sent: bytes) -> bytes:
    """Sends bytes; returns the bytes that the server sends before it ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with suppress(ConnectionError):
            writer.write(sent)
            await writer.drain()
            return await asyncio.wait_for(reader.read(), SECONDS_MAX)
        return b""
    finally:
        writer.close()


async def test_request_head_has_a_size_and_a_deadline(alone: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "REQUEST_SECONDS_MAX", 0.2)
    async with listen(alone) as port:
        many = b"GET /health HTTP/1.1\r\nhost: x\r\n" + b"a: " + b"x" * 100 + b"\r\n"
        for head in (many * 1 + (b"a: " + b"x" * 100 + b"\r\n") * 1_000, b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n"):
            assert not (answer := await exchange(port, head)) or answer.startswith(b"HTTP/1.1 400")
        assert await exchange(port, b"GET /health HTTP/1.1\r\nhost:") == b"", "an incomplete head ends the connection"
        assert await exchange(port, b"") == b""
        assert (await exchange(port, b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).startswith(b"HTTP/1.1 200")
        response = await exchange(port, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\nGET /health HTTP/1.1\r\nhost:")
        assert response.count(b"HTTP/1.1 ") == 1, "the incomplete second head ends the connection"


async def test_incomplete_body_is_answered_with_408(open_gateway: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "REQUEST_SECONDS_MAX", 0.2)
    alone = await open_gateway(deadline_seconds=2.0)
    head = b"POST /graphql HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{"
    async with listen(alone) as port:
        assert (await exchange(port, head)).startswith(b"HTTP/1.1 408")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            assert (await http.post("/graphql", json={"query": "{ __typename }"})).status_code == 200


async def test_incomplete_bodies_above_their_limit_are_shed(open_gateway: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.http.load_shedding.INCOMPLETE_BYTES_MAX", 30)
    alone = await open_gateway()
    head = b"POST /graphql HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 24\r\n\r\n"
    body = b'{"query":"{__typename}"}'
    async with listen(alone) as port, asyncio.timeout(SECONDS_MAX):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + body[:20])
        await wait_until(lambda: find_load_shedding(alone.app).incomplete_bytes == 20)
        answer = await exchange(port, head + body[:20])
        assert answer.startswith(b"HTTP/1.1 503") and b"retry-after: 1\r\n" in answer and b"OVERLOADED" in answer
        assert (await exchange(port, head + body)).startswith(b"HTTP/1.1 200"), "a complete body is never shed"
        writer.write(body[20:])
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
        assert find_load_shedding(alone.app).incomplete_bytes == 0
