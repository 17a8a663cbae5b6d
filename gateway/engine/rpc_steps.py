"""Calls: fields that ask an rpc of their own. Those of one level are made at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.engine.batch_steps import known_of
from gateway.engine.collect_fields import Field
from gateway.engine.deferred import Deferred
from gateway.engine.run import Container, Slot
from gateway.engine.value_info import Known, of_field, of_messages
from gateway.rpc.clients import Descriptor
from gateway.schema.rpc_fields import CallField, MutationField

if TYPE_CHECKING:
    import strawberry

    from gateway.engine.run import Run


class Call(Deferred):
    """A look-up or a page. Below a list it is a call for each item."""

    definition: CallField

    def __init__(self, field: Field, schema: strawberry.Schema, *, suggestions: bool) -> None:
        super().__init__(field, schema, suggestions=suggestions)
        self.known = of_messages(self.definition.rpc.response.DESCRIPTOR)
        if self.definition.item_name:
            item: Descriptor = self.definition.rpc.response.DESCRIPTOR.fields_by_name[self.definition.item_name]
            self.known = of_field(item, nullable=False)

    def rpc(self, *, below_a_list: bool) -> str:
        return f"{self.definition.rpc.method.name}{', one for each' if below_a_list else ''}"

    def key(self, source: Any) -> Any:
        return self.definition.bound(source)

    def start(self, run: Run, key: Any, container: Container, slot: Slot) -> None:
        try:
            given = self.given(run) if self.arguments is not None else {}
        except Exception as wrong:
            self.refuse(run, wrong, container, slot)
            return
        run.call(self, container, slot, self.definition.answer, run.context, key, given)


class FirstPage(Call):
    """A page whose first ones are one call for many sources."""

    def __init__(self, field: Field, schema: strawberry.Schema, *, suggestions: bool) -> None:
        super().__init__(field, schema, suggestions=suggestions)
        assert self.definition.first is not None
        self.batch = self.definition.first
        self.known = Known(messages=self.known.messages | known_of(self.batch).messages)

    def rpc(self, *, below_a_list: bool) -> str:
        return f"{self.batch.rpc.method.name} (further pages {super().rpc(below_a_list=below_a_list)})"

    def key(self, source: Any) -> Any:
        bound = self.definition.bound(source)
        return bound and (bound, self.definition.key(source))

    def start(self, run: Run, key: Any, container: Container, slot: Slot) -> None:
        bound, id = key
        try:
            first = self.definition.first_pages(run.context, self.given(run) if self.arguments is not None else {})
        except Exception as wrong:
            self.refuse(run, wrong, container, slot)
            return
        if first is None:
            super().start(run, bound, container, slot)
        else:
            run.want(run.load(self.batch, first), id, (self, id, container, slot))

    def settle(self, run: Run, value: Any, container: Container, slot: Slot) -> bool:
        return super().settle(run, self.definition.rpc.response() if value is None else value, container, slot)


class Mutation(Deferred):
    """A mutation: its payload, or the refusal it was answered with."""

    definition: MutationField

    def rpc(self, *, below_a_list: bool) -> str:
        return str(self.definition.rpc.method.name)

    def key(self, source: Any) -> Any:
        return True

    def start(self, run: Run, key: Any, container: Container, slot: Slot) -> None:
        try:
            given = self.given(run)
        except Exception as wrong:
            self.refuse(run, wrong, container, slot)
            return
        run.call(self, container, slot, self.definition.carry_out, run.context, vars(given["input"]))
