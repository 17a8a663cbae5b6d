"""Deferred fields with an rpc of their own: queries, connections and mutations. The rpcs of one level run concurrently."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.engine.collect_fields import Field
from gateway.engine.deferred import DeferredField
from gateway.engine.pending import Container, Slot
from gateway.engine.value_info import ValueInfo, infer_field, infer_loaded, infer_message
from gateway.rpc.clients import Descriptor
from gateway.schema.rpc_fields import MutationField, RpcField

if TYPE_CHECKING:
    import strawberry

    from gateway.engine.run import Run


class DeferredRpc(DeferredField):
    """A field that calls its rpc once for each source object."""

    definition: RpcField

    def __init__(self, field: Field, schema: strawberry.Schema, *, suggestions: bool) -> None:
        super().__init__(field, schema, suggestions=suggestions)
        self.info = infer_message(self.definition.rpc.response.DESCRIPTOR)
        if self.definition.item_name:
            item: Descriptor = self.definition.rpc.response.DESCRIPTOR.fields_by_name[self.definition.item_name]
            self.info = infer_field(item, is_nullable=False)

    def rpc_label(self, *, is_below_list: bool) -> str:
        return f"{self.definition.rpc.method.name}{', one for each' if is_below_list else ''}"

    def key(self, source: Any) -> Any:
        return self.definition.source_fields(source)

    def start(self, run: Run, key: Any, container: Container, slot: Slot) -> None:
        try:
            arguments = self.argument_values(run) if self.arguments is not None else {}
        except Exception as error:
            self.fail(run, error, container, slot)
            return
        run.add_call(self, container, slot, self.definition.call, run.context, key, arguments)


class DeferredConnection(DeferredRpc):
    """A connection with a batch loader: the first pages of many source objects are one call; later pages are a call each."""

    def __init__(self, field: Field, schema: strawberry.Schema, *, suggestions: bool) -> None:
        super().__init__(field, schema, suggestions=suggestions)
        assert self.definition.loader is not None
        self.loader = self.definition.loader
        self.info = ValueInfo(messages=self.info.messages | infer_loaded(self.loader).messages)

    def rpc_label(self, *, is_below_list: bool) -> str:
        return f"{self.loader.rpc.method.name} (further pages {super().rpc_label(is_below_list=is_below_list)})"

    def key(self, source: Any) -> Any:
        fields = self.definition.source_fields(source)
        return fields and (fields, self.definition.get_key(source))

    def start(self, run: Run, key: Any, container: Container, slot: Slot) -> None:
        fields, id = key
        try:
            parameters = self.definition.first_page_parameters(run.context, self.argument_values(run) if self.arguments is not None else {})
        except Exception as error:
            self.fail(run, error, container, slot)
            return
        if parameters is None:
            super().start(run, fields, container, slot)
        else:
            run.request_key(run.key_load(self.loader, parameters), id, (self, id, container, slot))

    def settle(self, run: Run, value: Any, container: Container, slot: Slot) -> bool:
        return super().settle(run, self.definition.rpc.response() if value is None else value, container, slot)


class DeferredMutation(DeferredField):
    """A mutation: its value is the payload or a refusal."""

    definition: MutationField

    def rpc_label(self, *, is_below_list: bool) -> str:
        return str(self.definition.rpc.method.name)

    def key(self, source: Any) -> Any:
        return True

    def start(self, run: Run, key: Any, container: Container, slot: Slot) -> None:
        try:
            arguments = self.argument_values(run)
        except Exception as error:
            self.fail(run, error, container, slot)
            return
        run.add_call(self, container, slot, self.definition.execute, run.context, vars(arguments["input"]))
