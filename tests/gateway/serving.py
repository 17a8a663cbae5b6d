"""The gateway under its real server, in this process, and clients that speak graphql-transport-ws and event streams with it."""

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

from gateway.__main__ import Server, configured, listen
from services.kit.settings import Settings
from tests.gateway.conftest import OPERATIONS, Gateway

SECONDS_MAX = 15.0
PROTOCOL = Subprotocol("graphql-transport-ws")


class Quiet(Server):
    """The gateway's server, whose signals are the test run's, and which leaves the garbage collector alone."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:  # type: ignore[override]
        yield

    async def startup(self, sockets: Any = None) -> None:
        await super(Server, self).startup(sockets)
        self.listening.set()


class Served:
    """A gateway that listens. `server.should_exit = True` stops it."""

    def __init__(self, gateway: Gateway, server: Quiet, address: str) -> None:
        self.gateway, self.server, self.address = gateway, server, address

    @asynccontextmanager
    async def socket(self, who: str = "", **options: Any) -> AsyncIterator["Socket"]:
        """A WebSocket; with `who`, one that is acknowledged already."""
        async with connect(f"ws://{self.address}/graphql", subprotocols=[PROTOCOL], proxy=None, **options) as opened:
            socket = Socket(opened)
            if who:
                await socket.say(type="connection_init", payload={"authorization": f"Bearer {self.gateway.token(who)}"})
                assert await socket.heard() == {"type": "connection_ack"}
            yield socket

    @asynccontextmanager
    async def stream(self, query: str, variables: Any = None, *, who: str = "", **sent: Any) -> AsyncIterator["Stream"]:
        """An event stream of one operation."""
        headers = {"accept": "text/event-stream"} | ({"authorization": f"Bearer {self.gateway.token(who)}"} if who else {})
        body = {"query": operation(query), "variables": variables or {}}
        async with (
            httpx.AsyncClient(base_url=f"http://{self.address}", trust_env=False, timeout=SECONDS_MAX) as http,
            http.stream("POST", "/graphql", headers=headers, json=body, **sent) as response,
        ):
            yield Stream(response)


class Socket:
    """A client of graphql-transport-ws."""

    def __init__(self, opened: ClientConnection) -> None:
        self.opened = opened
        self.names = map(str, itertools.count(1))

    async def say(self, **message: Any) -> None:
        await self.opened.send(json.dumps(message))

    async def heard(self) -> Any:
        """The next message."""
        async with asyncio.timeout(SECONDS_MAX):
            return json.loads(await self.opened.recv())

    async def closed(self) -> tuple[int | None, str | None]:
        """Code and reason, once it is closed."""
        async with asyncio.timeout(SECONDS_MAX):
            await self.opened.wait_closed()
        return self.opened.close_code, self.opened.close_reason

    async def subscribe(self, query: str, variables: Any = None, **payload: Any) -> str:
        """Begins an operation (text, or a file's name); the name it has on this socket."""
        name = next(self.names)
        await self.say(type="subscribe", id=name, payload={"query": operation(query), "variables": variables or {}} | payload)
        return name

    async def next(self, name: str) -> Any:
        """The data of the operation's next event."""
        message = await self.heard()
        assert (message["type"], message["id"]) == ("next", name), message
        assert "errors" not in message["payload"], message
        return message["payload"]["data"]

    async def error(self, name: str) -> Any:
        """The code of the only error that ends the operation."""
        message = await self.heard()
        assert (message["type"], message["id"]) == ("error", name), message
        (error,) = message["payload"]
        return error["extensions"]["code"]

    async def complete(self, name: str) -> None:
        assert await self.heard() == {"type": "complete", "id": name}

    async def quiet(self) -> None:
        """Asserts that nothing was said: what is asked last is answered first."""
        await self.say(type="ping", payload={"quiet": True})
        assert await self.heard() == {"type": "pong", "payload": {"quiet": True}}


class Stream:
    """A client of graphql-sse."""

    def __init__(self, response: httpx.Response) -> None:
        self.response, self.lines = response, response.aiter_lines()

    async def heard(self) -> tuple[str, Any]:
        """The next event and its data; ("", None) at the end of the response."""
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
        """The data of the next event."""
        name, answer = await self.heard()
        assert name == "next" and "errors" not in answer, (name, answer)
        return answer["data"]


def operation(text: str) -> str:
    """The text, or that of the file of that name."""
    return text if "{" in text else (OPERATIONS / f"{text}.graphql").read_text()


async def until(reached: Callable[[], bool]) -> None:
    """Waits until something is so of which nobody tells."""
    async with asyncio.timeout(SECONDS_MAX):
        while not reached():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(gateway: Gateway, at: str = "127.0.0.1:0", *, buffer_bytes: int = 0, **changes: Any) -> AsyncIterator[Served]:
    """The gateway, listening there; at a free port unless told. `buffer_bytes`: of what a client does not take the system keeps so many at
    most, and the gateway the rest."""
    settings = msgspec.structs.replace(Settings(drain_seconds=2.0), **changes)
    with listen(at) as listening:
        if buffer_bytes:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
        address = "{}:{}".format(*listening.getsockname()[:2])
        config = configured(gateway.app, settings)
        config.lifespan = "off"
        server = Quiet(config)
        running = asyncio.create_task(server.serve([listening]))
        async with asyncio.timeout(SECONDS_MAX):
            await server.listening.wait()
        try:
            yield Served(gateway, server, address)
        finally:
            server.should_exit = True
            await running
