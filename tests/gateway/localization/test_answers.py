"""Answers in the language of the client: over HTTP, WebSockets and event streams, and of rejected requests."""

from typing import Any

import pytest

from gateway.localization.messages import TABLES
from services.kit.errors import Exhausted, NotFound
from tests.gateway.conftest import Gateway, Open
from tests.gateway.live_gateway import serve
from tests.gateway.order_stream import serve_orders

ZH = {"accept-language": "zh-CN,zh;q=0.9,en;q=0.8"}
WATCHED = "subscription ($id: ID!) { orderChanged(orderId: $id) { cursor } }"
RELEASE = 'mutation { releaseHold(input: {idempotencyKey: "k", holdId: "hld_none"}) { __typename ... on Refusal { code message } } }'
REGISTER = """mutation ($input: RegisterConsumerInput!) {
    registerConsumer(input: $input) { __typename ... on InvalidInput { field message } }
}"""


def chinese(code: str, **values: str) -> str:
    """The Chinese message of a code."""
    message = TABLES["zh"].find(code, values)
    assert message is not None
    return message


async def errors(gateway: Gateway, query: str, **options: Any) -> Any:
    return (await gateway.post({"query": query}, headers=ZH, **options)).json()["errors"]


@pytest.fixture
async def gateway(open_gateway: Open) -> Gateway:
    return await open_gateway("organization", "commerce", "member")


async def test_refusal_of_mutation_follows_accept_language(gateway: Gateway) -> None:
    for headers, is_chinese in ((ZH, True), ({"accept-language": "en"}, False), ({}, False), (ZH, True)):
        answer = (await gateway.post({"query": RELEASE}, subject="operator", headers=headers)).json()["data"]["releaseHold"]
        assert (answer["__typename"], answer["code"]) == ("NotFound", "HOLD_NOT_FOUND")
        assert answer["message"].isascii() is not is_chinese
        assert (answer["message"] == chinese("HOLD_NOT_FOUND")) is is_chinese


async def test_validation_message_has_field_and_limit(gateway: Gateway) -> None:
    identities = [{"kind": "PHONE", "value": "19900000001"}, {"kind": "PHONE", "value": "1" * 201}]
    body = {"query": REGISTER, "variables": {"input": {"brandId": "brd_a", "identities": identities}}}
    answer = (await gateway.post(body, subject="operator", headers=ZH)).json()["data"]["registerConsumer"]
    assert answer == {"__typename": "InvalidInput", "field": "identities.1.value", "message": "identities.1.value：最多 200 个字符。"}


async def test_top_level_error_is_chinese(gateway: Gateway) -> None:
    (error,) = await errors(gateway, '{ node(id: "x") { id } }')
    assert error["message"] == chinese(error["extensions"]["code"])
    (error,) = await errors(gateway, "mutation { markRead(input: {outreachIds: []}) { __typename } }")
    assert error["message"] == chinese("UNAUTHENTICATED")


async def test_error_of_graphql_core_stays_english(alone: Gateway) -> None:
    for query in ("{", "{ nothing }"):
        (error,) = await errors(alone, query)
        assert error["extensions"]["code"] == "BAD_REQUEST" and error["message"].isascii()


async def test_bad_request_is_chinese_with_its_detail(alone: Gateway) -> None:
    answers = [await alone.http.post("/graphql", json=body, headers=headers) for body, headers in (([], {}), ([], ZH))]
    english, translated = (answer.json()["errors"][0]["message"] for answer in answers)
    assert translated == chinese("BAD_REQUEST", message=english) and translated != english
    deep = await errors(alone, "{ brand(id: 1) " + "{ headquarters { brand " * 20 + "{ id } " + "}" * 41)
    assert {error["message"][:5] for error in deep} == {chinese("LIMIT_EXCEEDED", message="-")[:5]}


async def test_unknown_route_is_answered_in_chinese(alone: Gateway) -> None:
    answer = await alone.http.get("/nowhere", headers=ZH)
    assert (answer.status_code, answer.json()["errors"][0]["message"]) == (404, chinese("NOT_FOUND"))


async def test_unexpected_error_is_masked_in_chinese(alone: Gateway) -> None:
    def broken(request: object) -> None:
        raise LookupError("secret")

    alone.app.state.clients.call = broken
    (error,) = await errors(alone, '{ brand(id: "brd_x") { id } }')
    assert error["message"] == chinese("INTERNAL")


async def test_overload_is_answered_in_chinese(open_gateway: Open) -> None:
    gateway = await open_gateway(operations_max=0)
    answer = await gateway.post({"query": "{ __typename }"}, headers=ZH)
    assert (answer.status_code, answer.json()["errors"][0]["message"]) == (503, chinese("OVERLOADED"))


async def test_webhook_is_refused_in_chinese(alone: Gateway) -> None:
    signed = {"webhook-id": "msg_1", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA"}
    answer = await alone.http.post("/webhooks/payments/sandbox", content=b"{}", headers=ZH | signed)
    assert (answer.status_code, answer.json()["message"]) == (503, chinese(answer.json()["code"]))


async def test_websocket_keeps_the_language_of_its_handshake(open_gateway: Open) -> None:
    limit = {"limit": "3", "free_at": "2024-05-01T01:05:00Z"}
    async with serve_orders() as (orders, address), serve(await open_gateway("organization", commerce_address=address)) as served:
        for headers in (ZH, {}):
            async with served.socket("operator", additional_headers=headers) as socket:
                orders.script.put_nowait(Exhausted("TOO_MANY_HOLDS", "English", **limit))
                name = await socket.subscribe(WATCHED, {"id": "ord_1"})
                ended = await socket.receive()
                (error,) = ended["payload"]
                assert (ended["type"], ended["id"]) == ("error", name)
                assert error["message"] == (chinese("TOO_MANY_HOLDS", **limit) if headers else "English")


async def test_event_stream_is_chinese(open_gateway: Open) -> None:
    async with serve_orders() as (orders, address):
        gateway = await open_gateway("organization", commerce_address=address)
        orders.script.put_nowait(NotFound("ORDER_NOT_FOUND", "English"))
        body = {"query": WATCHED, "variables": {"id": "ord_1"}}
        answer = await gateway.post(body, subject="operator", headers=ZH | {"accept": "text/event-stream"})
        assert chinese("ORDER_NOT_FOUND") in answer.text
