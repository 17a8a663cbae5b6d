"""The careful path: the same as the generated source, a field at a time, as the specification has it.

It is taken where the source raised, and says what failed and where: an error makes its own field null, or the nearest that may be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from graphql import FieldNode, GraphQLError, GraphQLList, GraphQLNonNull, GraphQLObjectType, is_leaf_type
from graphql.pyutils import inspect

from gateway.engine import abstract
from gateway.engine.collect_fields import TYPENAME, Field, Selection

if TYPE_CHECKING:
    from gateway.engine.run import Container, Run, Slot

Path = tuple["Slot", ...]


class Located(Exception):
    """An error on its way up to what may be null."""

    def __init__(self, nodes: Sequence[FieldNode], cause: Exception, path: Path) -> None:
        self.nodes, self.cause, self.path = nodes, cause, path


class _Walk:
    """The careful walk through one part of the answer, which belongs in `container`."""

    def __init__(self, run: Run, container: Container | None) -> None:
        self.run, self.container = run, container

    def guarded(self, type_: Any, field: Field, path: Path, make: Callable[[], Any]) -> Any:
        """What `make` makes; when it fails, null where the type allows it."""
        pending = len(self.run.queue)
        try:
            return make()
        except Exception as error:
            located = error if isinstance(error, Located) else Located(field.nodes, error, path)
            if isinstance(type_, GraphQLNonNull):
                raise located from None
            del self.run.queue[pending:]
            self.run.fail(located.nodes, located.cause, self.container, list(located.path))
            return None

    def value(self, type_: Any, field: Field, value: Any, path: Path) -> Any:
        """Completes a value as `type_`."""
        if isinstance(value, Exception):
            raise value
        if isinstance(type_, GraphQLNonNull):
            completed = self.value(type_.of_type, field, value, path)
            if completed is None:
                raise TypeError(f"Cannot return null for non-nullable field {field}.")
            return completed
        if value is None:
            return None
        if isinstance(type_, GraphQLList):
            items = enumerate(value)
            return [self.item(type_.of_type, field, item, (*path, index)) for index, item in items]
        if is_leaf_type(type_):
            return self.leaf(type_, value)
        if isinstance(type_, GraphQLObjectType):
            if type_.is_type_of is not None and not type_.is_type_of(value, None):  # type: ignore[arg-type]
                raise GraphQLError(f"Expected value of type '{type_}' but got: {inspect(value)}.", field.nodes)
            return self.object(field.selections[type_.name], value, path)
        selection = abstract.selections(field).get(type(value))
        if selection is None:
            raise GraphQLError(f"Abstract type '{type_}' has no type for {inspect(value)}.", field.nodes)
        return self.object(selection, value, path)

    def item(self, type_: Any, field: Field, item: Any, path: Path) -> Any:
        """Completes an item of a list."""
        return self.guarded(type_, field, path, lambda: self.value(type_, field, item, path))

    @staticmethod
    def leaf(type_: Any, value: Any) -> Any:
        """Coerces a scalar or an enum."""
        coerced = type_.coerce_output_value(value)
        if coerced is None:
            expected = f"Expected `{type_}.coerce_output_value({inspect(value)})` to return non-nullable value, returned: None"
            raise TypeError(expected)
        return coerced

    def object(self, selection: Selection, source: Any, path: Path) -> dict[str, Any]:
        """Completes the fields selected on an object, in their order."""
        answer: dict[str, Any] = {}
        for field in selection.fields:
            answer[field.key] = self.field(selection, field, source, answer, (*path, field.key))
        return answer

    def field(self, selection: Selection, field: Field, source: Any, answer: dict[str, Any], path: Path) -> Any:
        """Completes one field, or puts it in the queue."""
        if field.name == TYPENAME:
            return selection.type.name
        if field.deferred is None:
            return self.guarded(
                field.type,
                field,
                path,
                lambda: self.value(field.type, field, field.definition.get_result(source, None, [], {}), path),
            )
        key = field.deferred.key(source)
        if key is not None:
            self.run.put((field.deferred, key, answer, field.key))
        return None


def completed(type_: Any, field: Field, value: Any, run: Run, container: Container, slot: Slot) -> Any:
    """The value of a deferred field (or of an item of it) of that type, which belongs in its slot of the container."""
    walk, path = _Walk(run, container), (slot,)
    return walk.guarded(type_, field, path, lambda: walk.value(type_, field, value, path))


def root(selection: Selection, source: Any, run: Run) -> dict[str, Any] | None:
    """The root of the answer; None when it may not be what it is."""
    try:
        return _Walk(run, None).object(selection, source, ())
    except Located as located:
        run.queue.clear()
        run.fail(located.nodes, located.cause, None, list(located.path))
        return None
