"""graphql-transport-ws: operations of all kinds over one socket, and how the gateway closes it on those who break its rules."""

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
from tests.gateway.serving import PROTOCOL, SECONDS_MAX, Served, serving
from tests.gateway.telling import Teller, telling

WATCHED = "subscription ($id: ID!, $after: String) { orderChanged(orderId: $id, after: $after) { cursor order { id state } } }"


def told(id: str, number: int) -> Any:
    return {"orderChanged": {"cursor": f"c{number}", "order": {"id": id, "state": "PLACED"}}}


@asynccontextmanager
async def telling_gateway(open_gateway: Open, **changes: Any) -> AsyncIterator[tuple[Served, Teller]]:
    """A gateway that listens before a service that tells of orders; `operator` may sign in."""
    async with telling() as (teller, address):
        gateway = await open_gateway("organization", commerce_address=address, **changes)
        async with serving(gateway) as served:
            yield served, teller


async def test_operations_of_all_kinds_go_over_one_socket(open_gateway: Open) -> None:
    async with telling_gateway(open_gateway) as (served, teller), served.socket("operator") as socket:
        watching = await socket.subscribe(WATCHED, {"id": "ord_1"})
        teller.told.put_nowait(1)
        assert await socket.next(watching) == told("ord_1", 1)

        asking = await socket.subscribe("{ viewer { staff { id } } }", extensions={"cost": True})
        answer = (await socket.heard())["payload"]
        assert answer["data"] == {"viewer": {"staff": None}} and answer["extensions"]["cost"]["points"] > 0
        await socket.complete(asking)
        doing = await socket.subscribe('mutation { cancelOrder(input: {idempotencyKey: "k", orderId: "ord_1"}) { __typename } }')
        assert (await socket.heard())["payload"]["errors"][0]["extensions"]["code"], "this service can only tell"
        await socket.complete(doing)

        teller.told.put_nowait(2)
        assert await socket.next(watching) == told("ord_1", 2)
        await socket.say(type="complete", id=watching)
        async with asyncio.timeout(SECONDS_MAX):
            assert await teller.left.get() == "ord_1"
        await socket.quiet()
        await socket.say(type="subscribe", id=watching, payload={"query": "{ __typename }"})
        assert await socket.next(watching) == {"__typename": "Query"}


async def test_the_service_ends_with_the_socket(open_gateway: Open) -> None:
    async with telling_gateway(open_gateway) as (served, teller):
        async with served.socket("operator") as socket:
            for id in ("ord_1", "ord_2"):
                await socket.subscribe(WATCHED, {"id": id})
            async with asyncio.timeout(SECONDS_MAX):
                await teller.asked.get()
                await teller.asked.get()
        async with asyncio.timeout(SECONDS_MAX):
            assert {await teller.left.get(), await teller.left.get()} == {"ord_1", "ord_2"}
        assert served.gateway.app.state.subscriptions.places.used == 0


@pytest.mark.parametrize(
    ("query", "variables", "code"),
    [
        ("subscription { orderChanged(orderId: 1) { nothing } }", {}, "BAD_REQUEST"),
        ("{", {}, "BAD_REQUEST"),
        ("query A { __typename } query B { __typename }", {}, "BAD_REQUEST"),
        (WATCHED, {}, "BAD_REQUEST"),
        (WATCHED, {"id": {}}, "BAD_REQUEST"),
        (WATCHED, [], "BAD_REQUEST"),
        ("subscription { messageReceived { cursor } }", {}, "INVALID_FIELD"),
        ("subscription { a: messageReceived { cursor } b: messageReceived { cursor } }", {}, "BAD_REQUEST"),
    ],
)
async def test_what_is_wrong_with_an_operation_ends_it_and_not_the_socket(
    open_gateway: Open, query: str, variables: Any, code: str
) -> None:
    async with telling_gateway(open_gateway) as (served, _), served.socket("operator") as socket:
        name = await socket.subscribe("{ x")
        assert await socket.error(name) == "BAD_REQUEST"
        name = "wrong"
        await socket.say(type="subscribe", id=name, payload={"query": query, "variables": variables})
        assert await socket.error(name) == code
        await socket.quiet()


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
async def test_who_breaks_the_protocol_is_told_which_rule(open_gateway: Open, messages: list[str | bytes], code: int) -> None:
    async with telling_gateway(open_gateway) as (served, _), served.socket() as socket:
        for message in messages:
            await socket.opened.send(message)
        told = await socket.closed()
        assert told[0] == code and told[1]


async def test_a_name_in_use_closes_the_socket(open_gateway: Open) -> None:
    async with telling_gateway(open_gateway) as (served, _), served.socket("operator") as socket:
        for _ in range(2):
            await socket.say(type="subscribe", id="x", payload={"query": WATCHED, "variables": {"id": "ord_1"}})
        assert await socket.closed() == (4409, "Subscriber for x already exists")


async def test_who_does_not_begin_is_closed(open_gateway: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "INIT_SECONDS", 0.05)
    async with telling_gateway(open_gateway) as (served, _):
        async with served.socket() as socket:
            assert await socket.closed() == (4408, "Connection initialisation timeout")
        async with served.socket("operator") as socket:
            await asyncio.sleep(0.1)  # twice as long as the other had
            await socket.quiet()


async def test_a_socket_ends_with_its_token(open_gateway: Open) -> None:
    async with telling_gateway(open_gateway) as (served, _), served.socket() as socket:
        expiring = served.gateway.token("operator", lifetime_seconds=3 - CLOCK_SKEW_SECONDS)
        began = time.monotonic()
        await socket.say(type="connection_init", payload={"authorization": f"Bearer {expiring}"})
        assert await socket.heard() == {"type": "connection_ack"}
        code, reason = await socket.closed()
        assert (code, reason) == (4403, "Forbidden: This token has expired. Send a new one.")
        assert time.monotonic() - began < 3


async def test_other_protocols_are_not_spoken(open_gateway: Open) -> None:
    async with telling_gateway(open_gateway) as (served, _):
        for offered in ([Subprotocol("graphql-ws")], None):
            async with connect(f"ws://{served.address}/graphql", subprotocols=offered, proxy=None) as opened:
                await opened.wait_closed()
                assert opened.close_code == 4406


@pytest.mark.parametrize(
    ("origins", "origin", "may"),
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
async def test_browsers_come_from_pages_that_may_call(open_gateway: Open, origins: str, origin: str, may: bool) -> None:
    """The same as over HTTP, and from the gateway's own."""
    async with telling_gateway(open_gateway, cors_origins=origins) as (served, _):
        headers = {"origin": origin.format(address=served.address)}
        try:
            async with connect(f"ws://{served.address}/graphql", additional_headers=headers, subprotocols=[PROTOCOL], proxy=None):
                assert may
        except InvalidStatus as refused:
            assert not may and refused.response.status_code == 403


async def test_a_pong_says_what_its_ping_said(open_gateway: Open) -> None:
    async with telling_gateway(open_gateway) as (served, _), served.socket() as socket:
        await socket.say(type="ping")
        assert await socket.heard() == {"type": "pong"}
        await socket.say(type="pong", payload={"any": 1})
        await socket.quiet()
