"""Edges: the keys of all fields that follow the same batch go into one call for each level; see `run.Load`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphql import get_nullable_type, is_non_null_type

from gateway.engine.collect_fields import Field, Uncompiled
from gateway.engine.deferred import Deferred
from gateway.engine.run import Container, Failure, Slot
from gateway.engine.source_builder import Source
from gateway.engine.value_info import Known, of_field, of_messages
from gateway.schema import nodes
from gateway.schema.nodes import NodeField
from gateway.schema.references import Batch, EdgeField
from services.kit.errors import Invalid

if TYPE_CHECKING:
    import strawberry

    from gateway.engine.run import Load, Run


def known_of(batch: Batch) -> Known:
    """Of what a batch finds for one key."""
    item = of_field(batch.item.fields_by_name[batch.value_name], nullable=True) if batch.value_name else of_messages(batch.item)
    return Known(items=item.present) if batch.many else item


class Edge(Deferred):
    """A field whose key stands on the message. Those whose batch takes more than keys are queued as (keys, what the source gives)."""

    definition: EdgeField

    def __init__(self, field: Field, schema: strawberry.Schema, *, suggestions: bool) -> None:
        super().__init__(field, schema, suggestions=suggestions)
        self.batch = self.definition.through
        self.alone = (self.batch, b"")
        self.further = bool(self.definition.using) or self.arguments is not None
        one = known_of(self.batch)
        self.known = Known(items=one) if self.definition.keyed_by_many else one

    def rpc(self, *, below_a_list: bool) -> str:
        return str(self.batch.rpc.method.name)

    def key(self, source: Any) -> Any:
        keys = self.definition.key(source)
        if not isinstance(keys, str):
            keys = list(keys)
        elif not keys:
            return None
        return (keys, self.definition.bound(source)) if self.further else keys

    def queued(self, source: Source, field: Field, text: str) -> str:
        if self.further or self.definition.keyed_by_many:
            return super().queued(source, field, text)
        return f"    if k := {text}.{self.definition.by}: R.put(({source.constant(self, 'later')}, k, d, {field.key!r}))\n"

    def start(self, run: Run, key: Any, container: Container, slot: Slot) -> None:
        keys, bound = key if type(key) is tuple else (key, b"")
        if self.arguments is not None:
            try:
                bound += self.definition.given(run.context, self.given(run))
            except Exception as wrong:
                self.refuse(run, wrong, container, slot)
                return
        load = run.load(self.batch, bound)
        if type(keys) is str:
            run.want(load, keys, (self, keys, container, slot))
        else:
            Gathering(self, keys, container, slot).begin(run, load)


class Gathering:
    """A field with several keys, until all of them have come. The first that fails is the field's error."""

    pure = False

    def __init__(self, field: Deferred, keys: list[str], container: Container, slot: Slot) -> None:
        self.field, self.keys, self.container, self.slot = field, keys, container, slot
        self.values: list[Any] = [None] * len(keys)
        self.left = len(keys)

    def begin(self, run: Run, load: Load) -> None:
        """Asks for all keys; without any the list is there at once."""
        if not self.keys:
            self.field.settle(run, [], self.container, self.slot)
        for index, key in enumerate(self.keys):
            run.want(load, key, (self, key, self.values, index))

    def settle(self, run: Run, value: Any, container: Container, slot: Slot) -> bool:
        """One of the keys has come."""
        if self.left <= 0:
            return False
        if type(value) is Failure:
            self.left = 0
            self.field.settle(run, value, self.container, self.slot)
            return False
        container[slot] = value
        self.left -= 1
        if not self.left:
            self.field.settle(run, self.values, self.container, self.slot)
        return True


class LookUp(Deferred):
    """A field whose key is its argument: `node` and what is found by its id."""

    definition: NodeField

    def __init__(self, field: Field, schema: strawberry.Schema, *, suggestions: bool) -> None:
        super().__init__(field, schema, suggestions=suggestions)
        self.given_by = ""
        """The variable that is the key, where that is all there is to it."""
        if self.definition.through is not None:
            self.known = known_of(self.definition.through)
            self.alone = (self.definition.through, b"")
            assert self.arguments is not None
            if not self.arguments.literals and len(self.arguments.variables) == 1:
                self.given_by = self.arguments.variables[0][1]

    def rpc(self, *, below_a_list: bool) -> str:
        return self.definition.through.rpc.method.name if self.definition.through is not None else "by the prefix of the id"

    def key(self, source: Any) -> Any:
        return True

    def queued(self, source: Source, field: Field, text: str) -> str:
        key = f"k if type(k := R.variables.get({self.given_by!r})) is str else True" if self.given_by else "True"
        return f"    R.put(({source.constant(self, 'later')}, {key}, d, {field.key!r}))\n"

    def start(self, run: Run, key: Any, container: Container, slot: Slot) -> None:
        try:
            id = self.given(run)[self.definition.argument]
            batch = self.definition.through or nodes.batch_of(id)
        except Exception as wrong:
            self.refuse(run, wrong, container, slot)
            return
        run.want(run.load(batch, b""), id, (self, id, container, slot))


class Several(LookUp):
    """`nodes`: one list, each item of which is found in its own place."""

    required = True

    def __init__(self, field: Field, schema: strawberry.Schema, *, suggestions: bool) -> None:
        super().__init__(field, schema, suggestions=suggestions)
        self.type = get_nullable_type(field.type).of_type  # type: ignore[union-attr]
        if is_non_null_type(self.type) or field.parent is not schema._schema.query_type:
            raise Uncompiled("required")

    def start(self, run: Run, key: Any, container: Container, slot: Slot) -> None:
        try:
            ids = self.given(run)[self.definition.argument]
            nodes.check_count(ids)
        except Exception as wrong:
            run.doom(self.field.nodes, wrong, [slot])
            return
        found = container[slot] = [None] * len(ids)
        for index, id in enumerate(ids):
            try:
                batch = nodes.batch_of(id)
            except Invalid as wrong:
                self.refuse(run, wrong, found, index)
            else:
                run.want(run.load(batch, b""), id, (self, id, found, index))
