"""What stands before every request: no more operations at once than can be borne, and the headers that keep browsers careful.

Who comes when the house is full is sent away at once, before anything is read, so that overload costs next to nothing and keeps nothing.
"""

from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.asked import EVENT_STREAM, JSON
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
FULL = b'{"errors":[{"message":"too many operations at once; try again","extensions":{"code":"OVERLOADED","retryable":true}}]}'

SENT_AWAY = Counter("quanyu_graphql_sent_away_total", "Requests that came while there were too many.")


Headers = list[tuple[bytes, bytes]]


class Door:
    """ASGI middleware: at most `operations_max` requests at once, to `path` and to all below `webhooks`. An event stream that begins gives
    its place up: it may last, and has bounds of its own. What is posted to `path` goes straight to `posted`: routes and their exception
    handlers would cost as much as compiled execution does."""

    def __init__(self, app: ASGIApp, settings: Settings, path: str, posted: ASGIApp, webhooks: str) -> None:
        self.app, self.most, self.path, self.posted, self.webhooks = app, settings.operations_max, path, posted, webhooks
        headers = HEADERS | (SECURE if settings.env == "production" else {})
        self.headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self.names = {name for name, _ in self.headers}
        self.inside = 0

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

        path = scope["path"]
        if path != self.path and not path.startswith(self.webhooks):
            await self.app(scope, receive, sending)
        elif self.inside >= self.most:
            await self._full(sending)
        else:
            inside, self.inside = True, self.inside + 1
            try:
                await (self.posted if path == self.path and scope["method"] == "POST" else self.app)(scope, receive, sending)
            finally:
                self.inside -= inside

    def _completed(self, headers: Headers) -> Headers:
        """With those that are not given."""
        given = self.names & {name for name, _ in headers}
        return [*headers, *(each for each in self.headers if each[0] not in given)] if given else [*headers, *self.headers]

    async def _full(self, send: Send) -> None:
        SENT_AWAY.inc()
        told = {"content-type": JSON, "content-length": str(len(FULL)), "retry-after": str(RETRY_AFTER_SECONDS)}
        headers = [(name.encode(), value.encode()) for name, value in told.items()]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": FULL})
