"""HTTP/1.1 and WebSockets as uvicorn speaks them, with bounds of ours: for the head of a request, its bytes and the time it takes to
arrive, and those of all peers (`peers.py`)."""

import asyncio
from typing import Any

import orjson
from starlette.types import Scope
from uvicorn._types import ASGI3Application, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gateway.errors import without_operation
from gateway.peers import Peer, Peers

HEAD_BYTES_MAX = 32 * 1024
"""Of the address and the headers. A longer head is answered with 400, and its connection ends."""
HEAD_SECONDS_MAX = 10.0
"""From when it begins (of a connection's first request: from when that is made); a slower connection ends."""
EXCHANGE = "quanyu.exchange"
"""The extension of an ASGI scope that is an `Exchange`; a server that is not ours has none."""


def ending(status: int, message: str, code: str, id: str, headers: bytes = b"") -> bytes:
    """An answer after which the connection ends."""
    body = orjson.dumps(without_operation(message, code, id))
    head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
    return STATUS_LINE[status] + headers + head + body


class Socket(Peer, WebSocketsSansIOProtocol):
    """The protocol of one WebSocket, which takes over the connection of the request that asked for it, and its place."""

    behind = 0
    """Characters of the messages that are not written before what was written is taken."""
    pong = b""
    """Answers the last ping of a client that does not take what waits for it."""

    def __init__(self, *, peers: Peers, **given: Any) -> None:
        super().__init__(**given)
        self.peers = peers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.key = self.peers.key(self.client[0] if self.client else "")

    def data_received(self, data: bytes) -> None:
        """The first that comes is a whole request. One that is none for a WebSocket (it has a body) would be waited on for ever."""
        super().data_received(data)
        if not self.handshake_initiated and not self.transport.is_closing():
            self.transport.write(ending(400, "this is no request for a WebSocket", "BAD_REQUEST", self.peers.unread.add()))
            self.transport.close()

    def waiting(self) -> int:
        return super().waiting() + self.behind

    async def send(self, message: ASGISendEvent) -> None:
        if not self.writable.is_set():
            await self._turn(len(str(message.get("text", ""))))
        await super().send(message)

    async def _turn(self, size: int) -> None:
        """Waits until what was written is taken. Of all who wait for that, one may write."""
        self.behind += size
        if self.stalling is not None:
            self.peers.weigh(self)
        try:
            while not self.writable.is_set():
                await self.writable.wait()
        finally:
            self.behind -= size

    def handle_ping(self) -> None:
        """Who does not take what waits for them hears of their last ping only, and then: pongs would wait without bound."""
        if self.stalling is None:
            super().handle_ping()
        elif pongs := self.conn.data_to_send():  # those of all pings that came together
            self.pong = pongs[-1]

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.pong and not self.close_sent:
            pong, self.pong = self.pong, b""
            self.transport.write(pong)

    def send_receive_event_to_app(self) -> None:
        """A text that is no UTF-8 ends the connection (1007). It is a client's fault, of which uvicorn would tell the log like of a bug."""
        try:
            if self.curr_msg_data_type == "text":
                b"".join(self.frames).decode()
        except UnicodeDecodeError:
            self.frames = []
            self.conn.send_close(1007)
            self.handle_parser_exception()
        else:
            super().send_receive_event_to_app()


class Exchange:
    """One request and its answer, for those who need neither ASGI's messages for a body that is there nor several for an answer that is."""

    __slots__ = ("cycle", "ends", "headers")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self.cycle = cycle
        self.ends = False
        """Whether what is done for it ends when its client goes."""
        self.headers: bytes | None = None
        """Those that every answer has, as they go over the wire; None: others may still add some, and it is answered by ASGI's messages."""

    @property
    def came(self) -> bool:
        """Whether all of the request's body has come."""
        return not self.cycle.more_body

    @property
    def ready(self) -> bool:
        """Whether it has come, and the client has taken all that it was answered before."""
        return not (self.cycle.more_body or self.cycle.flow.write_paused)

    @property
    def gone(self) -> bool:
        """Whether the client has gone."""
        return self.cycle.disconnected

    @property
    def body(self) -> bytearray:
        """As much of the request's body as has come."""
        return self.cycle.body

    async def taken(self) -> None:
        """Returns when the client has taken all that it was answered before, or has gone."""
        if self.cycle.flow.write_paused and not self.cycle.disconnected:
            await self.cycle.flow.drain()

    async def coming(self, bytes_max: int) -> None:
        """Returns when the body has come, has more than so many bytes, or its client has gone."""
        cycle = self.cycle
        if cycle.waiting_for_100_continue and not cycle.transport.is_closing():
            cycle.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            cycle.waiting_for_100_continue = False
        while cycle.more_body and len(cycle.body) <= bytes_max and not cycle.disconnected:
            cycle.flow.resume_reading()
            cycle.message_event.clear()
            await cycle.message_event.wait()
        # Of a connection that is not read nobody hears that it is gone.
        cycle.flow.resume_reading()

    def answer(self, status: int, head: bytes, body: bytes) -> None:
        """Sends a whole answer in one write, once the client has `taken` what came before. `head`: its headers as they go over the wire,
        `content-length` among them."""
        cycle = self.cycle
        if cycle.disconnected:
            return
        cycle.response_started = cycle.response_complete = True
        own = b"".join([part for name, value in cycle.default_headers for part in (name, b": ", value, b"\r\n")])
        end = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
        told = body if cycle.scope["method"] != "HEAD" else b""
        cycle.transport.write(b"".join((STATUS_LINE[status], own, head, end, told)))
        cycle.message_event.set()
        # The request would hold itself by us: what is not freed at once is cold when it is used again, and left to the collector.
        del cycle.scope["extensions"]
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()


def exchange_of(scope: Scope) -> Exchange | None:
    """The exchange of a request, where our server has it."""
    extensions = scope.get("extensions")
    return extensions.get(EXCHANGE) if extensions else None


def go_on(scope: Scope) -> None:
    """From now on what is done for a request is done to its end, though its client may go."""
    if (exchange := exchange_of(scope)) is not None:
        exchange.ends = False


class Closed(list[tuple[bytes, bytes]]):
    """The headers of a request whose head is over."""

    def append(self, header: tuple[bytes, bytes]) -> None:
        """What comes after a body is no header: no proxy has looked at it, and nothing says how much it is."""


class Wire(Peer, HttpToolsProtocol):
    """The protocol of one connection."""

    in_head = may_be_long = False
    """In a head, or in a piece of a body that may be its last, which trailers follow."""
    head_bytes = 0
    """Of a head that does not come in one piece, what came after the first."""
    late: asyncio.TimerHandle | None = None
    running: RequestResponseCycle | None = None
    """The request that is carried out, or was the last to be, and the task that does so."""
    task: asyncio.Task[None]

    def __init__(self, *, peers: Peers, **given: Any) -> None:
        super().__init__(**given)
        self.peers = peers

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)
        key = self.peers.key(self.client[0] if self.client else "")
        if self.peers.admit(key):
            self.key = key
            self._expect_head()
        else:
            words = "too many connections at once; try again"
            transport.write(ending(503, words, "OVERLOADED", self.peers.refused.add(), b"retry-after: 1\r\n"))
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)
        running = self.running
        if running is not None and not running.response_complete:
            # Of several requests uvicorn tells the last, which may not have begun.
            running.disconnected = True
            running.message_event.set()
            exchange = exchange_of(running.scope)  # type: ignore[arg-type]
            if exchange is not None and exchange.ends:
                self.task.cancel()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """As uvicorn does it, which tells nobody whose the task is."""
        self.running, self.task = cycle, self.loop.create_task(cycle.run_asgi(app))
        self.task.add_done_callback(self.tasks.discard)
        self.tasks.add(self.task)

    def data_received(self, data: bytes) -> None:
        further = self.in_head
        self.may_be_long = further or len(data) > HEAD_BYTES_MAX
        super().data_received(data)
        if self.in_head:
            self.head_bytes += len(data) if further else 0
            if self.head_bytes > HEAD_BYTES_MAX:
                self.send_400_response("Invalid HTTP request received.")
            elif self.late is None:
                self._expect_head()

    def on_message_begin(self) -> None:
        self.in_head, self.head_bytes = True, 0
        if self.timeout_keep_alive_task is not None:
            self._head_came()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self.in_head = False
        self._head_came()
        if self.may_be_long and len(self.url) + sum([len(name) + len(value) for name, value in self.headers]) > HEAD_BYTES_MAX:
            raise ValueError("the head of a request is too long")
        scope = self.scope
        super().on_headers_complete()
        if self.cycle is not None and self.cycle.scope is scope:
            scope["extensions"] = {EXCHANGE: Exchange(self.cycle)}  # type: ignore[dict-item]

    def on_chunk_header(self) -> None:
        self.in_head, self.head_bytes = True, -self.peers.body_bytes_max
        if type(self.headers) is list:
            self.headers = Closed(self.headers)

    def on_chunk_complete(self) -> None:
        self.in_head = False
        self._came()

    def _unset_keepalive_if_required(self) -> None:
        """Not, as uvicorn does it, whenever something comes: what is left of a body that nobody reads, or an empty line, would keep a
        connection for ever. `_head_came` does it."""

    def send_400_response(self, msg: str) -> None:
        """As uvicorn does it, which tells no id."""
        self.transport.write(ending(400, msg, "BAD_REQUEST", self.peers.unread.add()))
        self.transport.close()

    def _expect_head(self) -> None:
        self.late = self.loop.call_later(HEAD_SECONDS_MAX, self.transport.close)

    def _head_came(self) -> None:
        """Neither it nor another request is waited for."""
        self._came()
        super()._unset_keepalive_if_required()

    def _came(self) -> None:
        """What had to come in time."""
        if self.late is not None:
            self.late.cancel()
            self.late = None
