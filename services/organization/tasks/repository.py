"""Repository of tasks, and the effects of events on them."""

from collections.abc import Iterable, Sequence
from typing import Any

from pymongo import ASCENDING, IndexModel

from quanyu.events.v1 import events_pb2
from quanyu.organization.v1 import tasks_pb2
from services.kit.enums import ScopeKind
from services.kit.mongo import codec
from services.kit.mongo.client import Document
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.projections.persons import PersonProjection
from services.kit.rpc.change_feed import ChangeFeed, feed_index
from services.kit.runtime.runtime import Runtime
from services.kit.transactions.unit_of_work import UnitOfWork
from services.organization.chart.repository import StaffScopedCollection
from services.organization.targets.repository import TargetRepository
from services.organization.targets.rules import latest_bindings
from services.organization.tasks import rules
from services.organization.tasks.enums import TaskState
from services.organization.tasks.rules import CLOSED, Coupon, Task, Visit

TASKS_PER_PERSON_MAX = 1_000
"""At most this many tasks about one person are read together: those of a day (one for each brand), or the open ones."""
SUBJECTS = ("staff_id", "store_id")
"""The fields by which a subscription selects tasks."""
OPEN_STATES = sorted(set(TaskState) - CLOSED)


class TaskRepository:
    """Tasks. The assignee, managers of the store and roles above the store see them."""

    def __init__(self, runtime: Runtime, targets: TargetRepository, persons: PersonProjection) -> None:
        self.targets, self.persons = targets, persons
        due = [("state", ASCENDING), ("due_at", ASCENDING), ("_id", ASCENDING)]
        self.tasks = StaffScopedCollection(
            runtime.database, "tasks", noun="TASK", struct=Task, message=tasks_pb2.Task,
            scopes={ScopeKind.BRAND: "brand_id", ScopeKind.STORE: "store_id", ScopeKind.STAFF: "staff_id"},
            indexes=[
                IndexModel([("staff_id", ASCENDING), *due]),
                IndexModel([("store_id", ASCENDING), *due]),
                *(feed_index(subject) for subject in SUBJECTS),
                IndexModel([("visitor_id", ASCENDING), ("state", ASCENDING)]),
            ],
            records_change_time=True,
        )  # fmt: skip
        self.feed = ChangeFeed(runtime.change_streams, self.tasks, keys=SUBJECTS)
        self.collections: Sequence[ScopedCollection[Any]] = (self.tasks,)

    async def create_follow_ups(self, uow: UnitOfWork, event: events_pb2.Event) -> None:
        """Handles VisitLeft: asks the guide of each brand with unspent coupons to follow up, with one task for the day's pack."""
        left = event.visit_left
        unspent = rules.group_by_brand((coupon.brand_id, codec.to_struct(codec.request_fields(coupon), Coupon)) for coupon in left.unspent)
        person = await self.persons.find(left.consumer_id, uow.session)
        bindings = await self.targets.guides.load_bindings({person: unspent}, uow.session)
        visit = Visit(left.visit_id, left.consumer_id, left.district_id, left.day, unspent, uow.at)
        of_day = {"visitor_id": {"$in": sorted(person.ids)}, "district_id": left.district_id, "day": left.day}
        existing = await self._find(of_day, uow)
        updated, created = rules.follow_up(visit, latest_bindings(bindings[person]), existing)
        for before, task in zip(existing, updated, strict=True):
            await self.tasks.unscoped.replace(uow, task, before=before)
        for task in created:
            await self.tasks.unscoped.insert(uow, task)

    async def reassign(self, uow: UnitOfWork, consumer_ids: Iterable[str]) -> None:
        """Gives the open tasks about these persons to their current guides, or withdraws them."""
        for person in set((await self.persons.find_many(consumer_ids, uow.session)).values()):
            query = {"visitor_id": {"$in": sorted(person.ids)}, "state": {"$in": OPEN_STATES}}
            tasks = await self._find(query, uow)
            bindings = await self.targets.guides.load_bindings({person: {task.brand_id for task in tasks}}, uow.session)
            current = latest_bindings(bindings[person])
            for task in tasks:
                after = rules.reassign(task, current.get(task.brand_id), uow.at)
                await self.tasks.unscoped.replace(uow, after, before=task)

    async def close_task(self, uow: UnitOfWork, sent: events_pb2.OutreachSent) -> None:
        """Closes the task that a message names. An unknown task is ignored."""
        document: Document | None = await self.tasks.collection.find_one({"_id": sent.task_id}, session=uow.session)
        if document is None:
            return
        task = codec.to_struct(document, Task)
        person = await self.persons.find(sent.consumer_id, uow.session)
        closed = rules.close_by_outreach(task, person.ids, sent.brand_id, sent.outreach_id, uow.at)
        await self.tasks.unscoped.replace(uow, closed, before=task)

    async def _find(self, query: Document, uow: UnitOfWork) -> list[Task]:
        documents = await self.tasks.collection.find(query, session=uow.session).to_list(TASKS_PER_PERSON_MAX)
        return [codec.to_struct(document, Task) for document in documents]
