"""One request: what is pending, what came, and what failed.

A sync part of the plan puts deferred fields in `queue`. `drain` turns the queue into calls, one for each batch and all at once, until
nothing is pending; as an answer arrives, what waits for it is completed and puts the next level in the queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from graphql import FieldNode, GraphQLError, located_error
from graphql.execution.values import VariableValues

from gateway.schema.references import Batch, Bound

if TYPE_CHECKING:
    from gateway.engine.plan import Plan
    from gateway.schema.resolver_context import ResolverContext

Container = Any
"""The object or list of the answer that a value belongs in."""
Slot = str | int
"""Its place there."""


class Failure(NamedTuple):
    """What came instead of a value."""

    cause: Exception


class Failed(NamedTuple):
    """An error of the answer: `path` begins at the slot of the container (at the root without one)."""

    container: Container | None
    path: list[Slot]
    nodes: Sequence[FieldNode]
    cause: Exception


class Waiter(Protocol):
    """What waits for a value: a deferred field, or a part of one."""

    pure: bool
    """Nothing below it is deferred, so that equal values have equal answers."""

    def settle(self, run: Run, value: Any, container: Container, slot: Slot) -> bool:
        """Completes the value (or a `Failure`) in its place; whether all of it is in order."""


class Target(Waiter, Protocol):
    """What stands in the queue: a deferred field."""

    def start(self, run: Run, key: Any, container: Container, slot: Slot) -> None:
        """Makes what it waits for pending."""


Pending = tuple[Waiter, Any, Container, Slot]
"""What waits for a value, the key it waits for, and the value's place."""
Queued = tuple[Target, Any, Container, Slot]


class Load:
    """The keys of one batch within one request: each is asked for once."""

    __slots__ = ("batch", "bound", "fresh", "known", "waiting")

    def __init__(self, batch: Batch, bound: Bound) -> None:
        self.batch, self.bound = batch, bound
        self.fresh: list[str] = []
        self.known: dict[str, Any] = {}
        self.waiting: dict[str, list[Pending]] = {}


_UNKNOWN = object()


class Run:
    """The state of one request; it ends with it."""

    __slots__ = (
        "bug",
        "context",
        "data",
        "doomed",
        "exact",
        "failures",
        "flying",
        "given",
        "jobs",
        "landed",
        "loads",
        "plan",
        "put",
        "queue",
        "touched",
        "variables",
    )

    def __init__(
        self, plan: Plan, context: ResolverContext, variables: Mapping[str, Any], exact: Callable[[], VariableValues | list[GraphQLError]]
    ) -> None:
        self.plan, self.context, self.variables, self.exact = plan, context, variables, exact
        self.queue: list[Queued] = []
        self.put = self.queue.append
        self.loads: dict[tuple[Batch, Bound], Load] = {}
        self.touched: list[Load] = []
        self.jobs: list[Coroutine[Any, Any, None]] = []
        self.given: dict[Any, Any] = {}
        """The arguments of fields, worked out once however many objects they stand on."""
        self.failures: list[Failed] = []
        self.flying: set[asyncio.Task[None]] = set()
        self.landed: asyncio.Future[None] | None = None
        self.bug: BaseException | None = None
        self.doomed = False
        self.data: dict[str, Any] | None = None
        """The answer as far as it is made. What is `doomed` is not given, but tells where its errors were."""

    def exact_variables(self) -> VariableValues:
        """The variables with their sources."""
        values = self.exact()
        assert not isinstance(values, list), "they were coerced before"
        return values

    def load(self, batch: Batch, bound: Bound) -> Load:
        """The load of a batch."""
        load = self.loads.get((batch, bound))
        if load is None:
            load = self.loads[batch, bound] = Load(batch, bound)
        return load

    def want(self, load: Load, key: str, pending: Pending) -> None:
        """Settles what waits with what the key stands for, as soon as that is known."""
        waiting = load.waiting.get(key)
        if waiting is not None:
            waiting.append(pending)
            return
        value = load.known.get(key, _UNKNOWN)
        if value is not _UNKNOWN:
            target, _, container, slot = pending
            target.settle(self, value, container, slot)
            return
        load.waiting[key] = [pending]
        if not load.fresh:
            self.touched.append(load)
        load.fresh.append(key)

    def call(self, target: Waiter, container: Container, slot: Slot, ask: Callable[..., Awaitable[Any]], *given: Any) -> None:
        """Settles the target with what `ask` answers to what is given, once it is asked."""
        self.jobs.append(self._called(target, container, slot, ask, *given))

    def fail(self, nodes: Sequence[FieldNode], cause: Exception, container: Container | None, path: list[Slot]) -> None:
        """Notes an error of the answer."""
        self.failures.append(Failed(container, path, nodes, cause))

    def doom(self, nodes: Sequence[FieldNode], cause: Exception, path: list[Slot]) -> None:
        """The answer as a whole is null, for this reason; nothing more is asked."""
        self.fail(nodes, cause, None, path)
        self.doomed = True
        self.queue.clear()
        self.touched.clear()
        for job in self.jobs:
            job.close()
        self.jobs.clear()

    async def drain(self) -> None:
        """Carries on until nothing is pending."""
        try:
            while True:
                self._begin()
                jobs, self.jobs = self.jobs, []
                if len(jobs) == 1 and not self.flying:
                    await jobs[0]
                    if self.queue:
                        continue
                    return
                for job in jobs:
                    task = asyncio.create_task(job)
                    self.flying.add(task)
                    task.add_done_callback(self._land)
                if not self.flying:
                    return
                self.landed = asyncio.get_running_loop().create_future()
                await self.landed
                if self.bug is not None:
                    raise self.bug
        finally:
            for task in self.flying:
                task.cancel()

    def _begin(self) -> None:
        """Makes jobs of what is in the queue."""
        while self.queue:
            queue = self.queue[:]
            self.queue.clear()
            edge: Any = None
            for pending in queue:
                target, key, container, slot = pending
                if type(key) is str:  # the edges of one field stand one after the other
                    if target is not edge:
                        edge = target
                        load = self.load(*edge.alone)
                    self.want(load, key, pending)
                    continue
                target.start(self, key, container, slot)
                if self.doomed:
                    return
        for load in self.touched:
            fresh, load.fresh = load.fresh, []
            most = load.batch.keys_max
            for start in range(0, len(fresh), most):
                self.jobs.append(self._fetched(load, fresh[start : start + most]))
        self.touched.clear()

    def _land(self, task: asyncio.Task[None]) -> None:
        self.flying.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            self.bug = bug
        if self.landed is not None and not self.landed.done() and (self.queue or self.bug or not self.flying):
            self.landed.set_result(None)

    async def _called(self, target: Waiter, container: Container, slot: Slot, ask: Callable[..., Awaitable[Any]], *given: Any) -> None:
        try:
            value = await ask(*given)
        except Exception as cause:
            value = Failure(cause)
        target.settle(self, value, container, slot)

    async def _fetched(self, load: Load, keys: list[str]) -> None:
        try:
            values = load.batch.found(await self.context.call(load.batch.asked(keys, load.bound)), keys)
        except Exception as cause:
            values = [Failure(cause)] * len(keys)
        for key, value in zip(keys, values, strict=True):
            load.known[key] = value
            made_by: Waiter | None = None
            made: Any = None
            for target, _, container, slot in load.waiting.pop(key):
                if target is made_by:
                    container[slot] = made
                elif target.settle(self, value, container, slot) and target.pure:
                    made_by, made = target, container[slot]

    def errors(self) -> list[GraphQLError]:
        """What failed, each with its path in the answer."""
        places = _places(self.data, {id(failed.container) for failed in self.failures if failed.container is not None})
        return [
            located_error(
                failed.cause, failed.nodes, [*(places[id(failed.container)] if failed.container is not None else ()), *failed.path]
            )
            for failed in self.failures
        ]


def _places(data: Any, wanted: set[int]) -> dict[int, tuple[Slot, ...]]:
    """The paths of these objects and lists in the answer."""
    found: dict[int, tuple[Slot, ...]] = {}
    stack: list[tuple[Any, tuple[Slot, ...]]] = [(data, ())]
    while stack and len(found) < len(wanted):
        value, path = stack.pop()
        if id(value) in wanted:
            found[id(value)] = path
        if isinstance(value, dict):
            stack.extend((part, (*path, key)) for key, part in value.items() if isinstance(part, dict | list))
        elif isinstance(value, list):
            stack.extend((part, (*path, index)) for index, part in enumerate(value) if isinstance(part, dict | list))
    return found
