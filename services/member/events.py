"""Event handlers of the member service. A test compares the handled events with the routes in events.proto."""

from collections.abc import Mapping, Sequence
from datetime import UTC

from quanyu.events.v1 import events_pb2
from services.kit.events.inbox import BatchHandler, EventInUnit, Handler
from services.kit.mongo.codec import request_fields
from services.kit.transactions.unit_of_work import UnitOfWork
from services.member.identity.repository import ConsumerRepository
from services.member.outreach.repository import BindingRepository, OutreachRepository
from services.member.relation import interactions
from services.member.relation.repository import RelationRepository
from services.member.store_projection import StoreProjection


def build_handlers(
    stores: StoreProjection,
    consumers: ConsumerRepository,
    relations: RelationRepository,
    bindings: BindingRepository,
    outreaches: OutreachRepository,
) -> Mapping[str, Handler]:
    """Returns the handler of each event."""

    async def record_pack(uow: UnitOfWork, event: events_pb2.Event) -> None:
        """Records an interaction with each brand that has a coupon in the pack."""
        await relations.record(uow, interactions.from_pack(request_fields(event.pack_issued), event.at.ToDatetime(tzinfo=UTC)))

    async def record_order(uow: UnitOfWork, event: events_pb2.Event) -> None:
        """Records a purchase with each brand of the order, and the order as the outcome of earlier messages."""
        order = event.order_paid.order
        await relations.record(uow, interactions.from_order(order))
        if order.consumer_id:
            people = await consumers.find_people([order.consumer_id], uow.session)
            await outreaches.record_order(uow, request_fields(order), people.list_consumer_ids(order.consumer_id))

    async def record_imported_orders(batch: Sequence[EventInUnit]) -> None:
        """Records past purchases; they are no outcome of messages."""
        orders = (order for _, event in batch for order in event.orders_imported.orders)
        await relations.record(batch[0][0], [interaction for order in orders for interaction in interactions.from_order(order)])

    return {
        "store_changed": stores.apply_store_changed,
        "staff_changed": bindings.apply_staff_changed,
        "pack_issued": record_pack,
        "order_paid": record_order,
        "orders_imported": BatchHandler(record_imported_orders),
    }
