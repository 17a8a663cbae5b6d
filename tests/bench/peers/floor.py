"""Floor of the gateway's bench: the three pages written by hand with Starlette, grpc.aio and orjson.

It makes the calls of the gateway, with a deadline and a principal that is signed once. It verifies no token, and counts, limits and
logs nothing. `kit` uses the kit's channel, `plain` the channel of grpc.aio, which costs more.

python -m tests.bench.peers.floor ADDRESS_OF_SERVICES kit|plain     prints its address
"""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import orjson
import uvicorn
import uvloop
from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.graph.common import format_amount
from gateway.schema.types import format_timestamp
from quanyu.commerce.v1 import catalog_pb2, catalog_pb2_grpc, orders_pb2, orders_pb2_grpc
from quanyu.common.v1.page_pb2 import PageRequest
from quanyu.member.v1 import identity_pb2, identity_pb2_grpc
from services.kit.rpc.channel import open_unsigned_channel
from services.kit.security.authorization import METADATA_KEY
from services.kit.security.principals import Grant, Principal, Signer
from services.local.keys import new_keys
from tests.bench.peers.services import CONSUMER

DEADLINE_SECONDS = 10.0
STATES = {value.number: value.name.removeprefix("ORDER_STATE_") for value in orders_pb2.OrderState.DESCRIPTOR.values}


def money(value: Any) -> dict[str, Any]:
    return {"amount": format_amount(value), "currency": value.currency}


def offer(value: Any) -> dict[str, Any]:
    return {
        "id": value.id,
        "category": value.category,
        "name": {"zh": value.name.zh, "en": value.name.en},
        "priceFrom": money(value.price_from),
    }


def good(value: Any) -> dict[str, Any]:
    attributes = [{"name": name, "value": text} for name, text in sorted(value.attributes.items())]
    return {"variantId": value.variant_id, "price": money(value.price), "attributes": attributes}


def page(value: Any) -> dict[str, Any]:
    return {"endCursor": value.end_cursor, "hasNextPage": value.has_next_page}


def order(value: Any, offers: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": value.id,
        "state": STATES[value.state],
        "placedAt": format_timestamp(value.placed_at),
        "total": money(value.total),
        "lines": [{"quantity": line.quantity, "paid": money(line.paid), "offer": offers.get(line.offer_id)} for line in value.lines],
    }


def respond(data: Any) -> Response:
    return Response(orjson.dumps({"data": data}), media_type="application/json")


def build(address: str, way: str) -> Starlette:
    """Builds the application."""
    stubs: dict[str, Any] = {}

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with open_unsigned_channel(address) if way == "kit" else grpc.aio.insecure_channel(address) as channel:
            stubs["catalog"] = catalog_pb2_grpc.CatalogServiceStub(channel)
            stubs["orders"] = orders_pb2_grpc.OrderServiceStub(channel)
            stubs["consumers"] = identity_pb2_grpc.IdentityServiceStub(channel)
            yield

    principal = Principal(CONSUMER, (Grant("ROLE_CONSUMER", "SCOPE_KIND_CONSUMER", CONSUMER),))
    keys = new_keys()
    token = Signer("gateway", keys.signing_setting("gateway")).sign("commerce", principal)

    async def call(service: str, rpc: str, request: Message) -> Any:
        return await getattr(stubs[service], rpc)(request, timeout=DEADLINE_SECONDS, metadata=[(METADATA_KEY, token)])

    async def one(request: Request) -> Response:
        variables = orjson.loads(await request.body())["variables"]
        found = await call("catalog", "BatchGetOffers", catalog_pb2.BatchGetOffersRequest(ids=[variables["id"]]))
        return respond({"offer": offer(found.offers[0]) if found.offers else None})

    async def many(request: Request) -> Response:
        variables = orjson.loads(await request.body())["variables"]
        found = await call("catalog", "SearchOffers", catalog_pb2.SearchOffersRequest(page=PageRequest(first=variables["first"])))
        nodes = [{**offer(each), "goods": [good(one) for one in each.goods]} for each in found.offers]
        return respond({"offers": {"nodes": nodes, "pageInfo": page(found.page)}})

    async def orders(request: Request) -> Response:
        variables = orjson.loads(await request.body())["variables"]
        list_request = orders_pb2.ListOrdersRequest(consumer_id=variables["id"], page=PageRequest(first=variables["first"]))
        consumers, listed = await asyncio.gather(
            call("consumers", "BatchGetConsumers", identity_pb2.BatchGetConsumersRequest(ids=[variables["id"]])),
            call("orders", "ListOrders", list_request),
        )
        ids = {line.offer_id: None for each in listed.orders for line in each.lines}
        found = await call("catalog", "BatchGetOffers", catalog_pb2.BatchGetOffersRequest(ids=list(ids)))
        offers = {each.id: offer(each) for each in found.offers}
        consumer = consumers.consumers[0]
        nodes = [order(each, offers) for each in listed.orders]
        fields = {"id": consumer.id, "displayName": consumer.display_name}
        return respond({"consumer": fields, "orders": {"nodes": nodes, "pageInfo": page(listed.page)}})

    routes = [Route(f"/{path}", endpoint, methods=["POST"]) for path, endpoint in (("one", one), ("page", many), ("orders", orders))]
    return Starlette(routes=routes, lifespan=lifespan)


def main(address: str, way: str) -> None:
    """Serves until the process is killed."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        sys.stdout.write("{}:{}\n".format(*listening.getsockname()[:2]))
        sys.stdout.flush()
        config = uvicorn.Config(build(address, way), http="httptools", ws="none", log_config=None, access_log=False, server_header=False)
        uvloop.run(uvicorn.Server(config).serve([listening]))


if __name__ == "__main__":
    main(*sys.argv[1:])
