"""A run: the execution of one request, with its queue, its rpcs in progress and its errors.

The synchronous part of a plan puts deferred fields in `queue`. `execute_pending` turns the queue into rpcs, one for each batch, all
concurrently, until nothing is pending. When a response arrives, the fields that wait for it are completed and queue the next level.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphql import FieldNode, GraphQLError, located_error
from graphql.execution.values import VariableValues

from gateway.engine.pending import Container, Failure, FieldFailure, KeyLoad, Pending, Queued, Receiver, Slot
from gateway.schema.batch_loader import BatchLoader, BatchParameters

if TYPE_CHECKING:
    from gateway.engine.plan import Plan
    from gateway.schema.resolver_context import ResolverContext

_MISSING = object()


class Run:
    """The state of one request."""

    __slots__ = (
        "arguments",
        "bug",
        "coerce_exactly",
        "context",
        "data",
        "failures",
        "is_aborted",
        "jobs",
        "key_loads",
        "loads_to_dispatch",
        "plan",
        "put",
        "queue",
        "tasks",
        "variables",
        "wakeup",
    )

    def __init__(
        self,
        plan: Plan,
        context: ResolverContext,
        variables: Mapping[str, Any],
        coerce_exactly: Callable[[], VariableValues | list[GraphQLError]],
    ) -> None:
        self.plan, self.context, self.variables, self.coerce_exactly = plan, context, variables, coerce_exactly
        self.queue: list[Queued] = []
        self.put = self.queue.append
        self.key_loads: dict[tuple[BatchLoader, BatchParameters], KeyLoad] = {}
        self.loads_to_dispatch: list[KeyLoad] = []
        """Key loads with new keys."""
        self.jobs: list[Coroutine[Any, Any, None]] = []
        """Calls that have not started."""
        self.arguments: dict[Any, Any] = {}
        """The arguments of each deferred field, computed once for all objects."""
        self.failures: list[FieldFailure] = []
        self.tasks: set[asyncio.Task[None]] = set()
        """Calls in progress."""
        self.wakeup: asyncio.Future[None] | None = None
        self.bug: BaseException | None = None
        self.is_aborted = False
        self.data: dict[str, Any] | None = None
        """The answer so far. After an abort it is not returned, but still locates the errors."""

    def exact_variables(self) -> VariableValues:
        """Returns the variables with their sources, as graphql-core needs them."""
        values = self.coerce_exactly()
        assert not isinstance(values, list), "the variables were valid when the run was created"
        return values

    def key_load(self, loader: BatchLoader, parameters: BatchParameters) -> KeyLoad:
        """Returns the key load of a batch loader with these parameters."""
        load = self.key_loads.get((loader, parameters))
        if load is None:
            load = self.key_loads[loader, parameters] = KeyLoad(loader, parameters)
        return load

    def request_key(self, load: KeyLoad, key: str, pending: Pending) -> None:
        """Settles the receiver with the value of the key: at once if it has arrived, otherwise when it arrives."""
        waiting = load.waiting.get(key)
        if waiting is not None:
            waiting.append(pending)
            return
        value = load.values.get(key, _MISSING)
        if value is not _MISSING:
            receiver, _, container, slot = pending
            receiver.settle(self, value, container, slot)
            return
        load.waiting[key] = [pending]
        if not load.new_keys:
            self.loads_to_dispatch.append(load)
        load.new_keys.append(key)

    def add_call(self, receiver: Receiver, container: Container, slot: Slot, call: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Adds a call whose result settles the receiver."""
        self.jobs.append(self._call(receiver, container, slot, call, *args))

    def fail(self, nodes: Sequence[FieldNode], cause: Exception, container: Container | None, path: list[Slot]) -> None:
        """Records an error of the answer."""
        self.failures.append(FieldFailure(container, path, nodes, cause))

    def abort(self, nodes: Sequence[FieldNode], cause: Exception, path: list[Slot]) -> None:
        """Makes the whole answer null with this error, and cancels all calls that have not started."""
        self.fail(nodes, cause, None, path)
        self.is_aborted = True
        self.queue.clear()
        self.loads_to_dispatch.clear()
        for job in self.jobs:
            job.close()
        self.jobs.clear()

    async def execute_pending(self) -> None:
        """Makes all calls until nothing is pending."""
        try:
            while True:
                self._dispatch_queue()
                jobs, self.jobs = self.jobs, []
                if len(jobs) == 1 and not self.tasks:  # a single call needs no task
                    await jobs[0]
                    if self.queue:
                        continue
                    return
                for job in jobs:
                    task = asyncio.create_task(job)
                    self.tasks.add(task)
                    task.add_done_callback(self._finish_task)
                if not self.tasks:
                    return
                self.wakeup = asyncio.get_running_loop().create_future()
                await self.wakeup
                if self.bug is not None:
                    raise self.bug
        finally:
            for task in self.tasks:
                task.cancel()

    def _dispatch_queue(self) -> None:
        """Turns the queued fields into jobs."""
        while self.queue:
            queue = self.queue[:]
            self.queue.clear()
            reference: Any = None
            for pending in queue:
                field, key, container, slot = pending
                if type(key) is str:  # consecutive entries of one field share their key load
                    if field is not reference:
                        reference = field
                        load = self.key_load(*reference.load_key)
                    self.request_key(load, key, pending)
                    continue
                field.start(self, key, container, slot)
                if self.is_aborted:
                    return
        for load in self.loads_to_dispatch:
            keys, load.new_keys = load.new_keys, []
            keys_max = load.loader.keys_max
            for start in range(0, len(keys), keys_max):
                self.jobs.append(self._load_keys(load, keys[start : start + keys_max]))
        self.loads_to_dispatch.clear()

    def _finish_task(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            self.bug = bug
        if self.wakeup is not None and not self.wakeup.done() and (self.queue or self.bug or not self.tasks):
            self.wakeup.set_result(None)

    async def _call(self, receiver: Receiver, container: Container, slot: Slot, call: Callable[..., Awaitable[Any]], *args: Any) -> None:
        try:
            value = await call(*args)
        except Exception as cause:
            value = Failure(cause)
        receiver.settle(self, value, container, slot)

    async def _load_keys(self, load: KeyLoad, keys: list[str]) -> None:
        try:
            values = load.loader.extract_values(await self.context.call(load.loader.build_request(keys, load.parameters)), keys)
        except Exception as cause:
            values = [Failure(cause)] * len(keys)
        for key, value in zip(keys, values, strict=True):
            load.values[key] = value
            completed_by: Receiver | None = None
            completed: Any = None
            for receiver, _, container, slot in load.waiting.pop(key):
                if receiver is completed_by:
                    container[slot] = completed
                elif receiver.settle(self, value, container, slot) and receiver.is_pure:
                    completed_by, completed = receiver, container[slot]

    def errors(self) -> list[GraphQLError]:
        """Returns the errors with their paths in the answer."""
        containers = {id(failure.container) for failure in self.failures if failure.container is not None}
        paths = _find_paths(self.data, containers)
        return [
            located_error(
                failure.cause, failure.nodes, [*(paths[id(failure.container)] if failure.container is not None else ()), *failure.path]
            )
            for failure in self.failures
        ]


def _find_paths(data: Any, containers: set[int]) -> dict[int, tuple[Slot, ...]]:
    """Returns the paths of these objects and lists (by id) in the answer."""
    found: dict[int, tuple[Slot, ...]] = {}
    stack: list[tuple[Any, tuple[Slot, ...]]] = [(data, ())]
    while stack and len(found) < len(containers):
        value, path = stack.pop()
        if id(value) in containers:
            found[id(value)] = path
        if isinstance(value, dict):
            stack.extend((part, (*path, key)) for key, part in value.items() if isinstance(part, dict | list))
        elif isinstance(value, list):
            stack.extend((part, (*path, index)) for index, part in enumerate(value) if isinstance(part, dict | list))
    return found
