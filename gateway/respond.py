"""An answer as a response of HTTP."""

from starlette.types import Receive, Scope, Send

from gateway.asked import GRAPHQL, JSON
from gateway.operations import Answer
from gateway.wire import exchange_of

Headers = list[tuple[bytes, bytes]]
MEDIA = {media: f"{media}; charset=utf-8".encode() for media in (GRAPHQL, JSON)}
MORE: dict[int, Headers] = {401: [(b"www-authenticate", b"Bearer")], 405: [(b"allow", b"POST")]}


class Whole:
    """A response whose body is there: what Starlette's own does, without its headers' way into an object and out of it again."""

    __slots__ = ("body", "headers", "status_code")

    def __init__(self, body: bytes, status_code: int, headers: Headers) -> None:
        self.body, self.status_code, self.headers = body, status_code, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        if exchange is not None and exchange.headers is not None:
            if not exchange.ready:
                await exchange.taken()
            exchange.answer(self.status_code, block(self.headers) + exchange.headers, self.body)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})


def block(headers: Headers) -> bytes:
    """Headers as they go over the wire."""
    return b"".join([b"%b: %b\r\n" % each for each in headers])


def respond(answer: Answer, media: str) -> Whole:
    """The answer in that media type; with `application/json`, what is wrong with a document or its variables is 200."""
    status = answer.status
    if media == JSON and status == 400 and answer.operation != "none":
        status = 200
    headers = [(b"content-type", MEDIA[media]), (b"content-length", b"%d" % len(answer.body))]
    if answer.retry_seconds:
        headers.append((b"retry-after", b"%d" % answer.retry_seconds))
    elif status in MORE:
        headers += MORE[status]
    return Whole(answer.body, status, headers)
