"""An answer as a response of HTTP."""

from starlette.responses import Response

from gateway.asked import JSON
from gateway.operations import Answer

HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 405: {"Allow": "POST"}}


def respond(answer: Answer, media: str) -> Response:
    """The answer in that media type; with `application/json`, what is wrong with a document or its variables is 200."""
    status = answer.status
    if media == JSON and status == 400 and answer.operation != "none":
        status = 200
    headers = {"Retry-After": str(answer.retry_seconds)} if answer.retry_seconds else HEADERS.get(status)
    return Response(answer.body, status, headers, f"{media}; charset=utf-8")
