"""What the organization does about the facts of other services."""

from collections.abc import Mapping

from quanyu.facts.v1 import facts_pb2
from services.kit.events.inbox import BatchHandler
from services.kit.projections.persons import PersonProjection
from services.kit.runtime.runtime import Handler
from services.kit.transactions.unit_of_work import UnitOfWork
from services.organization.targets.repository import TargetRepository
from services.organization.tasks.repository import TaskRepository


def handlers(targets: TargetRepository, tasks: TaskRepository, persons: PersonProjection) -> Mapping[str, Handler]:
    """Fact -> effect."""

    async def consumer_linked(uow: UnitOfWork, fact: facts_pb2.Fact) -> None:
        await persons.linked(uow, fact)
        await tasks.follow(uow, [fact.consumer_linked.consumer_id])

    async def consumer_unlinked(uow: UnitOfWork, fact: facts_pb2.Fact) -> None:
        await persons.unlinked(uow, fact)
        await tasks.follow(uow, [fact.consumer_unlinked.consumer_id, fact.consumer_unlinked.linked_consumer_id])

    async def consumer_bound(uow: UnitOfWork, fact: facts_pb2.Fact) -> None:
        await targets.bind(uow, fact.consumer_bound)
        await tasks.follow(uow, [fact.consumer_bound.consumer_id, *fact.consumer_bound.ended_consumer_ids])

    async def outreach_sent(uow: UnitOfWork, fact: facts_pb2.Fact) -> None:
        await targets.wrote(uow, fact.outreach_sent)
        if fact.outreach_sent.task_id:
            await tasks.answered(uow, fact.outreach_sent)

    return {
        "consumer_linked": consumer_linked,
        "consumer_unlinked": consumer_unlinked,
        "consumer_bound": consumer_bound,
        "outreach_sent": outreach_sent,
        "order_paid": BatchHandler(targets.orders_paid),
        "orders_imported": BatchHandler(targets.orders_imported),
        "visit_left": tasks.visit_left,
    }
