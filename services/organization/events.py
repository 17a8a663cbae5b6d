"""What the organization does about the facts of other services."""

from collections.abc import Mapping

from quanyu.facts.v1 import facts_pb2
from services.kit.events.inbox import Together
from services.kit.projections.persons import Persons
from services.kit.runtime.runtime import Handler
from services.kit.transactions.unit_of_work import Unit
from services.organization.targets.repository import Targets
from services.organization.tasks.repository import Tasks


def table(targets: Targets, tasks: Tasks, persons: Persons) -> Mapping[str, Handler]:
    """Fact -> effect."""

    async def consumer_linked(unit: Unit, fact: facts_pb2.Fact) -> None:
        await persons.linked(unit, fact)
        await tasks.follow(unit, [fact.consumer_linked.consumer_id])

    async def consumer_unlinked(unit: Unit, fact: facts_pb2.Fact) -> None:
        await persons.unlinked(unit, fact)
        await tasks.follow(unit, [fact.consumer_unlinked.consumer_id, fact.consumer_unlinked.linked_consumer_id])

    async def consumer_bound(unit: Unit, fact: facts_pb2.Fact) -> None:
        await targets.bind(unit, fact.consumer_bound)
        await tasks.follow(unit, [fact.consumer_bound.consumer_id, *fact.consumer_bound.ended_consumer_ids])

    async def outreach_sent(unit: Unit, fact: facts_pb2.Fact) -> None:
        await targets.wrote(unit, fact.outreach_sent)
        if fact.outreach_sent.task_id:
            await tasks.answered(unit, fact.outreach_sent)

    return {
        "consumer_linked": consumer_linked,
        "consumer_unlinked": consumer_unlinked,
        "consumer_bound": consumer_bound,
        "outreach_sent": outreach_sent,
        "order_paid": Together(targets.orders_paid),
        "orders_imported": Together(targets.orders_imported),
        "visit_left": tasks.visit_left,
    }
