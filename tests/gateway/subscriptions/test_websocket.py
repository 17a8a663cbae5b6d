"""graphql-transport-ws: operations of all kinds over one socket, and the close codes for invalid clients."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from gateway.auth.bearer_tokens import CLOCK_SKEW_SECONDS
from gateway.subscriptions import websocket
from tests.gateway.conftest import Open
from tests.gateway.live_gateway import PROTOCOL, SECONDS_MAX, LiveGateway, serve
from tests.gateway.order_stream import OrderStream, serve_orders

SUBSCRIPTION = "subscription ($id: ID!, $after: String) { orderChanged(orderId: $id, after: $after) { cursor order { id state } } }"


def order_data(id: str, number: int) -> Any:
    return {"orderChanged": {"cursor": f"c{number}", "order": {"id": id, "state": "PLACED"}}}


@asynccontextmanager
async def order_gateway(open_gateway: Open, **changes: Any) -> AsyncIterator[tuple[LiveGateway, OrderStream]]:
    """A listening gateway in front of an order stream; `operator` may sign in."""
    async with serve_orders() as (orders, address):
        gateway = await open_gateway("organization", commerce_address=address, **changes)
        async with serve(gateway) as served:
            yield served, orders


async def test_socket_carries_operations_of_all_kinds(open_gateway: Open) -> None:
    async with order_gateway(open_gateway) as (served, orders), served.socket("operator") as socket:
        subscription = await socket.subscribe(SUBSCRIPTION, {"id": "ord_1"})
        orders.script.put_nowait(1)
        assert await socket.next(subscription) == order_data("ord_1", 1)

        query = await socket.subscribe("{ viewer { staff { id } } }", extensions={"cost": True})
        answer = (await socket.receive())["payload"]
        assert answer["data"] == {"viewer": {"staff": None}} and answer["extensions"]["cost"]["points"] > 0
        await socket.complete(query)
        mutation = await socket.subscribe('mutation { cancelOrder(input: {idempotencyKey: "k", orderId: "ord_1"}) { __typename } }')
        assert (await socket.receive())["payload"]["errors"][0]["extensions"]["code"], "this service has no mutations"
        await socket.complete(mutation)

        orders.script.put_nowait(2)
        assert await socket.next(subscription) == order_data("ord_1", 2)
        await socket.send(type="complete", id=subscription)
        async with asyncio.timeout(SECONDS_MAX):
            assert await orders.ended.get() == "ord_1"
        await socket.expect_silence()
        await socket.send(type="subscribe", id=subscription, payload={"query": "{ __typename }"})
        assert await socket.next(subscription) == {"__typename": "Query"}


async def test_closed_socket_ends_its_streams(open_gateway: Open) -> None:
    async with order_gateway(open_gateway) as (served, orders):
        async with served.socket("operator") as socket:
            for id in ("ord_1", "ord_2"):
                await socket.subscribe(SUBSCRIPTION, {"id": id})
            async with asyncio.timeout(SECONDS_MAX):
                await orders.requests.get()
                await orders.requests.get()
        async with asyncio.timeout(SECONDS_MAX):
            assert {await orders.ended.get(), await orders.ended.get()} == {"ord_1", "ord_2"}
        assert served.gateway.app.state.runner.subscription_slots.used == 0


@pytest.mark.parametrize(
    ("query", "variables", "code"),
    [
        ("subscription { orderChanged(orderId: 1) { nothing } }", {}, "BAD_REQUEST"),
        ("{", {}, "BAD_REQUEST"),
        ("query A { __typename } query B { __typename }", {}, "BAD_REQUEST"),
        (SUBSCRIPTION, {}, "BAD_REQUEST"),
        (SUBSCRIPTION, {"id": {}}, "BAD_REQUEST"),
        (SUBSCRIPTION, [], "BAD_REQUEST"),
        ("subscription { messageReceived { cursor } }", {}, "INVALID_FIELD"),
        ("subscription { a: messageReceived { cursor } b: messageReceived { cursor } }", {}, "BAD_REQUEST"),
    ],
)
async def test_invalid_operation_keeps_the_socket_open(open_gateway: Open, query: str, variables: Any, code: str) -> None:
    async with order_gateway(open_gateway) as (served, _), served.socket("operator") as socket:
        name = await socket.subscribe("{ x")
        assert await socket.error(name) == "BAD_REQUEST"
        name = "wrong"
        await socket.send(type="subscribe", id=name, payload={"query": query, "variables": variables})
        assert await socket.error(name) == code
        await socket.expect_silence()


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        (["no json"], 4400),
        (['{"type": "nothing"}'], 4400),
        (["[]"], 4400),
        (['{"type": "subscribe", "id": "", "payload": {"query": "{ __typename }"}}'], 4400),
        (['{"type": "subscribe", "id": "1"}'], 4400),
        (['{"type": "connection_init", "payload": "x"}'], 4400),
        (['{"type": "connection_init", "payload": {"authorization": 7}}'], 4400),
        ([b'{"type": "ping"}'], 4400),
        (["[" * 50_000], 4400),
        (['{"type": "subscribe", "id": "1", "payload": {"query": "{ __typename }"}}'], 4401),
        (['{"type": "connection_init", "payload": {"authorization": "Bearer x.y.z"}}'], 4403),
        (['{"type": "connection_init", "payload": {"Authorization": "Basic x"}}'], 4403),
        (['{"type": "connection_init"}'] * 2, 4429),
    ],
)
async def test_invalid_message_closes_with_the_protocols_code(open_gateway: Open, messages: list[str | bytes], code: int) -> None:
    async with order_gateway(open_gateway) as (served, _), served.socket() as socket:
        for message in messages:
            await socket.opened.send(message)
        closed_code, reason = await socket.wait_closed()
        assert closed_code == code and reason


async def test_operation_id_in_use_closes_the_socket(open_gateway: Open) -> None:
    async with order_gateway(open_gateway) as (served, _), served.socket("operator") as socket:
        for _ in range(2):
            await socket.send(type="subscribe", id="x", payload={"query": SUBSCRIPTION, "variables": {"id": "ord_1"}})
        assert await socket.wait_closed() == (4409, "Subscriber for x already exists")


async def test_missing_initialisation_closes_the_socket(open_gateway: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "INIT_SECONDS_MAX", 0.05)
    async with order_gateway(open_gateway) as (served, _):
        async with served.socket() as socket:
            assert await socket.wait_closed() == (4408, "Connection initialisation timeout")
        async with served.socket("operator") as socket:
            await asyncio.sleep(0.1)  # twice the time limit
            await socket.expect_silence()


async def test_expired_token_closes_the_socket(open_gateway: Open) -> None:
    async with order_gateway(open_gateway) as (served, _), served.socket() as socket:
        expiring = served.gateway.token("operator", lifetime_seconds=3 - CLOCK_SKEW_SECONDS)
        began = time.monotonic()
        await socket.send(type="connection_init", payload={"authorization": f"Bearer {expiring}"})
        assert await socket.receive() == {"type": "connection_ack"}
        code, reason = await socket.wait_closed()
        assert (code, reason) == (4403, "Forbidden: This token has expired. Send a new one.")
        assert time.monotonic() - began < 3


async def test_other_subprotocols_are_closed(open_gateway: Open) -> None:
    async with order_gateway(open_gateway) as (served, _):
        for offered in ([Subprotocol("graphql-ws")], None):
            async with connect(f"ws://{served.address}/graphql", subprotocols=offered, proxy=None) as opened:
                await opened.wait_closed()
                assert opened.close_code == 4406


@pytest.mark.parametrize(
    ("origins", "origin", "is_allowed"),
    [
        ("https://console.example, https://app.example", "https://app.example", True),
        ("https://console.example, https://app.example", "https://evil.example", False),
        ("https://console.example, https://app.example", "null", False),
        ("https://console.example", "http://{address}", True),
        ("", "http://{address}", True),
        ("", "https://app.example", False),
        ("", "", False),
        ("*", "https://app.example", True),
    ],
)
async def test_socket_of_a_foreign_origin_is_403(open_gateway: Open, origins: str, origin: str, is_allowed: bool) -> None:
    """Allowed are the configured origins and the gateway's own."""
    async with order_gateway(open_gateway, cors_origins=origins) as (served, _):
        headers = {"origin": origin.format(address=served.address)}
        try:
            async with connect(f"ws://{served.address}/graphql", additional_headers=headers, subprotocols=[PROTOCOL], proxy=None):
                assert is_allowed
        except InvalidStatus as refused:
            assert not is_allowed and refused.response.status_code == 403


async def test_ping_is_answered_with_its_payload(open_gateway: Open) -> None:
    async with order_gateway(open_gateway) as (served, _), served.socket() as socket:
        await socket.send(type="ping")
        assert await socket.receive() == {"type": "pong"}
        await socket.send(type="pong", payload={"any": 1})
        await socket.expect_silence()
