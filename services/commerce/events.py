"""The event handlers of commerce: one table from the kind of an event to its effect."""

from collections.abc import Mapping
from datetime import UTC

from quanyu.events.v1 import events_pb2
from services.commerce.orders import scenario
from services.commerce.orders.repository import OrderRepository
from services.commerce.stock.repository import StockRepository
from services.commerce.stock.rules import Store
from services.kit.events.inbox import Handler
from services.kit.mongo.codec import request_fields, to_struct
from services.kit.projections.persons import PersonProjection
from services.kit.runtime.runtime import Runtime
from services.kit.transactions.unit_of_work import UnitOfWork


def handlers(runtime: Runtime, stocks: StockRepository, orders: OrderRepository, persons: PersonProjection) -> Mapping[str, Handler]:
    """Returns the handler of each kind of event to which commerce subscribes."""

    async def store_changed(uow: UnitOfWork, event: events_pb2.Event) -> None:
        """Updates the scopes and the projection of the store."""
        await runtime.scopes.handle_store_changed(uow, event)
        store = request_fields(event.store_changed)
        await stocks.save_store(uow.session, to_struct({"active": False} | store | {"id": store["store_id"]}, Store))

    async def visit_started(uow: UnitOfWork, event: events_pb2.Event) -> None:
        started = event.visit_started
        visit = await orders.load_visit(started.consumer_id, uow.session)
        await orders.save_visit(uow.session, scenario.start_visit(visit, started.visit_id, event.at.ToDatetime(UTC)))

    async def visit_left(uow: UnitOfWork, event: events_pb2.Event) -> None:
        left = event.visit_left
        visit = await orders.load_visit(left.consumer_id, uow.session)
        await orders.save_visit(uow.session, scenario.end_visit(visit, left.visit_id, event.at.ToDatetime(UTC)))

    async def outreach_sent(uow: UnitOfWork, event: events_pb2.Event) -> None:
        sent = event.outreach_sent
        visit = await orders.load_visit(sent.consumer_id, uow.session)
        visit = scenario.record_message(visit, sent.brand_id, sent.outreach_id, event.at.ToDatetime(UTC))
        await orders.save_visit(uow.session, visit)

    return {
        "store_changed": store_changed,
        "visit_started": visit_started,
        "visit_left": visit_left,
        "outreach_sent": outreach_sent,
        "consumer_linked": persons.handle_consumer_linked,
        "consumer_unlinked": persons.handle_consumer_unlinked,
    }
