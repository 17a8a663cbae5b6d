"""Notices of outside systems through the gateway's HTTP: an order is paid by one, and nobody else's is heard."""

import asyncio
import base64
import json
import secrets
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
import pytest
from standardwebhooks import Webhook

from gateway.rpc.bulkhead import SILENT_SECONDS_MAX
from services.kit.runtime.runtime import SERVICES
from services.kit.settings import Settings
from tests.gateway import world
from tests.gateway.conftest import Gateway, Open
from tests.gateway.serving import SECONDS_MAX
from tests.gateway.silent import silence

SECRET = f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}"
PLACED = "id total { amount currency }"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The sandbox shares a secret with the runtime."""
    return msgspec.structs.replace(settings, webhook_secrets=json.dumps({"sandbox": [SECRET]}))


async def send(gateway: Gateway, body: str, *, to: str = "payments/sandbox", id: str = "msg_1", **changed: str) -> httpx.Response:
    """A notice as the sandbox sends it."""
    at = datetime.now(UTC)
    headers = {"webhook-id": id, "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": Webhook(SECRET).sign(id, at, body)}
    return await gateway.http.post(f"/webhooks/{to}", content=body.encode(), headers=headers | changed)


def approved(order_id: str, minor: int) -> str:
    return json.dumps({"type": "payment.approved", "data": {"order_id": order_id, "amount": {"currency": "CNY", "minor": minor}}})


async def test_a_notice_pays_an_order(open_gateway: Open) -> None:
    gateway = await open_gateway(*SERVICES)
    await world.build(gateway)
    line = {"variantId": "var_40", "quantity": 1}
    given: dict[str, Any] = {"consumerId": "con_anna", "storeId": "str_a1", "lines": [line], "touchpoint": "APP"}
    placing = await world.eventually(gateway, "placeOrder", given, keyed=True, who="con_anna", fields=f"order {{ {PLACED} }}")
    order = placing["order"]
    for _ in range(2):
        heard = await send(gateway, approved(order["id"], 39_900))
        assert (heard.status_code, heard.json()) == (200, {})
    now = await gateway.data("query ($id: ID!) { order(id: $id) { state } }", {"id": order["id"]}, who="con_anna")
    assert now == {"order": {"state": "PAID"}}
    assert (await send(gateway, approved(order["id"], 1), id="msg_2")).status_code == 409
    assert (await send(gateway, approved("ord_no", 1), id="msg_3")).status_code == 404
    assert (await send(gateway, '{"type": "payment.approved"}', id="msg_4")).status_code == 400
    forged = await send(gateway, approved(order["id"], 39_900), **{"webhook-signature": "v1,AAAA"})
    assert (forged.status_code, forged.json()["code"]) == (401, "SIGNATURE_INVALID")


async def test_notices_stand_under_the_bounds_of_the_graph(open_gateway: Open, capfd: pytest.CaptureFixture[str]) -> None:
    gateway = await open_gateway(limit_body_bytes=100, deadline_seconds=1.0)
    assert (await send(gateway, "x" * 101)).status_code == 413
    assert (await send(gateway, "{}", to="parcels/sandbox")).status_code == 404
    assert (await gateway.http.post("/webhooks/payments/sandbox", content=b"{}")).status_code == 401
    assert (await gateway.http.get("/webhooks/payments/sandbox")).status_code == 405
    away = await send(gateway, "{}")
    assert (away.status_code, away.headers["retry-after"]) == (503, "1")
    assert away.headers["x-content-type-options"] == "nosniff"
    assert away.json()["id"] in capfd.readouterr().out
    assert 'quanyu_graphql_seconds_count{operation="webhook",status="503"}' in (await gateway.http.get("/metrics")).text
    limited = await open_gateway(rate_address=1.0)
    answers = [await send(limited, "{}", to="parcels/sandbox") for _ in range(5)]
    assert answers[-1].status_code == 429 and "retry-after" in answers[-1].headers


async def test_notices_to_a_service_that_says_nothing_take_no_place_of_others(open_gateway: Open) -> None:
    async with silence() as (silent, address), asyncio.timeout(SECONDS_MAX):
        gateway = await open_gateway(commerce_address=address)
        clients = gateway.app.state.clients
        clients.bulkheads["commerce"].waiting_max = 1
        first = asyncio.create_task(send(gateway, "{}"))
        await silent.asked.get()
        clients.bulkheads["commerce"].answered_at -= SILENT_SECONDS_MAX
        refused = await send(gateway, "{}", id="msg_2")
        assert (refused.status_code, refused.json()["code"]) == (429, "SERVICE_OVERLOADED")
        assert "retry-after" in refused.headers
        silent.speak.set()
        assert (await first).status_code == 200
        assert clients.bulkheads["commerce"].waiting == 0
