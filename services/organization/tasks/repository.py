"""The tasks' collection, and what events of other services do to it."""

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
from services.organization.chart.repository import Overseen
from services.organization.targets.repository import TargetRepository
from services.organization.targets.rules import guides
from services.organization.tasks import rules
from services.organization.tasks.enums import TaskState
from services.organization.tasks.rules import CLOSED, Coupon, Task, Visit

OF_ONE_MAX = 1_000
"""Tasks about one person that are looked at together: of a day, or those that are open; a day has one of each brand at most."""
SUBJECTS = ("staff_id", "store_id")
"""Whose tasks one may follow."""
UNCLOSED = sorted(set(TaskState) - CLOSED)


class TaskRepository:
    """Tasks, seen by their assignee and by whoever runs the store or stands above it."""

    def __init__(self, runtime: Runtime, targets: TargetRepository, persons: PersonProjection) -> None:
        self.targets, self.persons = targets, persons
        due = [("state", ASCENDING), ("due_at", ASCENDING), ("_id", ASCENDING)]
        self.tasks = Overseen(
            runtime.database, "tasks", noun="TASK", struct=Task, message=tasks_pb2.Task,
            scopes={ScopeKind.BRAND: "brand_id", ScopeKind.STORE: "store_id", ScopeKind.STAFF: "staff_id"},
            indexes=[
                IndexModel([("staff_id", ASCENDING), *due]),
                IndexModel([("store_id", ASCENDING), *due]),
                *(feed_index(subject) for subject in SUBJECTS),
                IndexModel([("visitor_id", ASCENDING), ("state", ASCENDING)]),
            ],
            stamped=True,
        )  # fmt: skip
        self.feed = ChangeFeed(runtime.change_streams, self.tasks, keys=SUBJECTS)
        self.tables: Sequence[ScopedCollection[Any]] = (self.tasks,)

    async def visit_left(self, uow: UnitOfWork, event: events_pb2.Event) -> None:
        """She left with coupons unspent: the guide of each of those brands follows up, once for the day's pack."""
        left = event.visit_left
        unspent = rules.by_brand((coupon.brand_id, codec.as_struct(codec.fields(coupon), Coupon)) for coupon in left.unspent)
        person = await self.persons.of(left.consumer_id, uow.session)
        bound = await self.targets.bound({person: unspent}, uow.session)
        visit = Visit(left.visit_id, left.consumer_id, left.district_id, left.day, unspent, uow.at)
        of_day = {"visitor_id": {"$in": sorted(person.ids)}, "district_id": left.district_id, "day": left.day}
        standing = await self._found(of_day, uow)
        again, fresh = rules.follow_up(visit, guides(bound[person]), standing)
        for before, task in zip(standing, again, strict=True):
            await self.tasks.unscoped.replace(uow, task, before=before)
        for task in fresh:
            await self.tasks.unscoped.insert(uow, task)

    async def follow(self, uow: UnitOfWork, consumer_ids: Iterable[str]) -> None:
        """The open tasks about what these persons did go to whoever looks after them now, or are withdrawn."""
        for person in set((await self.persons.behind(consumer_ids, uow.session)).values()):
            query = {"visitor_id": {"$in": sorted(person.ids)}, "state": {"$in": UNCLOSED}}
            tasks = await self._found(query, uow)
            bound = await self.targets.bound({person: {task.brand_id for task in tasks}}, uow.session)
            current = guides(bound[person])
            for task in tasks:
                after = rules.rebind(task, current.get(task.brand_id), uow.at)
                await self.tasks.unscoped.replace(uow, after, before=task)

    async def _found(self, query: Document, uow: UnitOfWork) -> list[Task]:
        rows = await self.tasks.collection.find(query, session=uow.session).to_list(OF_ONE_MAX)
        return [codec.as_struct(row, Task) for row in rows]

    async def answered(self, uow: UnitOfWork, sent: events_pb2.OutreachSent) -> None:
        """A message that names a task closes it."""
        row: Document | None = await self.tasks.collection.find_one({"_id": sent.task_id}, session=uow.session)
        if row is None:
            return
        task = codec.as_struct(row, Task)
        person = await self.persons.of(sent.consumer_id, uow.session)
        answered = rules.reached(task, person.ids, sent.brand_id, sent.outreach_id, uow.at)
        await self.tasks.unscoped.replace(uow, answered, before=task)
