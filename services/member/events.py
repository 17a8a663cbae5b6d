"""What member does about each event it hears. A test holds this table against the routes in events.proto."""

from collections.abc import Mapping, Sequence
from datetime import UTC

from quanyu.events.v1 import events_pb2
from services.kit.events.inbox import BatchHandler, Happened
from services.kit.mongo.codec import fields
from services.kit.runtime.runtime import Handler
from services.kit.transactions.unit_of_work import UnitOfWork
from services.member.identity.repository import ConsumerRepository
from services.member.outreach.repository import BindingRepository, OutreachRepository
from services.member.relation import interactions
from services.member.relation.repository import RelationRepository
from services.member.store_projection import StoreProjection


def handlers(
    stores: StoreProjection,
    consumers: ConsumerRepository,
    relations: RelationRepository,
    bindings: BindingRepository,
    outreaches: OutreachRepository,
) -> Mapping[str, Handler]:
    """Event -> effect."""

    async def pack_issued(uow: UnitOfWork, event: events_pb2.Event) -> None:
        """Each brand with a coupon in the pack reached the consumer."""
        await relations.record(uow, interactions.of_pack(fields(event.pack_issued), event.at.ToDatetime(tzinfo=UTC)))

    async def order_paid(uow: UnitOfWork, event: events_pb2.Event) -> None:
        """A purchase with each brand in the order; the outcome of what a guide wrote before."""
        order = event.order_paid.order
        await relations.record(uow, interactions.of_order(order))
        if order.consumer_id:
            people = await consumers.people([order.consumer_id], uow.session)
            await outreaches.ordered(uow, fields(order), people.ids_of(order.consumer_id))

    async def orders_imported(happened: Sequence[Happened]) -> None:
        """Purchases of the past; nobody wrote to anybody then."""
        orders = (order for _, event in happened for order in event.orders_imported.orders)
        await relations.record(happened[0][0], [one for order in orders for one in interactions.of_order(order)])

    return {
        "store_changed": stores.changed,
        "staff_changed": bindings.staff_changed,
        "pack_issued": pack_issued,
        "order_paid": order_paid,
        "orders_imported": BatchHandler(orders_imported),
    }
