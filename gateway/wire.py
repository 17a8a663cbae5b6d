"""HTTP/1.1 and WebSockets as uvicorn speaks them, with bounds of ours: for the head of a request, its bytes and the time it takes to
arrive, and for how long a client may take nothing of what it is sent."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

HEAD_BYTES_MAX = 32 * 1024
"""Of the address and the headers. A longer head is answered with 400, and its connection ends."""
HEAD_SECONDS_MAX = 10.0
"""From when it begins (of a connection's first request: from when that is made); a slower connection ends."""
STALL_SECONDS_MAX = 20.0
"""For which a client may take nothing of what it is sent; then it is cut off. Closing the connection would wait for it to take the rest."""


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
        if self.transport.get_write_buffer_size() < waited:
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


class Wire(Unstalled, HttpToolsProtocol):
    """The protocol of one connection."""

    head_bytes = 0
    late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self.head_bytes = 0
        if self.late is None:
            self._expect_head()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_came()
        super().on_headers_complete()

    def _count(self, more: int) -> None:
        self.head_bytes += more
        if self.head_bytes > HEAD_BYTES_MAX:
            raise ValueError("the head of a request is too long")

    def _expect_head(self) -> None:
        self.late = self.loop.call_later(HEAD_SECONDS_MAX, self.transport.close)

    def _head_came(self) -> None:
        if self.late is not None:
            self.late.cancel()
            self.late = None
