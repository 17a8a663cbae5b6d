"""Import requests: the rpc of each file, and the request of a batch of its items."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.message import Message
from msgspec import Struct

from quanyu.commerce.v1 import catalog_pb2, catalog_pb2_grpc, orders_pb2, orders_pb2_grpc, stock_pb2, stock_pb2_grpc
from quanyu.member.v1 import identity_pb2, identity_pb2_grpc, outreach_pb2, outreach_pb2_grpc
from quanyu.organization.v1 import chart_pb2, chart_pb2_grpc
from services.kit.errors import Refusal

Channels = Mapping[str, grpc.aio.Channel]
Rejected = Sequence[tuple[int, str, str]]
"""The index in the batch, the reason code and the message of each rejected item."""


class Target(Struct, frozen=True):
    """The destination of a file: `send(channels, group, messages, request_id)` returns the rejected items, of at most `batch` per call.

    `alone` allows one batch in flight, because a batch may depend on the one before.
    """

    batch: int
    send: Callable[[Channels, str, Sequence[Message], str], Awaitable[Rejected]]
    alone: bool = False


def request_id(attempt: str, group: str, messages: Sequence[Message]) -> str:
    """Returns the request id of a batch: a hash of attempt and content, so that a repeat within the attempt is recognised."""
    digest = hashlib.sha256(f"{attempt} {group}".encode())
    for message in messages:
        digest.update(message.SerializeToString(deterministic=True))
    return f"import:{digest.hexdigest()}"


def _sender(service: str, stub: Callable[[grpc.aio.Channel], Any], rpc: str, request: Callable[..., Message], field: str) -> Any:
    """Returns a sender whose request holds the items in `field` and whose response names rejects by index."""

    async def send(channels: Channels, group: str, messages: Sequence[Message], id: str) -> Rejected:
        named = {"brand_id": group} if group else {}
        answer = await getattr(stub(channels[service]), rpc)(request(request_id=id, **{field: messages}, **named))
        return [(reject.index, reject.reason, reject.message) for reject in answer.rejects]

    return send


async def _send_org_units(channels: Channels, group: str, messages: Sequence[Message], id: str) -> Rejected:
    """Creates org units one by one, since each may be the parent of the next. Existing ones are left as they are."""
    stub: Any = chart_pb2_grpc.ChartServiceStub(channels["organization"])
    rejected = []
    for index, message in enumerate(messages):
        request = chart_pb2.CreateOrgUnitRequest()
        request.CopyFrom(message)  # type: ignore[arg-type]
        request.request_id = f"{id}:{index}"
        try:
            await stub.CreateOrgUnit(request)
        except Refusal as refusal:
            if refusal.reason != "ORG_UNIT_EXISTS":
                if refusal.retryable:
                    raise
                rejected.append((index, refusal.reason, refusal.message))
    return rejected


CHART, CATALOG, STOCK = chart_pb2_grpc.ChartServiceStub, catalog_pb2_grpc.CatalogServiceStub, stock_pb2_grpc.StockServiceStub
TARGETS: Mapping[str, Target] = {
    "brands": Target(500, _sender("organization", CHART, "ImportBrands", chart_pb2.ImportBrandsRequest, "rows")),
    "org_units": Target(100, _send_org_units, alone=True),
    "stores": Target(500, _sender("organization", CHART, "ImportStores", chart_pb2.ImportStoresRequest, "rows")),
    "staff": Target(500, _sender("organization", CHART, "ImportStaff", chart_pb2.ImportStaffRequest, "rows")),
    "products": Target(500, _sender("commerce", CATALOG, "ImportProducts", catalog_pb2.ImportProductsRequest, "products")),
    "stock": Target(500, _sender("commerce", STOCK, "ImportStock", stock_pb2.ImportStockRequest, "rows")),
    "consumers": Target(
        100, _sender("member", identity_pb2_grpc.IdentityServiceStub, "ImportConsumers", identity_pb2.ImportConsumersRequest, "consumers")
    ),
    "bindings": Target(
        500, _sender("member", outreach_pb2_grpc.OutreachServiceStub, "ImportBindings", outreach_pb2.ImportBindingsRequest, "bindings")
    ),
    "orders": Target(400, _sender("commerce", orders_pb2_grpc.OrderServiceStub, "ImportOrders", orders_pb2.ImportOrdersRequest, "orders")),
}

RETRIES = 8
RETRY_SECONDS_MAX = 5.0


async def call_with_retries(call: Callable[[], Awaitable[Rejected]]) -> Rejected:
    """Repeats a call with growing delays while its refusal is retryable."""
    for attempt in range(RETRIES):
        try:
            return await call()
        except Refusal as refusal:
            if not refusal.retryable or attempt == RETRIES - 1:
                raise
            await asyncio.sleep(min(RETRY_SECONDS_MAX, 0.1 * 2**attempt))
    raise AssertionError("the last attempt returns or raises")
