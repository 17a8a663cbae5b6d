"""HTTP/1.1 as uvicorn and httptools speak it, with a bound for the head of a request: its bytes, and the time it takes to arrive."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES_MAX = 32 * 1024
"""Of the address and the headers. A longer head is answered with 400, and its connection ends."""
HEAD_SECONDS_MAX = 10.0
"""From when it begins (of a connection's first request: from when that is made); a slower connection ends."""


class Wire(HttpToolsProtocol):
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
