"""What the organization does about the facts of other services."""

from collections.abc import Mapping

from quanyu.facts.v1 import facts_pb2
from services.kit.facts.inbox import Together
from services.kit.house import Handler
from services.kit.unit import Unit
from services.organization.targets.store import Targets
from services.organization.tasks.store import Tasks


def table(targets: Targets, tasks: Tasks) -> Mapping[str, Handler]:
    """Fact -> effect."""

    async def consumer_bound(unit: Unit, fact: facts_pb2.Fact) -> None:
        await targets.bind(unit, fact.consumer_bound)
        await tasks.rebound(unit, fact.consumer_bound)

    async def outreach_sent(unit: Unit, fact: facts_pb2.Fact) -> None:
        await targets.wrote(unit, fact.outreach_sent)
        if fact.outreach_sent.task_id:
            await tasks.answered(unit, fact.outreach_sent)

    return {
        "consumer_bound": consumer_bound,
        "outreach_sent": outreach_sent,
        "order_paid": Together(targets.orders_paid),
        "orders_imported": Together(targets.orders_imported),
        "visit_left": tasks.visit_left,
    }
