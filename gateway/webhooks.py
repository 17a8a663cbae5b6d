"""The HTTP beside the graph: notices that outside systems send of their own accord, handed over as they came to whoever verifies them.

    POST /webhooks/<owner>/<sender>     signed by Standard Webhooks (https://www.standardwebhooks.com)

They stand under the bounds of the graph: bytes, time, operations at once, those of them that wait for one service, and requests of an
address. Any 2xx tells the sender that the notice was heard; anything else that it should come again, or why that is of no use.
"""

import math
import time
from collections.abc import Callable

import orjson
from google.protobuf.message import Message
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from gateway import errors
from gateway.asked import JSON, BadRequest, Reader
from gateway.auth.sessions import ANONYMOUS, GATEWAY
from gateway.context import Context
from gateway.observability.operation_log import OperationRecord
from gateway.operations import Answer, Operations, told
from gateway.respond import respond
from gateway.rpc.clients import acting_as
from quanyu.commerce.v1.orders_pb2 import TakePaymentNoticeRequest
from services.kit.errors import Conflict, Denied, Exhausted, Invalid, NotFound, Refusal
from services.kit.observability import telemetry

WEBHOOK = "webhook"
OWNERS: dict[str, Callable[..., Message]] = {"payments": TakePaymentNoticeRequest}
"""The rpcs that hear them. Each takes `request_id`, `sender`, `timestamp`, `signature` and `body`."""
HEADERS = {"request_id": "webhook-id", "timestamp": "webhook-timestamp", "signature": "webhook-signature"}
STATUS: dict[type[Refusal], int] = {Invalid: 400, Denied: 401, NotFound: 404, Conflict: 409, Exhausted: 429}
"""Of what refuses a notice; of all else 503."""


class Webhooks:
    """The ASGI application of all of them."""

    def __init__(self, operations: Operations, reader: Reader) -> None:
        self.operations, self.reader = operations, reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one notice."""
        request, started, id = Request(scope, receive), time.perf_counter(), self.operations.begin()
        with telemetry.span(WEBHOOK, request.headers) as span:
            span.set_attribute("quanyu.operation_id", id)
            answer = await self.operations.answered(self._heard(request))
        seconds = time.perf_counter() - started
        self.operations.log.add(OperationRecord(id, WEBHOOK, answer.status, answer.errors, answer.calls, seconds))
        await respond(answer, JSON)(scope, receive, send)

    async def _heard(self, request: Request) -> Answer:
        self.operations.rates.admit_address(request.client.host if request.client is not None else "")
        hear = OWNERS.get(request.path_params["owner"])
        if hear is None:
            return told(BadRequest(404, f"notices are of {', '.join(OWNERS)}"))
        signed = {name: request.headers.get(header, "") for name, header in HEADERS.items()}
        if missing := [HEADERS[name] for name, value in signed.items() if not value]:
            return told(BadRequest(401, f"send the headers {', '.join(missing)}"))
        notice = hear(sender=request.path_params["sender"], body=await self.reader.body(request), **signed)
        try:
            with acting_as(GATEWAY):
                await Context(ANONYMOUS, self.operations.clients).call(notice)
        except Refusal as refusal:
            return _refused(refusal)
        return Answer(200, b"{}", errors=0, calls=1)


def _refused(refusal: Refusal) -> Answer:
    status = next((status for kind, status in STATUS.items() if isinstance(refusal, kind)), 503)
    seconds = math.ceil(refusal.retry_after.total_seconds()) if refusal.retry_after is not None else int(status in (429, 503))
    body = orjson.dumps(errors.identified({"code": refusal.reason, "message": refusal.message}))
    return Answer(status, body, calls=1, retry_seconds=seconds)
