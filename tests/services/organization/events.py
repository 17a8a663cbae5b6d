"""Events of other services, as the tests of organization deliver them."""

import time
from datetime import UTC, datetime, timedelta

from quanyu.common.v1 import touch_pb2
from quanyu.common.v1.money_pb2 import Money
from quanyu.events.v1 import events_pb2
from tests.services.organization.conftest import Organization

AT = datetime(2026, 5, 20, 13, 40, tzinfo=UTC)
APP, COUNTER = touch_pb2.TOUCHPOINT_APP, touch_pb2.TOUCHPOINT_STORE
URGENT, IN_STORE = touch_pb2.SCENARIO_URGENT_NEED, touch_pb2.SCENARIO_IN_STORE


def order_summary(id: str, store_id: str = "str_1", minor: int = 100, **changes: object) -> events_pb2.OrderSummary:
    line = events_pb2.OrderLine(brand_id="brd_a", variant_id="var_1", quantity=2, paid=Money(minor=minor, currency="CNY"))
    summary = {
        "consumer_id": "con_1", "store_id": store_id, "seller_id": "brd_a", "touchpoint": APP, "scenario": URGENT, "paid_at": AT,
        "lines": [line],
    }  # fmt: skip
    return events_pb2.OrderSummary(order_id=id, **(summary | changes))


def make_event(body: object, key: str, at: datetime = AT) -> events_pb2.Event:
    kinds = events_pb2.Event.DESCRIPTOR.oneofs_by_name["body"].fields
    kind = next(field.name for field in kinds if field.message_type is type(body).DESCRIPTOR)
    return events_pb2.Event(id=f"evt_{key}_{time.monotonic_ns()}", key=key, at=at, source="commerce", **{kind: body})


def order_paid(summary: events_pb2.OrderSummary) -> events_pb2.Event:
    return make_event(events_pb2.OrderPaid(order_id=summary.order_id, order=summary), summary.order_id)


async def deliver(service: Organization, *events: events_pb2.Event, source: str = "commerce") -> None:
    for one in events:
        one.source = source
    states = {one.state for one in await service.running.deliver(*events, source=source)}
    assert states == {events_pb2.DELIVERY_STATE_APPLIED}


def consumer_bound(staff_id: str, consumer_id: str = "con_1", days: float = 30, **more: object) -> events_pb2.Event:
    store_id = "str_1" if staff_id else ""
    body = events_pb2.ConsumerBound(consumer_id=consumer_id, brand_id="brd_a", staff_id=staff_id, store_id=store_id, **more)  # type: ignore[arg-type]
    return make_event(body, consumer_id, AT - timedelta(days=days))


def outreach_sent(staff_id: str, days: float, consumer_id: str = "con_1") -> events_pb2.Event:
    body = events_pb2.OutreachSent(
        outreach_id=f"out_{days}", consumer_id=consumer_id, brand_id="brd_a", staff_id=staff_id, store_id="str_1"
    )
    return make_event(body, consumer_id, AT - timedelta(days=days))


def consumer_linked(days: float, consumer_id: str = "con_1", linked_consumer_id: str = "con_twin") -> events_pb2.Event:
    body = events_pb2.ConsumerLinked(consumer_id=consumer_id, linked_consumer_id=linked_consumer_id)
    return make_event(body, linked_consumer_id, AT - timedelta(days=days))


def consumer_unlinked(days: float, consumer_id: str = "con_1", linked_consumer_id: str = "con_twin") -> events_pb2.Event:
    body = events_pb2.ConsumerUnlinked(consumer_id=consumer_id, linked_consumer_id=linked_consumer_id)
    return make_event(body, linked_consumer_id, AT - timedelta(days=days))
