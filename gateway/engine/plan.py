"""A plan: one operation, compiled for the values of its `@skip` and `@include` conditions. It keeps no state of a request.

Printed, it shows the rpcs of each level: a batch rpc once for all fields that share it, and "one for each" for an rpc that is called for
each item of a list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from graphql import DocumentNode, OperationDefinitionNode, OperationType, get_nullable_type, is_list_type

from gateway.engine import codegen, interpreter
from gateway.engine.batch_steps import DeferredNode, DeferredNodeList, DeferredReference
from gateway.engine.collect_fields import TYPENAME, Collector, Conditions, Field, Selection, Uncompiled
from gateway.engine.deferred import DeferredField
from gateway.engine.rpc_steps import DeferredConnection, DeferredMutation, DeferredRpc
from gateway.engine.source_builder import SourceBuilder
from gateway.schema.nodes import NodeField, load_nodes
from gateway.schema.references import ReferenceField
from gateway.schema.rpc_fields import MutationField, RpcField

if TYPE_CHECKING:
    import strawberry

    from gateway.engine.run import Run

RootFunction = Callable[[Any, "Run"], Any]
CHARACTER_BYTES = 20
"""One character of a plan's source takes this much memory, with its functions, fields and constants."""
FUNCTION_CALL = re.compile(r"(\w+)\(v, R\)")
"""An expression that only calls a generated function."""


def deferred_class(definition: Any) -> type[DeferredField] | None:
    """Returns the kind of deferred field for a declaration; None if the field is read from its source object."""
    if isinstance(definition, ReferenceField):
        return DeferredReference
    if isinstance(definition, NodeField):
        return DeferredNodeList if definition.load is load_nodes else DeferredNode
    if isinstance(definition, RpcField):
        return DeferredConnection if definition.loader is not None else DeferredRpc
    return DeferredMutation if isinstance(definition, MutationField) else None


class Plan:
    """A compiled operation. Its constructor compiles and raises `Uncompiled`."""

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
        self.selection = Collector(schema._schema, document, conditions).collect_operation(operation)
        self.is_serial = operation.operation is OperationType.MUTATION
        for field in _all_fields(self.selection):
            kind = deferred_class(field.definition)
            if kind is not None:
                field.deferred = kind(field, schema, suggestions=suggestions)
        self.source, self.roots = self._compile()
        self.weight = len(self.source) * CHARACTER_BYTES
        """It takes at most this many bytes."""

    def _compile(self) -> tuple[str, list[RootFunction]]:
        """Returns the source and its root functions: one, or one for each field of a mutation."""
        source = SourceBuilder()
        parts = [Selection(self.selection.type, [field]) for field in self.selection.fields] if self.is_serial else [self.selection]
        roots = [codegen.object_function(source, part) for part in parts]
        functions: list[tuple[DeferredField, str]] = []
        for field in _all_fields(self.selection):
            deferred = field.deferred
            if deferred is not None:
                completed = codegen.complete_value(source, field, deferred.type, "v", deferred.info.non_null)
                call = FUNCTION_CALL.fullmatch(completed)
                functions.append((deferred, call[1] if call else source.add_function("complete", "v, R", f"    return {completed}")))
                deferred.is_pure = not any(map(codegen.has_deferred, field.selections.values()))
        module = source.execute()
        for deferred, name in functions:
            deferred.complete = module(name)
        return source.text, [module(name) for name in roots]

    async def run(self, source: Any, run: Run) -> dict[str, Any] | None:
        """Returns the data of the answer; records errors in the run."""
        if self.is_serial:
            return await self._run_serially(source, run)
        run.data = data = self._complete_root(self.roots[0], self.selection, source, run)
        if run.queue:
            await run.execute_pending()
        return data if not run.is_aborted else None

    async def _run_serially(self, source: Any, run: Run) -> dict[str, Any] | None:
        run.data = data = {}
        for root, field in zip(self.roots, self.selection.fields, strict=True):
            part = self._complete_root(root, Selection(self.selection.type, [field]), source, run)
            if part is None:
                return None
            data.update(part)
            run.queue[:] = [(deferred, key, data, slot) for deferred, key, _, slot in run.queue]
            await run.execute_pending()
        return data

    @staticmethod
    def _complete_root(root: RootFunction, selection: Selection, source: Any, run: Run) -> dict[str, Any] | None:
        """Returns the synchronous part of a root's answer; None if the error of a non-null field reaches the root."""
        try:
            return root(source, run)  # type: ignore[no-any-return]
        except Exception:
            run.queue.clear()
            return interpreter.complete_root(selection, source, run)

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
        """Returns the rpcs of each level, with the paths of the fields that call them."""
        levels: list[dict[str, list[str]]] = []
        _collect_levels(self.selection, 0, "", levels, is_below_list=False)
        return levels


def _all_fields(selection: Selection) -> Iterator[Field]:
    """Yields all fields of a plan except `__typename`; raises `Uncompiled` for one without a declaration."""
    for field in selection.fields:
        if field.name == TYPENAME:
            continue
        if field.definition is None:
            raise Uncompiled("field")
        yield field
        for below in field.selections.values():
            yield from _all_fields(below)


def _collect_levels(selection: Selection, level: int, path: str, levels: list[dict[str, list[str]]], *, is_below_list: bool) -> None:
    for field in selection.fields:
        field_path = f"{path}.{field.key}" if path else field.key
        next_level = level
        if field.deferred is not None:
            while len(levels) <= level:
                levels.append({})
            paths = levels[level].setdefault(field.deferred.rpc_label(is_below_list=is_below_list), [])
            if field_path not in paths:
                paths.append(field_path)
            next_level = level + 1
        is_list = is_below_list or (field.name != TYPENAME and is_list_type(get_nullable_type(field.type)))
        for below in field.selections.values():
            _collect_levels(below, next_level, field_path, levels, is_below_list=is_list)
