"""Webhooks: notices of other systems, forwarded unchanged to the service that verifies them.

    POST /webhooks/<owner>/<sender>     signed by Standard Webhooks (https://www.standardwebhooks.com)

They have the limits of GraphQL requests: bytes, time, concurrent operations, concurrent calls of one service, and requests of an address.
A 2xx means that the notice is accepted; after any other status the sender may retry, or learns that a retry is useless.
"""

import math
import time
from collections.abc import Callable

import orjson
from google.protobuf.message import Message
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from gateway.auth.sessions import ANONYMOUS, GATEWAY
from gateway.execution import error_formatting
from gateway.execution.context import Context
from gateway.execution.pipeline import OperationPipeline, OperationResult, error_result
from gateway.execution.request import BadRequest
from gateway.http.request import JSON, RequestParser
from gateway.http.response import send_result
from gateway.observability.operation_log import OperationRecord
from gateway.rpc.clients import acting_as
from quanyu.commerce.v1.orders_pb2 import TakePaymentNoticeRequest
from services.kit.errors import Conflict, Denied, Exhausted, Invalid, NotFound, Refusal
from services.kit.observability import telemetry

WEBHOOK = "webhook"
OWNERS: dict[str, Callable[..., Message]] = {"payments": TakePaymentNoticeRequest}
"""The rpc that accepts the notices of an owner. Each takes `request_id`, `sender`, `timestamp`, `signature` and `body`."""
HEADERS = {"request_id": "webhook-id", "timestamp": "webhook-timestamp", "signature": "webhook-signature"}
STATUS: dict[type[Refusal], int] = {Invalid: 400, Denied: 401, NotFound: 404, Conflict: 409, Exhausted: 429}
"""The status of a refused notice, by the kind of refusal; 503 for all others."""


class Webhooks:
    """ASGI application of `/webhooks`."""

    def __init__(self, operations: OperationPipeline, parser: RequestParser) -> None:
        self.operations, self.parser = operations, parser

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, started, id = Request(scope, receive), time.perf_counter(), self.operations.begin()
        with telemetry.start_span(WEBHOOK, request.headers) as span:
            span.set_attribute("quanyu.operation_id", id)
            result = await self.operations.attempt(self._forward(request))
        seconds = time.perf_counter() - started
        self.operations.log.add(OperationRecord(id, WEBHOOK, result.status, result.errors, result.calls, seconds))
        await send_result(send, result, JSON)

    async def _forward(self, request: Request) -> OperationResult:
        self.operations.rates.admit_address(request.client.host if request.client is not None else "")
        request_type = OWNERS.get(request.path_params["owner"])
        if request_type is None:
            return error_result(BadRequest(404, f"This path does not exist. The owner must be one of {', '.join(OWNERS)}."))
        signed = {name: request.headers.get(header, "") for name, header in HEADERS.items()}
        if missing := [HEADERS[name] for name, value in signed.items() if not value]:
            return error_result(BadRequest(401, f"The request must have the headers {', '.join(missing)}."))
        notice = request_type(sender=request.path_params["sender"], body=await self.parser.read_body(request.receive), **signed)
        try:
            with acting_as(GATEWAY):
                await Context(ANONYMOUS, self.operations.clients).call(notice)
        except Refusal as refusal:
            return _refusal_result(refusal)
        return OperationResult(200, b"{}", errors=0, calls=1)


def _refusal_result(refusal: Refusal) -> OperationResult:
    status = next((status for kind, status in STATUS.items() if isinstance(refusal, kind)), 503)
    seconds = math.ceil(refusal.retry_after.total_seconds()) if refusal.retry_after is not None else int(status in (429, 503))
    body = orjson.dumps(error_formatting.add_operation_id({"code": refusal.reason, "message": error_formatting.refusal_message(refusal)}))
    return OperationResult(status, body, calls=1, retry_seconds=seconds)
