"""GraphQL over server-sent events: the "distinct connections mode" of graphql-sse."""

import asyncio

import httpx
import pytest

from gateway.auth.bearer_tokens import CLOCK_SKEW_SECONDS
from gateway.subscriptions import sse
from tests.gateway.conftest import Gateway, Open
from tests.gateway.live_gateway import SECONDS_MAX
from tests.gateway.subscriptions.test_websocket import SUBSCRIPTION, order_data, order_gateway

STREAM = "text/event-stream"


async def test_event_stream_delivers_each_event(open_gateway: Open) -> None:
    async with (
        order_gateway(open_gateway) as (served, orders),
        served.stream(SUBSCRIPTION, {"id": "ord_1"}, subject="operator") as stream,
    ):
        assert stream.response.headers["content-type"].startswith(STREAM)
        for number in (1, 2):
            orders.script.put_nowait(number)
            assert await stream.next() == order_data("ord_1", number)


async def test_get_executes_queries_and_subscriptions_only(open_gateway: Open) -> None:
    async with order_gateway(open_gateway) as (served, orders):
        orders.script.put_nowait(1)
        async with (
            httpx.AsyncClient(base_url=f"http://{served.address}", trust_env=False, headers={"accept": STREAM}) as http,
            http.stream("GET", "/graphql", params={"query": 'subscription { orderChanged(orderId: "ord_1") { cursor } }'}) as response,
        ):
            lines = response.aiter_lines()
            assert [await anext(lines), await anext(lines)] == ["event: next", 'data: {"data":{"orderChanged":{"cursor":"c1"}}}']
            mutation = {"query": "mutation { markRead(input: {outreachIds: []}) { __typename } }"}
            refused = await http.get("/graphql", params=mutation)
            assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
            response = await http.get("/graphql", params={"query": "{ __typename }"})
            assert response.text == 'event: next\ndata: {"data":{"__typename":"Query"}}\n\nevent: complete\ndata:\n\n'


async def test_invalid_document_is_an_event_of_the_stream(alone: Gateway) -> None:
    for query in ("{", "subscription { orderChanged(orderId: 1) { nothing } }", "query A { __typename } query B { __typename }"):
        response = await alone.post({"query": query}, headers={"accept": STREAM})
        assert (response.status_code, response.headers["content-type"]) == (200, f"{STREAM}; charset=utf-8")
        name, data, _, end = response.text.split("\n")[:4]
        assert (name, end) == ("event: next", "event: complete") and '"BAD_REQUEST"' in data


async def test_refused_request_has_an_http_status(open_gateway: Open) -> None:
    gateway = await open_gateway(rate_address=1.0)
    refused = await gateway.post({"query": SUBSCRIPTION}, headers={"accept": STREAM, "authorization": "Bearer x.y.z"})
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert (await gateway.http.post("/graphql", content=b"{", headers={"accept": STREAM})).status_code == 415
    statuses = [(await gateway.post({"query": "{ __typename }"}, headers={"accept": STREAM})).status_code for _ in range(4)]
    assert statuses[-1] == 429


async def test_malformed_request_counts_for_its_address(open_gateway: Open) -> None:
    gateway = await open_gateway(rate_address=1.0)
    statuses = [(await gateway.http.post("/graphql", content=b"{", headers={"accept": STREAM})).status_code for _ in range(4)]
    assert (statuses[0], statuses[-1]) == (415, 429)


async def test_subscription_over_plain_http_is_400(alone: Gateway) -> None:
    refused = await alone.post({"query": 'subscription { orderChanged(orderId: "ord_1") { cursor } }'})
    assert refused.status_code == 400
    assert STREAM in refused.json()["errors"][0]["message"]


async def test_event_stream_holds_no_operation_slot(open_gateway: Open) -> None:
    async with (
        order_gateway(open_gateway, operations_max=1) as (served, orders),
        served.stream(SUBSCRIPTION, {"id": "ord_1"}, subject="operator") as stream,
    ):
        response = await served.gateway.post({"query": "{ __typename }"})
        assert response.json() == {"data": {"__typename": "Query"}}
        orders.script.put_nowait(1)
        assert await stream.next() == order_data("ord_1", 1)


async def test_idle_stream_gets_keep_alive_comments(open_gateway: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.02)
    async with (
        order_gateway(open_gateway) as (served, _),
        served.stream(SUBSCRIPTION, {"id": "ord_1"}, subject="operator") as stream,
        asyncio.timeout(SECONDS_MAX),
    ):
        assert [await anext(stream.lines) for _ in range(3)] == [":", "", ":"]


async def test_closed_stream_ends_its_rpc(open_gateway: Open) -> None:
    async with order_gateway(open_gateway) as (served, orders):
        async with served.stream(SUBSCRIPTION, {"id": "ord_1"}, subject="operator"):
            await orders.requests.get()
        async with asyncio.timeout(SECONDS_MAX):
            assert await orders.ended.get() == "ord_1"


async def test_expired_token_ends_the_stream(open_gateway: Open) -> None:
    async with order_gateway(open_gateway) as (served, _):
        expiring = served.gateway.token("operator", lifetime_seconds=3 - CLOCK_SKEW_SECONDS)
        headers = {"accept": STREAM, "authorization": f"Bearer {expiring}"}
        async with httpx.AsyncClient(base_url=f"http://{served.address}", trust_env=False, timeout=SECONDS_MAX) as http:
            ended = await http.post("/graphql", json={"query": SUBSCRIPTION, "variables": {"id": "ord_1"}}, headers=headers)
        assert ended.text == ": This token has expired. Send a new one.\n\n", "without `complete`, the client reconnects with another token"
