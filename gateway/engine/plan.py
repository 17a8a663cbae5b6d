"""A plan: one operation, compiled for the values of its conditions. It keeps nothing of any request.

Printed, it shows level for level what is asked: a batch once for all the fields that follow it, and what is asked once for each item of
a list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from graphql import DocumentNode, OperationDefinitionNode, OperationType, get_nullable_type, is_list_type

from gateway.engine import interpreter, objects, values
from gateway.engine.batch_steps import Edge, LookUp, Several
from gateway.engine.collect_fields import TYPENAME, Collector, Conditions, Field, Selection, Uncompiled
from gateway.engine.deferred import Deferred
from gateway.engine.rpc_steps import Call, FirstPage, Mutation
from gateway.engine.source_builder import Source
from gateway.schema.nodes import NodeField, several
from gateway.schema.references import EdgeField
from gateway.schema.rpc_fields import CallField, MutationField

if TYPE_CHECKING:
    import strawberry

    from gateway.engine.run import Run

Root = Callable[[Any, "Run"], Any]
CHARACTER_BYTES = 20
"""Of memory for each character of a plan's source: its functions, and the fields and constants that go with them."""
ONE_CALL = re.compile(r"(\w+)\(v, R\)")


def kind_of(definition: Any) -> type[Deferred] | None:
    """How a field's value comes later; None when it is there."""
    if isinstance(definition, EdgeField):
        return Edge
    if isinstance(definition, NodeField):
        return Several if definition.load is several else LookUp
    if isinstance(definition, CallField):
        return FirstPage if definition.first is not None else Call
    return Mutation if isinstance(definition, MutationField) else None


class Plan:
    """Compiles when it is made; raises `Uncompiled`."""

    def __init__(
        self,
        schema: strawberry.Schema,
        document: DocumentNode,
        operation: OperationDefinitionNode,
        conditions: Conditions,
        *,
        suggestions: bool,
    ) -> None:
        self.schema, self.operation, self.suggestions = schema, operation, suggestions
        self.selection = Collector(schema._schema, document, conditions).operation(operation)
        self.serial = operation.operation is OperationType.MUTATION
        for field in _fields(self.selection):
            kind = kind_of(field.definition)
            if kind is not None:
                field.deferred = kind(field, schema, suggestions=suggestions)
        self.source, self.root = self._compiled()
        self.weight = len(self.source) * CHARACTER_BYTES
        """Bytes that it takes, at most."""

    def _compiled(self) -> tuple[str, list[Root]]:
        """The source, and the functions of the root: one, or one for each field of a mutation."""
        source = Source()
        parts = [Selection(self.selection.type, [field]) for field in self.selection.fields] if self.serial else [self.selection]
        roots = [objects.function(source, part) for part in parts]
        completing: list[tuple[Deferred, str]] = []
        for field in _fields(self.selection):
            later = field.deferred
            if later is not None:
                made = values.value(source, field, later.type, "v", later.known.present)
                whole = ONE_CALL.fullmatch(made)
                completing.append((later, whole[1] if whole else source.function("complete", "v, R", f"    return {made}")))
                later.pure = not any(map(objects.deferred_below, field.selections.values()))
        module = source.run()
        for later, name in completing:
            later.complete = module(name)
        return source.text, [module(name) for name in roots]

    async def run(self, source: Any, run: Run) -> dict[str, Any] | None:
        """The data of the answer; what failed is noted in the run."""
        if self.serial:
            return await self._one_after_the_other(source, run)
        run.data = data = self._begun(self.root[0], self.selection, source, run)
        if run.queue:
            await run.drain()
        return data if not run.doomed else None

    async def _one_after_the_other(self, source: Any, run: Run) -> dict[str, Any] | None:
        run.data = data = {}
        for root, field in zip(self.root, self.selection.fields, strict=True):
            part = self._begun(root, Selection(self.selection.type, [field]), source, run)
            if part is None:
                return None
            data.update(part)
            run.queue[:] = [(target, key, data, slot) for target, key, _, slot in run.queue]
            await run.drain()
        return data

    @staticmethod
    def _begun(root: Root, selection: Selection, source: Any, run: Run) -> dict[str, Any] | None:
        """The answer of a root as far as nobody is asked for it; None when it may not be what it is."""
        try:
            return root(source, run)  # type: ignore[no-any-return]
        except Exception:
            run.queue.clear()
            return interpreter.root(selection, source, run)

    def __str__(self) -> str:
        name = self.operation.name.value if self.operation.name else ""
        lines = [f"{self.operation.operation.value} {name}".strip()]
        for number, level in enumerate(self.levels(), 1):
            lines.append(f"  level {number}")
            for rpc, paths in level.items():
                lines.append(f"    {rpc}")
                lines.extend(f"      {path}" for path in paths)
        return "\n".join(lines)

    def levels(self) -> list[dict[str, list[str]]]:
        """What is asked at each level, with the paths of the fields that ask."""
        found: list[dict[str, list[str]]] = []
        _find_levels(self.selection, 0, "", found, below_a_list=False)
        return found


def _fields(selection: Selection) -> Iterator[Field]:
    """All fields of a plan that have a definition."""
    for field in selection.fields:
        if field.name == TYPENAME:
            continue
        if field.definition is None:
            raise Uncompiled("field")
        yield field
        for below in field.selections.values():
            yield from _fields(below)


def _find_levels(selection: Selection, level: int, path: str, found: list[dict[str, list[str]]], *, below_a_list: bool) -> None:
    for field in selection.fields:
        here = f"{path}.{field.key}" if path else field.key
        deeper = level
        if field.deferred is not None:
            while len(found) <= level:
                found.append({})
            paths = found[level].setdefault(field.deferred.rpc(below_a_list=below_a_list), [])
            if here not in paths:
                paths.append(here)
            deeper = level + 1
        listed = below_a_list or (field.name != TYPENAME and is_list_type(get_nullable_type(field.type)))
        for below in field.selections.values():
            _find_levels(below, deeper, here, found, below_a_list=listed)
