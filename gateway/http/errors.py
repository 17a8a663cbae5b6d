"""HTTP error responses to requests that do not become operations: unknown routes, malformed requests, overload."""

from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Send

from gateway.http.response import send_response
from gateway.localization.messages import localize
from gateway.observability.coalesced_log import CoalescedLog


def error_body(message: str, code: str, id: str, *, is_retryable: bool = False) -> dict[str, Any]:
    """Returns the JSON of an error. `id` is that of its line in the log."""
    extensions = {"code": code, "retryable": True, "id": id} if is_retryable else {"code": code, "id": id}
    return {"errors": [{"message": message, "extensions": extensions}]}


async def send_error(send: Send, status: int, message: str, code: str, id: str, *, retry_seconds: int) -> None:
    """Sends an error, in the language of the client, to a client that may retry."""
    headers = [(b"content-type", b"application/json"), (b"retry-after", b"%d" % retry_seconds)]
    await send_response(send, status, headers, orjson.dumps(error_body(localize(code, message), code, id, is_retryable=True)))


class HTTPErrorHandler:
    """Starlette's exception handler for unknown routes and methods."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.log = CoalescedLog("requests without a route")

    async def __call__(self, request: Request, failure: Exception) -> Response:
        assert isinstance(failure, HTTPException)
        code, message = "BAD_REQUEST", f"{failure.detail}."
        if failure.status_code == 404:
            code, message = "NOT_FOUND", f"This path does not exist. GraphQL is at {self.path}."
        return JSONResponse(error_body(localize(code, message), code, self.log.add()), failure.status_code, failure.headers)
