"""Payments with notices and without: only signed ones are believed, an order is paid once, and outside development only for money."""

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
from tests.services.commerce.conftest import Shop, consumer, fresh

SECRET = f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}"
GATEWAY = Grant(SERVICE, INSTALLATION)


def approved(order: orders_pb2.Order, **changed: Any) -> str:
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
    """Settings that are otherwise than they come."""
    return {}


@pytest.fixture
def settings(settings: Settings, changed: dict[str, str]) -> Settings:
    """The sandbox and a provider share a secret with the runtime."""
    return msgspec.structs.replace(settings, webhook_secrets=json.dumps({"sandbox": [SECRET], "acme": [SECRET]}), **changed)


@pytest.fixture
def take(shop: Shop) -> Any:
    """`TakePaymentNotice` as the gateway calls it."""
    return shop.orders(GATEWAY).TakePaymentNotice


async def test_an_order_is_paid_once_however_often_the_notice_comes(shop: Shop, take: Any) -> None:
    order = await shop.placed()
    body = approved(order)
    answers = await asyncio.gather(*(take(notice(body)) for _ in range(10)))
    assert all(answer.acted for answer in answers)
    assert (await take(notice(body, id="msg_2"))).acted
    now = (await shop.orders(consumer()).GetOrder(orders_pb2.GetOrderRequest(id=order.id))).order
    assert (now.state, now.payment.amount.minor) == (orders_pb2.ORDER_STATE_PAID, order.total.minor)
    assert await shop.row() == {"on_hand": 0, "reserved": 0}
    assert [event.WhichOneof("body") for event in await shop.commerce.events_told()].count("order_paid") == 1


async def test_what_is_not_a_payment_of_this_order_changes_nothing(shop: Shop, take: Any) -> None:
    order = await shop.placed()
    other = f"whsec_{base64.b64encode(bytes(24)).decode()}"
    for body, secret, refusal, reason in (
        (approved(order), other, Denied, "SIGNATURE_INVALID"),
        (approved(order, order_id="ord_no"), SECRET, NotFound, "ORDER_NOT_FOUND"),
        (approved(order, amount={"currency": "CNY", "minor": 1}), SECRET, Conflict, "AMOUNT_DIFFERS"),
        (approved(order, amount={"currency": "CNY", "minor": -1}), SECRET, Invalid, "NOTICE_INVALID"),
        ('{"type": "payment.approved"}', SECRET, Invalid, "NOTICE_INVALID"),
        ("[", SECRET, Invalid, "NOTICE_INVALID"),
    ):
        with pytest.raises(refusal, match=reason):
            await take(notice(body, id=f"msg_{reason}", secret=secret))
    assert not (await take(notice('{"type": "payment.declined", "data": {}}'))).acted
    now = (await shop.orders(consumer()).GetOrder(orders_pb2.GetOrderRequest(id=order.id))).order
    assert now.state == orders_pb2.ORDER_STATE_PLACED
    assert await shop.row() == {"on_hand": 1, "reserved": 1}


def paying(order: orders_pb2.Order, method: Any = orders_pb2.PAYMENT_METHOD_SANDBOX) -> orders_pb2.PayOrderRequest:
    return orders_pb2.PayOrderRequest(request_id=fresh(), order_id=order.id, method=method, sandbox_token="approve")


@pytest.mark.parametrize("changed", [{"env": "production"}, {"sandbox_payments": "off"}])
async def test_where_the_sandbox_is_off_nobody_pays_by_saying_so(shop: Shop, take: Any, changed: dict[str, str]) -> None:
    order = await shop.placed()
    stub = shop.orders(consumer())
    for pays in (
        lambda: stub.PayOrder(paying(order)),
        lambda: stub.PayOrder(paying(order, orders_pb2.PAYMENT_METHOD_PROVIDER)),
        lambda: take(notice(approved(order))),
    ):
        with pytest.raises(Invalid, match="PAYMENT_METHOD_REFUSED") as refused:
            await pays()
        assert refused.value.metadata["field"] == "method"
    assert (await stub.GetOrder(orders_pb2.GetOrderRequest(id=order.id))).order.state == orders_pb2.ORDER_STATE_PLACED
    assert (await take(notice(approved(order), id="msg_2", sender="acme"))).acted
    paid = (await stub.GetOrder(orders_pb2.GetOrderRequest(id=order.id))).order
    assert (paid.state, paid.payment.method) == (orders_pb2.ORDER_STATE_PAID, orders_pb2.PAYMENT_METHOD_PROVIDER)


@pytest.mark.parametrize("changed", [{"env": "production", "sandbox_payments": "on"}])
async def test_a_demonstration_may_allow_the_sandbox_in_production(shop: Shop, take: Any, changed: dict[str, str]) -> None:
    await shop.stocked(on_hand=2)
    order, other = await shop.placed(), await shop.placed()
    assert (await shop.orders(consumer()).PayOrder(paying(order))).order.payment.method == orders_pb2.PAYMENT_METHOD_SANDBOX
    assert (await take(notice(approved(other)))).acted


async def test_nobody_but_the_gateway_hands_notices_over(shop: Shop, take: Any) -> None:
    order = await shop.placed()
    for grant in (consumer(), Grant("ROLE_OPERATOR", INSTALLATION)):
        with pytest.raises(Denied):
            await shop.orders(grant).TakePaymentNotice(notice(approved(order)))
