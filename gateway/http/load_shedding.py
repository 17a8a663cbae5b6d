"""ASGI middleware: sheds load with 503 above a number of concurrent operations.

The body of a request is buffered before the request takes a slot, and the slot is free when the response starts: a slow client holds none.
A request above the limit is rejected at once, before its route or token is read.
"""

from collections.abc import Awaitable

from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.http.errors import send_error
from gateway.limits.concurrency import OVERLOADED, ConcurrencyLimiter
from gateway.observability.coalesced_log import CoalescedLog
from services.kit.errors import Overloaded

RETRY_AFTER_SECONDS = 1
"""A rejected client may retry after this time."""
INCOMPLETE_BYTES_MAX = 64 * 1024 * 1024
"""The incomplete bodies of one process may take this many bytes together."""

SHED = Counter("quanyu_graphql_shed_total", "Requests rejected because of too many concurrent operations.")


class LoadSheddingMiddleware:
    """Limits the concurrent requests to `path` and below `prefix` by `slots`. A body above `body_bytes_max` is passed on
    truncated, and the parser rejects it."""

    def __init__(self, app: ASGIApp, *, slots: ConcurrencyLimiter, path: str, prefix: str, body_bytes_max: int) -> None:
        self.app, self.slots, self.path, self.prefix, self.body_bytes_max = app, slots, path, prefix, body_bytes_max
        self.incomplete_bytes = 0
        self.log = CoalescedLog("operations shed")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not (scope["path"] == self.path or scope["path"].startswith(self.prefix)):
            await self.app(scope, receive, send)
            return
        try:
            request = await receive()
            if request.get("more_body"):
                request = await self._buffer(request, receive)
            if request["type"] == "http.disconnect":
                return
            self.slots.acquire()
        except Overloaded as refusal:
            SHED.inc()
            await send_error(send, 503, refusal.message, refusal.reason, self.log.add(), retry_seconds=RETRY_AFTER_SECONDS)
            return
        has_slot, buffered = True, [request]

        async def receive_buffered() -> Message:
            return buffered.pop() if buffered else await receive()

        def send_and_release(message: Message) -> Awaitable[None]:
            nonlocal has_slot
            if has_slot:
                has_slot = False
                self.slots.release()
            return send(message)

        try:
            await self.app(scope, receive_buffered, send_and_release)
        finally:
            if has_slot:
                self.slots.release()

    async def _buffer(self, message: Message, receive: Receive) -> Message:
        """Returns the request with its body, or the disconnect of its client. Raises `Overloaded`."""
        body, counted_bytes = bytearray(), 0
        try:
            while message["type"] == "http.request":
                body += message.get("body", b"")
                if not message.get("more_body") or len(body) > self.body_bytes_max:
                    return {"type": "http.request", "body": bytes(body), "more_body": False}
                self.incomplete_bytes += len(body) - counted_bytes
                counted_bytes = len(body)
                if self.incomplete_bytes > INCOMPLETE_BYTES_MAX:
                    raise Overloaded(OVERLOADED, "Too many requests at once. Retry later.")
                message = await receive()
            return message
        finally:
            self.incomplete_bytes -= counted_bytes
