"""Webhooks through the gateway: a signed notice pays an order, a forged one is refused."""

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
from tests.gateway import small_world
from tests.gateway.conftest import Gateway, Open
from tests.gateway.live_gateway import SECONDS_MAX
from tests.gateway.silent_services import serve_silent

SECRET = f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}"
PLACED = "id total { amount currency }"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings with the secret of the sandbox."""
    return msgspec.structs.replace(settings, webhook_secrets=json.dumps({"sandbox": [SECRET]}))


async def send(gateway: Gateway, body: str, *, to: str = "payments/sandbox", id: str = "msg_1", **changed: str) -> httpx.Response:
    """Sends a notice as the sandbox does."""
    at = datetime.now(UTC)
    headers = {"webhook-id": id, "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": Webhook(SECRET).sign(id, at, body)}
    return await gateway.http.post(f"/webhooks/{to}", content=body.encode(), headers=headers | changed)


def approval(order_id: str, minor: int) -> str:
    return json.dumps({"type": "payment.approved", "data": {"order_id": order_id, "amount": {"currency": "CNY", "minor": minor}}})


async def test_signed_notice_pays_its_order_once(open_gateway: Open) -> None:
    gateway = await open_gateway(*SERVICES)
    await small_world.build(gateway)
    line = {"variantId": "var_40", "quantity": 1}
    input: dict[str, Any] = {"consumerId": "con_anna", "storeId": "str_a1", "lines": [line], "touchpoint": "APP"}
    payload = await small_world.mutate_eventually(
        gateway, "placeOrder", input, keyed=True, subject="con_anna", fields=f"order {{ {PLACED} }}"
    )
    order = payload["order"]
    for _ in range(2):
        response = await send(gateway, approval(order["id"], 39_900))
        assert (response.status_code, response.json()) == (200, {})
    data = await gateway.data("query ($id: ID!) { order(id: $id) { state } }", {"id": order["id"]}, subject="con_anna")
    assert data == {"order": {"state": "PAID"}}
    assert (await send(gateway, approval(order["id"], 1), id="msg_2")).status_code == 409
    assert (await send(gateway, approval("ord_no", 1), id="msg_3")).status_code == 404
    assert (await send(gateway, '{"type": "payment.approved"}', id="msg_4")).status_code == 400
    forged = await send(gateway, approval(order["id"], 39_900), **{"webhook-signature": "v1,AAAA"})
    assert (forged.status_code, forged.json()["code"]) == (401, "SIGNATURE_INVALID")


async def test_notices_have_the_limits_of_graphql_requests(open_gateway: Open, capfd: pytest.CaptureFixture[str]) -> None:
    gateway = await open_gateway(limit_body_bytes=100, deadline_seconds=1.0)
    assert (await send(gateway, "x" * 101)).status_code == 413
    assert (await send(gateway, "{}", to="parcels/sandbox")).status_code == 404
    assert (await gateway.http.post("/webhooks/payments/sandbox", content=b"{}")).status_code == 401
    assert (await gateway.http.get("/webhooks/payments/sandbox")).status_code == 405
    unavailable = await send(gateway, "{}")
    assert (unavailable.status_code, unavailable.headers["retry-after"]) == (503, "1")
    assert unavailable.headers["x-content-type-options"] == "nosniff"
    assert unavailable.json()["id"] in capfd.readouterr().out
    assert 'quanyu_graphql_seconds_count{operation="webhook",status="503"}' in (await gateway.http.get("/metrics")).text
    limited = await open_gateway(rate_address=1.0)
    answers = [await send(limited, "{}", to="parcels/sandbox") for _ in range(5)]
    assert answers[-1].status_code == 429 and "retry-after" in answers[-1].headers


async def test_notices_to_a_silent_service_are_limited(open_gateway: Open) -> None:
    async with serve_silent() as (silent, address), asyncio.timeout(SECONDS_MAX):
        gateway = await open_gateway(commerce_address=address)
        clients = gateway.app.state.clients
        clients.bulkheads["commerce"].waiting_max = 1
        first = asyncio.create_task(send(gateway, "{}"))
        await silent.called.get()
        clients.bulkheads["commerce"].answered_at -= SILENT_SECONDS_MAX
        refused = await send(gateway, "{}", id="msg_2")
        assert (refused.status_code, refused.json()["code"]) == (429, "SERVICE_OVERLOADED")
        assert "retry-after" in refused.headers
        silent.released.set()
        assert (await first).status_code == 200
        assert clients.bulkheads["commerce"].waiting == 0
