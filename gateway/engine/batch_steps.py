"""Deferred fields that share batch rpcs: the keys of all fields with the same loader go into one call for each level.

See `pending.KeyLoad`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphql import get_nullable_type, is_non_null_type

from gateway.engine.collect_fields import Field, Uncompiled
from gateway.engine.deferred import DeferredField
from gateway.engine.pending import Container, Failure, KeyLoad, Slot
from gateway.engine.source_builder import SourceBuilder
from gateway.engine.value_info import ValueInfo, infer_loaded
from gateway.schema import nodes
from gateway.schema.nodes import NodeField
from gateway.schema.references import ReferenceField
from services.kit.errors import Invalid

if TYPE_CHECKING:
    import strawberry

    from gateway.engine.run import Run


class DeferredReference(DeferredField):
    """A field whose key is in its source message. With parameters, it is queued as (keys, parameters of the source)."""

    definition: ReferenceField

    def __init__(self, field: Field, schema: strawberry.Schema, *, suggestions: bool) -> None:
        super().__init__(field, schema, suggestions=suggestions)
        self.loader = self.definition.loader
        self.load_key = (self.loader, b"")
        self.has_parameters = bool(self.definition.parameters) or self.arguments is not None
        item = infer_loaded(self.loader)
        self.info = ValueInfo(items=item) if self.definition.has_key_list else item

    def rpc_label(self, *, is_below_list: bool) -> str:
        return str(self.loader.rpc.method.name)

    def key(self, source: Any) -> Any:
        keys = self.definition.get_keys(source)
        if not isinstance(keys, str):
            keys = list(keys)
        elif not keys:
            return None
        return (keys, self.definition.source_parameters(source)) if self.has_parameters else keys

    def queue_statement(self, source: SourceBuilder, field: Field, obj: str) -> str:
        if self.has_parameters or self.definition.has_key_list:
            return super().queue_statement(source, field, obj)
        return f"    if k := {obj}.{self.definition.by}: R.put(({source.constant(self, 'deferred')}, k, d, {field.key!r}))\n"

    def start(self, run: Run, key: Any, container: Container, slot: Slot) -> None:
        keys, parameters = key if type(key) is tuple else (key, b"")
        if self.arguments is not None:
            try:
                parameters += self.definition.argument_parameters(run.context, self.argument_values(run))
            except Exception as error:
                self.fail(run, error, container, slot)
                return
        load = run.key_load(self.loader, parameters)
        if type(keys) is str:
            run.request_key(load, keys, (self, keys, container, slot))
        else:
            KeyList(self, keys, container, slot).start(run, load)


class KeyList:
    """The values of a field with several keys, until all have arrived. The first one that fails is the field's error."""

    is_pure = False

    def __init__(self, field: DeferredField, keys: list[str], container: Container, slot: Slot) -> None:
        self.field, self.keys, self.container, self.slot = field, keys, container, slot
        self.values: list[Any] = [None] * len(keys)
        self.remaining = len(keys)

    def start(self, run: Run, load: KeyLoad) -> None:
        """Requests all keys; without keys, settles the field with an empty list."""
        if not self.keys:
            self.field.settle(run, [], self.container, self.slot)
        for index, key in enumerate(self.keys):
            run.request_key(load, key, (self, key, self.values, index))

    def settle(self, run: Run, value: Any, container: Container, slot: Slot) -> bool:
        """Receives the value of one key."""
        if self.remaining <= 0:
            return False
        if type(value) is Failure:
            self.remaining = 0
            self.field.settle(run, value, self.container, self.slot)
            return False
        container[slot] = value
        self.remaining -= 1
        if not self.remaining:
            self.field.settle(run, self.values, self.container, self.slot)
        return True


class DeferredNode(DeferredField):
    """A field whose key is its argument: `node`, and root fields that find an object by its id."""

    definition: NodeField

    def __init__(self, field: Field, schema: strawberry.Schema, *, suggestions: bool) -> None:
        super().__init__(field, schema, suggestions=suggestions)
        self.key_variable = ""
        """The variable that is the key; empty if the key is a literal, or its type decides the loader."""
        if self.definition.loader is not None:
            self.info = infer_loaded(self.definition.loader)
            self.load_key = (self.definition.loader, b"")
            assert self.arguments is not None
            if not self.arguments.literals and len(self.arguments.variables) == 1:
                self.key_variable = self.arguments.variables[0][1]

    def rpc_label(self, *, is_below_list: bool) -> str:
        return self.definition.loader.rpc.method.name if self.definition.loader is not None else "by the prefix of the id"

    def key(self, source: Any) -> Any:
        return True

    def queue_statement(self, source: SourceBuilder, field: Field, obj: str) -> str:
        key = f"k if type(k := R.variables.get({self.key_variable!r})) is str else True" if self.key_variable else "True"
        return f"    R.put(({source.constant(self, 'deferred')}, {key}, d, {field.key!r}))\n"

    def start(self, run: Run, key: Any, container: Container, slot: Slot) -> None:
        try:
            id = self.argument_values(run)[self.definition.argument]
            loader = self.definition.loader or nodes.find_loader(id)
        except Exception as error:
            self.fail(run, error, container, slot)
            return
        run.request_key(run.key_load(loader, b""), id, (self, id, container, slot))


class DeferredNodeList(DeferredNode):
    """`nodes`: a list whose items are loaded independently."""

    may_be_required = True

    def __init__(self, field: Field, schema: strawberry.Schema, *, suggestions: bool) -> None:
        super().__init__(field, schema, suggestions=suggestions)
        self.type = get_nullable_type(field.type).of_type  # type: ignore[union-attr]
        if is_non_null_type(self.type) or field.parent is not schema._schema.query_type:
            raise Uncompiled("required")

    def start(self, run: Run, key: Any, container: Container, slot: Slot) -> None:
        try:
            ids = self.argument_values(run)[self.definition.argument]
            nodes.check_node_count(ids)
        except Exception as error:
            run.abort(self.field.nodes, error, [slot])
            return
        items = container[slot] = [None] * len(ids)
        for index, id in enumerate(ids):
            try:
                loader = nodes.find_loader(id)
            except Invalid as error:
                self.fail(run, error, items, index)
            else:
                run.request_key(run.key_load(loader, b""), id, (self, id, items, index))
