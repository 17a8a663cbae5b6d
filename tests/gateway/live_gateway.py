"""Live gateway: the gateway under its real server in this process, with clients of graphql-transport-ws and graphql-sse."""

import asyncio
import itertools
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from gateway.__main__ import Server, create_config, listen
from services.kit.settings import Settings
from tests.gateway.conftest import OPERATIONS, Gateway

SECONDS_MAX = 15.0
PROTOCOL = Subprotocol("graphql-transport-ws")


class EmbeddedServer(Server):
    """The gateway's server without its signal handlers and without its settings of the garbage collector."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:  # type: ignore[override]
        yield

    async def startup(self, sockets: Any = None) -> None:
        await super(Server, self).startup(sockets)
        self.listening.set()


class LiveGateway:
    """A listening gateway. `server.should_exit = True` stops it."""

    def __init__(self, gateway: Gateway, server: EmbeddedServer, address: str) -> None:
        self.gateway, self.server, self.address = gateway, server, address

    @asynccontextmanager
    async def socket(self, subject: str = "", **options: Any) -> AsyncIterator["SocketClient"]:
        """Yields a WebSocket; with a `subject`, it is initialised."""
        async with connect(f"ws://{self.address}/graphql", subprotocols=[PROTOCOL], proxy=None, **options) as opened:
            socket = SocketClient(opened)
            if subject:
                await socket.send(type="connection_init", payload={"authorization": f"Bearer {self.gateway.token(subject)}"})
                assert await socket.receive() == {"type": "connection_ack"}
            yield socket

    @asynccontextmanager
    async def stream(self, query: str, variables: Any = None, *, subject: str = "", **sent: Any) -> AsyncIterator["StreamClient"]:
        """Yields the event stream of one operation."""
        headers = {"accept": "text/event-stream"} | ({"authorization": f"Bearer {self.gateway.token(subject)}"} if subject else {})
        body = {"query": operation_text(query), "variables": variables or {}}
        async with (
            httpx.AsyncClient(base_url=f"http://{self.address}", trust_env=False, timeout=SECONDS_MAX) as http,
            http.stream("POST", "/graphql", headers=headers, json=body, **sent) as response,
        ):
            yield StreamClient(response)


class SocketClient:
    """A client of graphql-transport-ws."""

    def __init__(self, opened: ClientConnection) -> None:
        self.opened = opened
        self.ids = map(str, itertools.count(1))

    async def send(self, **message: Any) -> None:
        await self.opened.send(json.dumps(message))

    async def receive(self) -> Any:
        """Returns the next message."""
        async with asyncio.timeout(SECONDS_MAX):
            return json.loads(await self.opened.recv())

    async def wait_closed(self) -> tuple[int | None, str | None]:
        """Waits for the close; returns its code and reason."""
        async with asyncio.timeout(SECONDS_MAX):
            await self.opened.wait_closed()
        return self.opened.close_code, self.opened.close_reason

    async def subscribe(self, query: str, variables: Any = None, **payload: Any) -> str:
        """Starts an operation, given by its text or its file's name; returns its id on this socket."""
        id = next(self.ids)
        await self.send(type="subscribe", id=id, payload={"query": operation_text(query), "variables": variables or {}} | payload)
        return id

    async def next(self, id: str) -> Any:
        """Returns the data of the operation's next event."""
        message = await self.receive()
        assert (message["type"], message["id"]) == ("next", id), message
        assert "errors" not in message["payload"], message
        return message["payload"]["data"]

    async def error(self, id: str) -> Any:
        """Returns the code of the only error, which ends the operation."""
        message = await self.receive()
        assert (message["type"], message["id"]) == ("error", id), message
        (error,) = message["payload"]
        return error["extensions"]["code"]

    async def complete(self, id: str) -> None:
        assert await self.receive() == {"type": "complete", "id": id}

    async def expect_silence(self) -> None:
        """Asserts that no message is pending: the pong of a ping is the next one."""
        await self.send(type="ping", payload={"probe": True})
        assert await self.receive() == {"type": "pong", "payload": {"probe": True}}


class StreamClient:
    """A client of graphql-sse."""

    def __init__(self, response: httpx.Response) -> None:
        self.response, self.lines = response, response.aiter_lines()

    async def receive(self) -> tuple[str, Any]:
        """Returns the next event and its data; ("", None) at the end of the response."""
        name, data = "", ""
        async with asyncio.timeout(SECONDS_MAX):
            async for line in self.lines:
                if line.startswith("event:"):
                    name = line.removeprefix("event:").strip()
                elif line.startswith("data:"):
                    data = line.removeprefix("data:").strip()
                elif not line and name:
                    return name, json.loads(data) if data else None
        return "", None

    async def next(self) -> Any:
        """Returns the data of the next event."""
        name, result = await self.receive()
        assert name == "next" and "errors" not in result, (name, result)
        return result["data"]


def operation_text(text: str) -> str:
    """Returns the text itself, or the text of the file with that name."""
    return text if "{" in text else (OPERATIONS / f"{text}.graphql").read_text()


async def wait_until(condition: Callable[[], bool]) -> None:
    """Polls until the condition holds."""
    async with asyncio.timeout(SECONDS_MAX):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.01)


@asynccontextmanager
async def serve(gateway: Gateway, address: str = "127.0.0.1:0", *, buffer_bytes: int = 0, **changes: Any) -> AsyncIterator[LiveGateway]:
    """Yields the gateway, listening at the address; by default, at a free port. `buffer_bytes`: the size of the system's send buffer,
    above which unread bytes stay in the gateway."""
    settings = msgspec.structs.replace(Settings(drain_seconds=2.0), **changes)
    with listen(address) as listening:
        if buffer_bytes:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
        address = "{}:{}".format(*listening.getsockname()[:2])
        config = create_config(gateway.app, settings)
        config.lifespan = "off"
        server = EmbeddedServer(config)
        running = asyncio.create_task(server.serve([listening]))
        async with asyncio.timeout(SECONDS_MAX):
            await server.listening.wait()
        try:
            yield LiveGateway(gateway, server, address)
        finally:
            server.should_exit = True
            await running
