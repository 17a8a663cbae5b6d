"""ASGI middleware: adds headers for browsers to every response that does not set them itself."""

from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
PRODUCTION_HEADERS = {"strict-transport-security": "max-age=31536000; includeSubDomains"}
"""These headers are added only in production, where a proxy terminates TLS in front of the gateway."""


class SecurityHeadersMiddleware:
    """Adds `HEADERS`, and in production also `PRODUCTION_HEADERS`."""

    def __init__(self, app: ASGIApp, *, is_production: bool) -> None:
        self.app = app
        headers = HEADERS | (PRODUCTION_HEADERS if is_production else {})
        self.headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self.names = {name for name, _ in self.headers}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self.app(scope, receive, send)

        def send_with_headers(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                headers = message["headers"]
                own = self.names.intersection([name for name, _ in headers])
                message["headers"] = [*headers, *([each for each in self.headers if each[0] not in own] if own else self.headers)]
            return send(message)

        return self.app(scope, receive, send_with_headers)
