"""What stands before every request: no more operations at once than can be borne, and the headers that keep browsers careful.

Who comes when the house is full is sent away at once, before anything is read, so that overload costs next to nothing and keeps nothing.
A body that is still on its way takes no place of those that can be carried out: slow ones are waited for before the door.
"""

import asyncio

from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.asked import BODY_SECONDS_MAX, EVENT_STREAM, JSON
from gateway.observability.coalesced_log import CoalescedLog
from gateway.overdue import Overdue
from gateway.respond import Headers, block
from gateway.wire import Exchange, exchange_of
from services.kit import ids
from services.kit.settings import Settings

RETRY_AFTER_SECONDS = 1
STREAMED = f"{EVENT_STREAM}; charset=utf-8".encode()
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
"""Of every answer that does not say otherwise."""
SECURE = {"strict-transport-security": "max-age=31536000; includeSubDomains"}
"""In production, where TLS ends at the gateway or before it."""
FULL = b'{"errors":[{"message":"too many operations at once; try again","extensions":{"code":"OVERLOADED","retryable":true,"id":"%b"}}]}'
FULL_HEADERS: Headers = [
    (b"content-type", JSON.encode()),
    (b"content-length", b"%d" % len(FULL % ids.new("opn").encode())),
    (b"retry-after", b"%d" % RETRY_AFTER_SECONDS),
]
"""All ids are equally long."""

SENT_AWAY = Counter("quanyu_graphql_sent_away_total", "Requests that came while there were too many.")


class Door:
    """An ASGI application before another: at most `operations_max` requests at once, to `path` and to all below `webhooks`. An event stream
    that begins gives its place up: it may last, and has bounds of its own. What is posted to `path` goes straight to `posted`: middleware,
    routes and exception handlers would cost as much as compiled execution does. `outermost`: nobody adds headers to an answer after us."""

    def __init__(self, app: ASGIApp, settings: Settings, path: str, posted: ASGIApp, webhooks: str, *, outermost: bool) -> None:
        self.app, self.most, self.path, self.posted, self.webhooks = app, settings.operations_max, path, posted, webhooks
        self.outermost, self.body_bytes_max, self.arriving = outermost, settings.limit_body_bytes, Overdue(BODY_SECONDS_MAX)
        headers = HEADERS | (SECURE if settings.env == "production" else {})
        self.headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self.block = block(self.headers)
        self.full = block(FULL_HEADERS) + self.block
        self.names = {name for name, _ in self.headers}
        self.inside = self.waiting = 0
        self.sent_away = CoalescedLog("operations sent away")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        inside = False

        async def sending(message: Message) -> None:
            nonlocal inside
            if message["type"] == "http.response.start":
                if inside and (b"content-type", STREAMED) in message["headers"]:
                    inside, self.inside = False, self.inside - 1
                message["headers"] = self._completed(message["headers"])
            await send(message)

        path, exchange = scope["path"], exchange_of(scope)
        if path != self.path and not path.startswith(self.webhooks):
            await self.app(scope, receive, sending)
            return
        if exchange is not None and not exchange.ready and not await self._ready(exchange, sending):
            return
        if self.inside >= self.most:
            await self._full(sending, exchange)
            return
        if exchange is not None:
            exchange.ends = path == self.path
            if self.outermost:
                exchange.headers = self.block
        inside, self.inside = True, self.inside + 1
        try:
            await (self.posted if path == self.path and scope["method"] == "POST" else self.app)(scope, receive, sending)
        except asyncio.CancelledError:
            if exchange is None or not exchange.gone:
                raise
        finally:
            self.inside -= inside

    async def _ready(self, exchange: Exchange, send: Send) -> bool:
        """Waits until the client has taken what it was answered before, which `peers.py` bounds, and for a body, for a bounded time; for
        as many at once as there are places. Whether there is something left to do for it."""
        await exchange.taken()
        if exchange.gone or exchange.came:
            return not exchange.gone
        if self.inside >= self.most or self.waiting >= self.most:
            await self._full(send, exchange)
            return False
        self.waiting += 1
        try:
            await self.arriving.within(exchange.coming(self.body_bytes_max))
        except TimeoutError:
            pass  # whoever reads it says so
        finally:
            self.waiting -= 1
        return not exchange.gone

    def _completed(self, headers: Headers) -> Headers:
        """With those that are not given."""
        given = self.names & {name for name, _ in headers}
        return [*headers, *(each for each in self.headers if each[0] not in given)] if given else [*headers, *self.headers]

    async def _full(self, send: Send, exchange: Exchange | None) -> None:
        SENT_AWAY.inc()
        body = FULL % self.sent_away.add().encode()
        if exchange is not None and self.outermost:
            await exchange.taken()
            exchange.answer(503, self.full, body)
            return
        await send({"type": "http.response.start", "status": 503, "headers": [*FULL_HEADERS]})
        await send({"type": "http.response.body", "body": body})
