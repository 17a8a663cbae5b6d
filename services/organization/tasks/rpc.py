"""TaskServicer: tasks of staff, and their change feed."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from quanyu.organization.v1 import tasks_pb2, tasks_pb2_grpc
from services.kit.errors import Invalid
from services.kit.mongo.client import Document
from services.kit.mongo.codec import request_fields
from services.kit.rpc import batch_lists
from services.kit.runtime.runtime import Runtime
from services.kit.transactions.unit_of_work import UnitOfWork, transactional
from services.organization.tasks import rules
from services.organization.tasks.enums import Reason, TaskOutcome, TaskState
from services.organization.tasks.repository import TaskRepository

DUE_FIRST = [("due_at", 1)]


class TaskServicer(tasks_pb2_grpc.TaskServiceServicer):
    """The rpcs of `TaskService`."""

    def __init__(self, runtime: Runtime, tasks: TaskRepository) -> None:
        self.transactions, self.tasks, self.feed = runtime.transactions, tasks.tasks, tasks.feed

    @transactional
    async def AcknowledgeTask(self, request: tasks_pb2.AcknowledgeTaskRequest, uow: UnitOfWork) -> tasks_pb2.AcknowledgeTaskResponse:
        return tasks_pb2.AcknowledgeTaskResponse(task=await self.tasks.apply_rule(uow, request.task_id, rules.acknowledge, at=uow.at))

    @transactional
    async def CompleteTask(self, request: tasks_pb2.CompleteTaskRequest, uow: UnitOfWork) -> tasks_pb2.CompleteTaskResponse:
        outcome = TaskOutcome(request_fields(request)["outcome"]) if request.outcome else None
        task = await self.tasks.apply_rule(uow, request.task_id, rules.complete, outcome=outcome, at=uow.at)
        return tasks_pb2.CompleteTaskResponse(task=task)

    async def GetTask(self, request: tasks_pb2.GetTaskRequest, context: Any) -> tasks_pb2.GetTaskResponse:
        return tasks_pb2.GetTaskResponse(task=await self.tasks.get(request.id))

    async def BatchGetTasks(self, request: tasks_pb2.BatchGetTasksRequest, context: Any) -> tasks_pb2.BatchGetTasksResponse:
        return tasks_pb2.BatchGetTasksResponse(tasks=await self.tasks.batch(request.ids))

    async def ListTasks(self, request: tasks_pb2.ListTasksRequest, context: Any) -> tasks_pb2.ListTasksResponse:
        subject, id = _subject(request)
        tasks, page = await self.tasks.page({subject: id} | _state_filter(request), request.page, order=DUE_FIRST)
        return tasks_pb2.ListTasksResponse(tasks=tasks, page=page)

    async def BatchListTasks(self, request: tasks_pb2.BatchListTasksRequest, context: Any) -> tasks_pb2.BatchListTasksResponse:
        subject, ids = batch_lists.selected_ids(request, "staff_ids", "store_ids")
        state = _state_filter(request)
        found = await self.tasks.first_pages({id: {subject: id} | state for id in ids}, request.first, order=DUE_FIRST)
        return tasks_pb2.BatchListTasksResponse(subjects=batch_lists.to_lists("key", "tasks", found))

    async def WatchTasks(
        self, request: tasks_pb2.WatchTasksRequest, context: Any
    ) -> AsyncGenerator[tasks_pb2.WatchTasksResponse, None]:  # fmt: skip
        async with aclosing(self.feed.follow(context, request.after, *_subject(request))) as feed:
            async for changes in feed:
                for change in changes:
                    yield tasks_pb2.WatchTasksResponse(task=change.document, cursor=change.cursor)


def _subject(request: tasks_pb2.ListTasksRequest | tasks_pb2.WatchTasksRequest) -> tuple[str, str]:
    """Returns the field of a task that the request selects by, and its value."""
    subject = request.WhichOneof("subject")
    if subject is None:
        raise Invalid(Reason.SUBJECT_REQUIRED, "The subject is missing. Set `staffId` or `storeId`.", field="staff_id")
    return subject, getattr(request, subject)


def _state_filter(request: tasks_pb2.ListTasksRequest | tasks_pb2.BatchListTasksRequest) -> Document:
    # Without a state in the request, all states are listed, so that the index can give the order.
    return {"state": {"$in": [request_fields(request)["state"]] if request.state else sorted(TaskState)}}
