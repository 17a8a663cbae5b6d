"""Event handlers: the effects of other services' events on organization."""

from collections.abc import Mapping

from quanyu.events.v1 import events_pb2
from services.kit.events.inbox import BatchHandler, Handler
from services.kit.projections.persons import PersonProjection
from services.kit.transactions.unit_of_work import UnitOfWork
from services.organization.targets.repository import TargetRepository
from services.organization.tasks.repository import TaskRepository


def handlers(targets: TargetRepository, tasks: TaskRepository, persons: PersonProjection) -> Mapping[str, Handler]:
    """Returns the handler of each subscribed event, by the name of its field."""

    async def consumer_linked(uow: UnitOfWork, event: events_pb2.Event) -> None:
        await persons.handle_consumer_linked(uow, event)
        await tasks.reassign(uow, [event.consumer_linked.consumer_id])

    async def consumer_unlinked(uow: UnitOfWork, event: events_pb2.Event) -> None:
        await persons.handle_consumer_unlinked(uow, event)
        await tasks.reassign(uow, [event.consumer_unlinked.consumer_id, event.consumer_unlinked.linked_consumer_id])

    async def consumer_bound(uow: UnitOfWork, event: events_pb2.Event) -> None:
        await targets.guides.save_binding(uow, event.consumer_bound)
        await tasks.reassign(uow, [event.consumer_bound.consumer_id, *event.consumer_bound.ended_consumer_ids])

    async def outreach_sent(uow: UnitOfWork, event: events_pb2.Event) -> None:
        await targets.guides.save_outreach(uow, event.outreach_sent)
        if event.outreach_sent.task_id:
            await tasks.close_task(uow, event.outreach_sent)

    return {
        "consumer_linked": consumer_linked,
        "consumer_unlinked": consumer_unlinked,
        "consumer_bound": consumer_bound,
        "outreach_sent": outreach_sent,
        "order_paid": BatchHandler(targets.count_paid_orders),
        "orders_imported": BatchHandler(targets.count_imported_orders),
        "visit_left": tasks.create_follow_ups,
    }
