"""Interpreter: executes a part of a plan field by field, with the same result as the generated code and the errors of the specification.

It runs after the generated code raised, and reports what failed and where: an error makes its own field null, or the nearest nullable one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from graphql import FieldNode, GraphQLError, GraphQLList, GraphQLNonNull, GraphQLObjectType, is_leaf_type
from graphql.pyutils import inspect

from gateway.engine.collect_fields import TYPENAME, Field, Selection
from gateway.engine.value_info import selections_by_class

if TYPE_CHECKING:
    from gateway.engine.pending import Container, Slot
    from gateway.engine.run import Run

Path = tuple["Slot", ...]


class LocatedError(Exception):
    """An error with its path, which propagates to the nearest nullable field."""

    def __init__(self, nodes: Sequence[FieldNode], cause: Exception, path: Path) -> None:
        self.nodes, self.cause, self.path = nodes, cause, path


class _Interpreter:
    """Completes one part of the answer. Paths are relative to `container`; without one, to the root."""

    def __init__(self, run: Run, container: Container | None) -> None:
        self.run, self.container = run, container

    def catch(self, type_: Any, field: Field, path: Path, complete: Callable[[], Any]) -> Any:
        """Returns the result of `complete`; if it fails, records the error and returns None, or propagates it for a non-null type."""
        queue_length = len(self.run.queue)
        try:
            return complete()
        except Exception as error:
            located = error if isinstance(error, LocatedError) else LocatedError(field.nodes, error, path)
            if isinstance(type_, GraphQLNonNull):
                raise located from None
            del self.run.queue[queue_length:]
            self.run.fail(located.nodes, located.cause, self.container, list(located.path))
            return None

    def complete_value(self, type_: Any, field: Field, value: Any, path: Path) -> Any:
        """Completes a value as the type."""
        if isinstance(value, Exception):
            raise value
        if isinstance(type_, GraphQLNonNull):
            completed = self.complete_value(type_.of_type, field, value, path)
            if completed is None:
                raise TypeError(f"Cannot return null for non-nullable field {field}.")
            return completed
        if value is None:
            return None
        if isinstance(type_, GraphQLList):
            items = enumerate(value)
            return [self.complete_item(type_.of_type, field, item, (*path, index)) for index, item in items]
        if is_leaf_type(type_):
            return self.complete_leaf(type_, value)
        if isinstance(type_, GraphQLObjectType):
            if type_.is_type_of is not None and not type_.is_type_of(value, None):  # type: ignore[arg-type]
                raise GraphQLError(f"Expected value of type '{type_}' but got: {inspect(value)}.", field.nodes)
            return self.complete_object(field.selections[type_.name], value, path)
        selection = selections_by_class(field).get(type(value))
        if selection is None:
            raise GraphQLError(f"Abstract type '{type_}' has no type for {inspect(value)}.", field.nodes)
        return self.complete_object(selection, value, path)

    def complete_item(self, type_: Any, field: Field, item: Any, path: Path) -> Any:
        """Completes an item of a list."""
        return self.catch(type_, field, path, lambda: self.complete_value(type_, field, item, path))

    @staticmethod
    def complete_leaf(type_: Any, value: Any) -> Any:
        """Coerces a scalar or an enum."""
        coerced = type_.coerce_output_value(value)
        if coerced is None:
            expected = f"Expected `{type_}.coerce_output_value({inspect(value)})` to return non-nullable value, returned: None"
            raise TypeError(expected)
        return coerced

    def complete_object(self, selection: Selection, source: Any, path: Path) -> dict[str, Any]:
        """Completes the fields selected on an object, in their order."""
        answer: dict[str, Any] = {}
        for field in selection.fields:
            answer[field.key] = self.complete_field(selection, field, source, answer, (*path, field.key))
        return answer

    def complete_field(self, selection: Selection, field: Field, source: Any, answer: dict[str, Any], path: Path) -> Any:
        """Completes one field, or puts it in the queue."""
        if field.name == TYPENAME:
            return selection.type.name
        if field.deferred is None:
            return self.catch(
                field.type,
                field,
                path,
                lambda: self.complete_value(field.type, field, field.definition.get_result(source, None, [], {}), path),
            )
        key = field.deferred.key(source)
        if key is not None:
            self.run.put((field.deferred, key, answer, field.key))
        return None


def complete_deferred(type_: Any, field: Field, value: Any, run: Run, container: Container, slot: Slot) -> Any:
    """Returns the completed value of a deferred field, or of an item of it, which belongs in this slot of the container."""
    interpreter, path = _Interpreter(run, container), (slot,)
    return interpreter.catch(type_, field, path, lambda: interpreter.complete_value(type_, field, value, path))


def complete_root(selection: Selection, source: Any, run: Run) -> dict[str, Any] | None:
    """Returns the root of the answer; None if the error of a non-null field reaches it."""
    try:
        return _Interpreter(run, None).complete_object(selection, source, ())
    except LocatedError as located:
        run.queue.clear()
        run.fail(located.nodes, located.cause, None, list(located.path))
        return None
