"""Deferred fields: their values arrive while the request runs, and are then completed in their slots of the answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from graphql import is_non_null_type

from gateway.engine import interpreter
from gateway.engine.arguments import Arguments
from gateway.engine.collect_fields import Field, Uncompiled
from gateway.engine.pending import Container, Failure, Slot
from gateway.engine.source_builder import SourceBuilder
from gateway.engine.value_info import ValueInfo

if TYPE_CHECKING:
    import strawberry

    from gateway.engine.run import Run


class DeferredField(ABC):
    """A deferred field of a plan. A subclass says which key it has and how its value is requested."""

    info = ValueInfo()
    """What is guaranteed about the value that arrives."""
    may_be_required = False
    """True if the subclass itself makes sure that its field is not null."""

    def __init__(self, field: Field, schema: strawberry.Schema, *, suggestions: bool) -> None:
        if is_non_null_type(field.type) and not self.may_be_required:
            raise Uncompiled("required")
        self.field, self.definition = field, field.definition
        self.type: Any = field.type
        """The type of the value that arrives."""
        self.arguments = Arguments(field, schema, suggestions=suggestions) if field.core.args else None
        self.complete: Callable[[Any, Run], Any] = lambda value, run: value
        """The generated function that completes the value; set when the plan is compiled."""
        self.is_pure = True

    @abstractmethod
    def rpc_label(self, *, is_below_list: bool) -> str:
        """Returns the name of its rpc, as a plan prints it."""

    @abstractmethod
    def key(self, source: Any) -> Any:
        """Returns what `start` needs from the source object; None if the field is null without an rpc."""

    def queue_statement(self, source: SourceBuilder, field: Field, obj: str) -> str:
        """Returns the statement that puts the field in the queue, for a function with the object `obj` and the answer `d`."""
        deferred = source.constant(self, "deferred")
        return f"    if (k := {source.constant(self.key, 'key')}({obj})) is not None: R.put(({deferred}, k, d, {field.key!r}))\n"

    @abstractmethod
    def start(self, run: Run, key: Any, container: Container, slot: Slot) -> None:
        """Requests the value."""

    def argument_values(self, run: Run) -> dict[str, Any]:
        """Returns the field's arguments, computed once for a run; raises the error of an invalid one."""
        assert self.arguments is not None
        if self.arguments.constant:
            return self.arguments.values(run)
        values: Any = run.arguments.get(self)
        if values is None:
            try:
                values = self.arguments.values(run)
            except Exception as error:
                values = Failure(error)
            run.arguments[self] = values
        if type(values) is Failure:
            raise values.cause
        return values  # type: ignore[no-any-return]

    def fail(self, run: Run, cause: Exception, container: Container, slot: Slot) -> None:
        """Records the error of a field that cannot request its value."""
        run.fail(self.field.nodes, cause, container, [slot])

    def settle(self, run: Run, value: Any, container: Container, slot: Slot) -> bool:
        """Completes the value in its slot; see `pending.Receiver`."""
        if value is None:
            return True
        if type(value) is Failure:
            run.fail(self.field.nodes, value.cause, container, [slot])
            return False
        queue_length = len(run.queue)
        try:
            container[slot] = self.complete(value, run)
        except Exception:
            del run.queue[queue_length:]
            container[slot] = interpreter.complete_deferred(self.type, self.field, value, run, container, slot)
            return False
        return True
