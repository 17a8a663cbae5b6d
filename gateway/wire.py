"""HTTP/1.1 and WebSockets as uvicorn speaks them, with bounds of ours: for the head of a request, its bytes and the time it takes to
arrive, and for how slowly a client may take what it is sent."""

import asyncio

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

HEAD_BYTES_MAX = 32 * 1024
"""Of the address and the headers. A longer head is answered with 400, and its connection ends."""
HEAD_SECONDS_MAX = 10.0
"""From when it begins (of a connection's first request: from when that is made); a slower connection ends."""
STALL_SECONDS_MAX = 20.0
STALL_BYTES_MIN = 64 * 1024
"""A client that takes less in that time of what waits for it is cut off. Closing the connection would wait for it to take the rest."""
EXCHANGE = "quanyu.exchange"
"""The extension of an ASGI scope that is an `Exchange`; a server that is not ours has none."""


class Unstalled(asyncio.Protocol):
    """What both protocols do while a client is slow to take what waits for it."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    stalling: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look_again()

    def resume_writing(self) -> None:
        self._moved()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._moved()
        super().connection_lost(exc)

    def _look_again(self) -> None:
        self.stalling = self.loop.call_later(STALL_SECONDS_MAX, self._cut_off, self.transport.get_write_buffer_size())

    def _cut_off(self, waited: int) -> None:
        if self.transport.get_write_buffer_size() <= waited - STALL_BYTES_MIN:
            self._look_again()
        else:
            self.transport.abort()

    def _moved(self) -> None:
        if self.stalling is not None:
            self.stalling.cancel()
            self.stalling = None


class Socket(Unstalled, WebSocketsSansIOProtocol):
    """The protocol of one WebSocket. Nothing is sent before what was sent is taken, so that a stall is seen at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=0)

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

    __slots__ = ("cycle",)

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self.cycle = cycle

    @property
    def came(self) -> bool:
        """Whether all of the request's body has come."""
        return not self.cycle.more_body

    @property
    def gone(self) -> bool:
        """Whether the client has gone."""
        return self.cycle.disconnected

    @property
    def body(self) -> bytearray:
        """As much of the request's body as has come."""
        return self.cycle.body

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

    async def answer(self, status: int, head: bytes, body: bytes) -> None:
        """Sends a whole answer in one write. `head`: its headers as they go over the wire, `content-length` among them."""
        cycle = self.cycle
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if cycle.disconnected:
            return
        cycle.response_started = cycle.response_complete = True
        own = b"".join([part for name, value in cycle.default_headers for part in (name, b": ", value, b"\r\n")])
        end = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
        cycle.transport.write(b"".join((STATUS_LINE[status], own, head, end, body)))
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()


def exchange_of(scope: Scope) -> Exchange | None:
    """The exchange of a request, where our server has it."""
    extensions = scope.get("extensions")
    return extensions.get(EXCHANGE) if extensions else None


class Wire(Unstalled, HttpToolsProtocol):
    """The protocol of one connection."""

    in_head = False
    head_bytes = 0
    """Of a head that does not come in one piece, what came after the first."""
    late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        further = self.in_head
        super().data_received(data)
        if self.in_head:
            self.head_bytes += len(data) if further else 0
            if self.head_bytes > HEAD_BYTES_MAX:
                self.send_400_response("Invalid HTTP request received.")
            elif self.late is None:
                self._expect_head()

    def on_message_begin(self) -> None:
        self.in_head, self.head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self.in_head = False
        self._head_came()
        if len(self.url) + sum([len(name) + len(value) for name, value in self.headers]) > HEAD_BYTES_MAX:
            raise ValueError("the head of a request is too long")
        scope = self.scope
        super().on_headers_complete()
        if self.cycle is not None and self.cycle.scope is scope:
            scope["extensions"] = {EXCHANGE: Exchange(self.cycle)}  # type: ignore[dict-item]

    def _expect_head(self) -> None:
        self.late = self.loop.call_later(HEAD_SECONDS_MAX, self.transport.close)

    def _head_came(self) -> None:
        if self.late is not None:
            self.late.cancel()
            self.late = None
