"""ASGI middleware: keeps the headers of a request, in which `localization/` finds the language of the messages for its client."""

from collections.abc import Awaitable

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.localization.language import request_headers


class LanguageMiddleware:
    """Sets `request_headers` for HTTP requests and WebSockets."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "lifespan":
            request_headers.set(scope["headers"])
        return self.app(scope, receive, send)
