"""Payment notices: only signed ones are accepted, an order is paid once, and the sandbox is off outside development."""

import asyncio
import base64
import json
import secrets
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from standardwebhooks import Webhook

from quanyu.commerce.v1 import orders_pb2
from services.kit.errors import Conflict, Denied, Invalid, NotFound
from services.kit.security.principals import INSTALLATION, SERVICE, Grant
from services.kit.settings import Settings
from tests.services.commerce.conftest import Shop, consumer_grant, new_key

SECRET = f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}"
GATEWAY = Grant(SERVICE, INSTALLATION)


def approved_body(order: orders_pb2.Order, **changed: Any) -> str:
    amount = {"currency": order.total.currency, "minor": order.total.minor}
    return json.dumps({"type": "payment.approved", "data": {"order_id": order.id, "amount": amount} | changed})


def notice(body: str, id: str = "msg_1", secret: str = SECRET, sender: str = "sandbox") -> orders_pb2.TakePaymentNoticeRequest:
    at = datetime.now(UTC)
    signature = Webhook(secret).sign(id, at, body)
    return orders_pb2.TakePaymentNoticeRequest(
        request_id=id, sender=sender, timestamp=str(int(at.timestamp())), signature=signature, body=body.encode()
    )


@pytest.fixture
def changed() -> dict[str, str]:
    """The settings that a test changes."""
    return {}


@pytest.fixture
def settings(settings: Settings, changed: dict[str, str]) -> Settings:
    """Settings in which the sandbox and a provider share a secret with the service."""
    return msgspec.structs.replace(settings, webhook_secrets=json.dumps({"sandbox": [SECRET], "acme": [SECRET]}), **changed)


@pytest.fixture
def take_notice(shop: Shop) -> Any:
    """The rpc TakePaymentNotice with the gateway's grants."""
    return shop.orders(GATEWAY).TakePaymentNotice


async def test_repeated_notices_pay_the_order_once(shop: Shop, take_notice: Any) -> None:
    order = await shop.place_order()
    body = approved_body(order)
    answers = await asyncio.gather(*(take_notice(notice(body)) for _ in range(10)))
    assert all(answer.acted for answer in answers)
    assert (await take_notice(notice(body, id="msg_2"))).acted
    stored = (await shop.orders(consumer_grant()).GetOrder(orders_pb2.GetOrderRequest(id=order.id))).order
    assert (stored.state, stored.payment.amount.minor) == (orders_pb2.ORDER_STATE_PAID, order.total.minor)
    assert await shop.levels() == {"on_hand": 0, "reserved": 0}
    assert [event.WhichOneof("body") for event in await shop.commerce.published_events()].count("order_paid") == 1


async def test_invalid_notice_changes_nothing(shop: Shop, take_notice: Any) -> None:
    order = await shop.place_order()
    other = f"whsec_{base64.b64encode(bytes(24)).decode()}"
    for body, secret, kind, reason in (
        (approved_body(order), other, Denied, "SIGNATURE_INVALID"),
        (approved_body(order, order_id="ord_no"), SECRET, NotFound, "ORDER_NOT_FOUND"),
        (approved_body(order, amount={"currency": "CNY", "minor": 1}), SECRET, Conflict, "AMOUNT_DIFFERS"),
        (approved_body(order, amount={"currency": "CNY", "minor": -1}), SECRET, Invalid, "NOTICE_INVALID"),
        ('{"type": "payment.approved"}', SECRET, Invalid, "NOTICE_INVALID"),
        ("[", SECRET, Invalid, "NOTICE_INVALID"),
    ):
        with pytest.raises(kind, match=reason):
            await take_notice(notice(body, id=f"msg_{reason}", secret=secret))
    assert not (await take_notice(notice('{"type": "payment.declined", "data": {}}'))).acted
    stored = (await shop.orders(consumer_grant()).GetOrder(orders_pb2.GetOrderRequest(id=order.id))).order
    assert stored.state == orders_pb2.ORDER_STATE_PLACED
    assert await shop.levels() == {"on_hand": 1, "reserved": 1}


def payment_request(order: orders_pb2.Order, method: Any = orders_pb2.PAYMENT_METHOD_SANDBOX) -> orders_pb2.PayOrderRequest:
    return orders_pb2.PayOrderRequest(request_id=new_key(), order_id=order.id, method=method, sandbox_token="approve")


@pytest.mark.parametrize("changed", [{"env": "production"}, {"sandbox_payments": "off"}])
async def test_disabled_sandbox_refuses_payment_requests(shop: Shop, take_notice: Any, changed: dict[str, str]) -> None:
    order = await shop.place_order()
    stub = shop.orders(consumer_grant())
    for call in (
        lambda: stub.PayOrder(payment_request(order)),
        lambda: stub.PayOrder(payment_request(order, orders_pb2.PAYMENT_METHOD_PROVIDER)),
        lambda: take_notice(notice(approved_body(order))),
    ):
        with pytest.raises(Invalid, match="PAYMENT_METHOD_REFUSED") as refusal:
            await call()
        assert refusal.value.metadata["field"] == "method"
    assert (await stub.GetOrder(orders_pb2.GetOrderRequest(id=order.id))).order.state == orders_pb2.ORDER_STATE_PLACED
    assert (await take_notice(notice(approved_body(order), id="msg_2", sender="acme"))).acted
    paid = (await stub.GetOrder(orders_pb2.GetOrderRequest(id=order.id))).order
    assert (paid.state, paid.payment.method) == (orders_pb2.ORDER_STATE_PAID, orders_pb2.PAYMENT_METHOD_PROVIDER)


@pytest.mark.parametrize("changed", [{"env": "production", "sandbox_payments": "on"}])
async def test_sandbox_can_be_enabled_in_production(shop: Shop, take_notice: Any, changed: dict[str, str]) -> None:
    await shop.set_stock(on_hand=2)
    order, other = await shop.place_order(), await shop.place_order()
    assert (await shop.orders(consumer_grant()).PayOrder(payment_request(order))).order.payment.method == orders_pb2.PAYMENT_METHOD_SANDBOX
    assert (await take_notice(notice(approved_body(other)))).acted


async def test_notices_are_accepted_from_the_gateway_only(shop: Shop, take_notice: Any) -> None:
    order = await shop.place_order()
    for grant in (consumer_grant(), Grant("ROLE_OPERATOR", INSTALLATION)):
        with pytest.raises(Denied):
            await shop.orders(grant).TakePaymentNotice(notice(approved_body(order)))
