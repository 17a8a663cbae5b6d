"""uvicorn's protocols of HTTP/1.1 and WebSockets, with limits on the bytes and the time of requests and responses."""

import asyncio
from http import HTTPStatus
from typing import Any

import orjson
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gateway.http.connection_limits import ConnectionLimits, LimitedConnection
from gateway.http.errors import error_body

HEAD_BYTES_MAX = 32 * 1024
"""The request line and the headers of a request may have this many bytes; a longer head is answered with 400."""
REQUEST_SECONDS_MAX = 10.0
"""A request must arrive completely within this time from its first byte; the first one, from the start of its connection."""
CLIENT = "client_connection"
"""The key of the `ClientConnection` in the state of an ASGI scope."""


class ClientConnection:
    """The task of a connection that is cancelled when the client disconnects."""

    __slots__ = ("is_lost", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[Any] | None = None
        self.is_lost = False

    def lose(self) -> None:
        """Cancels the task, because the client has disconnected."""
        self.is_lost = True
        if self.task is not None:
            self.task.cancel()


def client_connection(scope: Scope) -> ClientConnection:
    """Returns the connection of a request. Under another server, it is one that is never lost."""
    return scope.get("state", {}).get(CLIENT) or ClientConnection()


# uvicorn has no settings for these limits, so the protocols override and read undocumented attributes.
# `test_uvicorn_has_what_our_protocols_use` lists these names and fails by name when a new version lacks one.
class BoundedHttpProtocol(LimitedConnection, HttpToolsProtocol):
    """HTTP/1.1: limits the connections of an address, the bytes of a head, and the time in which a request arrives."""

    head_bytes = read_bytes = 0
    """Bytes received since the last part of a body, and bytes of the last read."""
    arrival_timer: asyncio.TimerHandle | None = None

    def __init__(self, *, limits: ConnectionLimits, **options: Any) -> None:
        super().__init__(**options)
        self.limits, self.connection = limits, ClientConnection()
        self.app_state = self.app_state | {CLIENT: self.connection}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)
        if self.acquire_slot():
            self._start_arrival_timer()
        else:
            id = self.limits.rejected.add()
            self._reject(503, "Too many connections at once. Retry later.", "OVERLOADED", id, b"retry-after: 1\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_arrival_timer()
        super().connection_lost(exc)
        self.connection.lose()

    def data_received(self, data: bytes) -> None:
        self.read_bytes = len(data)
        self.head_bytes += self.read_bytes
        super().data_received(data)
        if self.key is None or self.transport.is_closing():
            return
        if self.head_bytes > HEAD_BYTES_MAX:
            self.send_400_response(f"The head of the request must have at most {HEAD_BYTES_MAX} bytes.")
        elif self.arrival_timer is None and (self.cycle is None or self.cycle.response_complete or self.cycle.more_body):
            self._start_arrival_timer()

    def on_headers_complete(self) -> None:
        # The received bytes may also contain bodies and other requests.
        if max(self.head_bytes, self.read_bytes) > HEAD_BYTES_MAX and self._parsed_bytes() > HEAD_BYTES_MAX:
            raise ValueError("head too long")
        # uvicorn appends trailers to its list of headers, where they would be read as headers.
        self.scope["headers"] = [*self.headers]
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self.head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.head_bytes = 0
        self._stop_arrival_timer()
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        # The WebSocket protocol would wait forever for a handshake with a body.
        if any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers):
            self.send_400_response("A WebSocket handshake must have no body.")
            return
        self._stop_arrival_timer()
        self.release_slot()
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """Rejects a malformed request. uvicorn's own response is a text without an id."""
        self._reject(400, msg, "BAD_REQUEST", self.limits.malformed.add())

    def _parsed_bytes(self) -> int:
        return len(self.url) + sum([len(name) + len(value) for name, value in self.headers])

    def _reject(self, status: int, message: str, code: str, id: str, headers: bytes = b"") -> None:
        body = orjson.dumps(error_body(message, code, id))
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode()) + headers + head + body)
        self.transport.close()

    def _start_arrival_timer(self) -> None:
        self.arrival_timer = self.loop.call_later(REQUEST_SECONDS_MAX, self._end_arrival)

    def _stop_arrival_timer(self) -> None:
        if self.arrival_timer is not None:
            self.arrival_timer.cancel()
            self.arrival_timer = None

    def _end_arrival(self) -> None:
        if self.pipeline:  # uvicorn does not read while an earlier request is executed
            self._start_arrival_timer()
            return
        if self.cycle is not None and self.cycle.more_body and not self.cycle.response_started:
            self._reject(
                408,
                f"The body did not arrive within {REQUEST_SECONDS_MAX:g} seconds. Send it again.",
                "BAD_REQUEST",
                self.limits.malformed.add(),
            )
        self.transport.close()


class BoundedWebSocketProtocol(LimitedConnection, WebSocketsSansIOProtocol):
    """WebSockets: takes over the connection of the handshake and its slot."""

    unsent_pong = b""
    """Answers the last ping of a client that does not read."""

    def __init__(self, *, limits: ConnectionLimits, **options: Any) -> None:
        super().__init__(**options)
        self.limits = limits

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.acquire_slot()

    def handle_ping(self) -> None:
        """Answers a ping. While the client does not read, it answers the last one only, as RFC 6455 allows."""
        if self.writable.is_set():
            super().handle_ping()
        elif pongs := self.conn.data_to_send():
            self.unsent_pong = pongs[-1]

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.unsent_pong and not self.close_sent:
            pong, self.unsent_pong = self.unsent_pong, b""
            self.transport.write(pong)
