"""What the organization does about the events of other services."""

from collections.abc import Mapping

from quanyu.events.v1 import events_pb2
from services.kit.events.inbox import BatchHandler
from services.kit.projections.persons import PersonProjection
from services.kit.runtime.runtime import Handler
from services.kit.transactions.unit_of_work import UnitOfWork
from services.organization.targets.repository import TargetRepository
from services.organization.tasks.repository import TaskRepository


def handlers(targets: TargetRepository, tasks: TaskRepository, persons: PersonProjection) -> Mapping[str, Handler]:
    """Event -> effect."""

    async def consumer_linked(uow: UnitOfWork, event: events_pb2.Event) -> None:
        await persons.linked(uow, event)
        await tasks.follow(uow, [event.consumer_linked.consumer_id])

    async def consumer_unlinked(uow: UnitOfWork, event: events_pb2.Event) -> None:
        await persons.unlinked(uow, event)
        await tasks.follow(uow, [event.consumer_unlinked.consumer_id, event.consumer_unlinked.linked_consumer_id])

    async def consumer_bound(uow: UnitOfWork, event: events_pb2.Event) -> None:
        await targets.bind(uow, event.consumer_bound)
        await tasks.follow(uow, [event.consumer_bound.consumer_id, *event.consumer_bound.ended_consumer_ids])

    async def outreach_sent(uow: UnitOfWork, event: events_pb2.Event) -> None:
        await targets.wrote(uow, event.outreach_sent)
        if event.outreach_sent.task_id:
            await tasks.answered(uow, event.outreach_sent)

    return {
        "consumer_linked": consumer_linked,
        "consumer_unlinked": consumer_unlinked,
        "consumer_bound": consumer_bound,
        "outreach_sent": outreach_sent,
        "order_paid": BatchHandler(targets.orders_paid),
        "orders_imported": BatchHandler(targets.orders_imported),
        "visit_left": tasks.visit_left,
    }
