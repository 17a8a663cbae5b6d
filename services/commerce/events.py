"""What commerce does about the events it hears."""

from collections.abc import Mapping
from datetime import UTC

from quanyu.events.v1 import events_pb2
from services.commerce.orders import scenario
from services.commerce.orders.repository import OrderRepository
from services.commerce.stock.repository import StockRepository
from services.commerce.stock.rules import Store
from services.kit.mongo.codec import as_struct, fields
from services.kit.projections.persons import PersonProjection
from services.kit.runtime.runtime import Handler, Runtime
from services.kit.transactions.unit_of_work import UnitOfWork


def handlers(runtime: Runtime, stocks: StockRepository, orders: OrderRepository, persons: PersonProjection) -> Mapping[str, Handler]:
    """The table: kind of event -> its effect here."""

    async def store_changed(uow: UnitOfWork, event: events_pb2.Event) -> None:
        """Scopes, and what promises need to know of the store."""
        await runtime.scopes.store_changed(uow, event)
        told = fields(event.store_changed)
        await stocks.keep_store(uow.session, as_struct({"active": False} | told | {"id": told["store_id"]}, Store))

    async def visit_started(uow: UnitOfWork, event: events_pb2.Event) -> None:
        told = event.visit_started
        visit = await orders.visit_under(told.consumer_id, uow.session)
        await orders.keep_visit(uow.session, scenario.entered(visit, told.visit_id, event.at.ToDatetime(UTC)))

    async def visit_left(uow: UnitOfWork, event: events_pb2.Event) -> None:
        told = event.visit_left
        visit = await orders.visit_under(told.consumer_id, uow.session)
        await orders.keep_visit(uow.session, scenario.left(visit, told.visit_id, event.at.ToDatetime(UTC)))

    async def outreach_sent(uow: UnitOfWork, event: events_pb2.Event) -> None:
        told = event.outreach_sent
        visit = await orders.visit_under(told.consumer_id, uow.session)
        await orders.keep_visit(uow.session, scenario.reached(visit, told.brand_id, told.outreach_id, event.at.ToDatetime(UTC)))

    return {
        "store_changed": store_changed,
        "visit_started": visit_started,
        "visit_left": visit_left,
        "outreach_sent": outreach_sent,
        "consumer_linked": persons.linked,
        "consumer_unlinked": persons.unlinked,
    }
