"""Deferred fields: their value is asked for while the request runs, and completed in its place when it comes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from graphql import is_non_null_type

from gateway.engine import interpreter
from gateway.engine.arguments import Arguments
from gateway.engine.collect_fields import Field, Uncompiled
from gateway.engine.run import Container, Failure, Slot
from gateway.engine.source_builder import Source
from gateway.engine.value_info import Known

if TYPE_CHECKING:
    import strawberry

    from gateway.engine.run import Run


class Deferred(ABC):
    """A deferred field of a plan. A kind of field says what it is keyed by and how it starts."""

    known = Known()
    """Of the value that comes."""
    required = False
    """Whether the kind sees to it itself that its field is not null."""

    def __init__(self, field: Field, schema: strawberry.Schema, *, suggestions: bool) -> None:
        if is_non_null_type(field.type) and not self.required:
            raise Uncompiled("required")
        self.field, self.definition = field, field.definition
        self.type: Any = field.type
        """Of the value that comes."""
        self.arguments = Arguments(field, schema, suggestions=suggestions) if field.core.args else None
        self.complete: Callable[[Any, Run], Any] = lambda value, run: value
        self.pure = True

    @abstractmethod
    def rpc(self, *, below_a_list: bool) -> str:
        """What is asked, as a plan prints it."""

    @abstractmethod
    def key(self, source: Any) -> Any:
        """What `start` needs of the object that the field stands on; None when nothing is to be asked."""

    def queued(self, source: Source, field: Field, text: str) -> str:
        """The statement (of a function whose object is `text` and answer `d`) that puts the field in the queue."""
        me = source.constant(self, "later")
        return f"    if (k := {source.constant(self.key, 'key')}({text})) is not None: R.put(({me}, k, d, {field.key!r}))\n"

    @abstractmethod
    def start(self, run: Run, key: Any, container: Container, slot: Slot) -> None:
        """Makes the value pending."""

    def given(self, run: Run) -> dict[str, Any]:
        """The field's arguments; what is wrong with them is raised."""
        assert self.arguments is not None
        if self.arguments.constant:
            return self.arguments.of(run)
        found: Any = run.given.get(self)
        if found is None:
            try:
                found = self.arguments.of(run)
            except Exception as wrong:
                found = Failure(wrong)
            run.given[self] = found
        if type(found) is Failure:
            raise found.cause
        return found  # type: ignore[no-any-return]

    def refuse(self, run: Run, cause: Exception, container: Container, slot: Slot) -> None:
        """The field cannot even start."""
        run.fail(self.field.nodes, cause, container, [slot])

    def settle(self, run: Run, value: Any, container: Container, slot: Slot) -> bool:
        """See `run.Target`."""
        if value is None:
            return True
        if type(value) is Failure:
            run.fail(self.field.nodes, value.cause, container, [slot])
            return False
        pending = len(run.queue)
        try:
            container[slot] = self.complete(value, run)
        except Exception:
            del run.queue[pending:]
            container[slot] = interpreter.completed(self.type, self.field, value, run, container, slot)
            return False
        return True
