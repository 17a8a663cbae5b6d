"""One operation through both executors, graphql-core and the engine. Their answers must be equal."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import structlog
from graphql import DocumentNode, FieldNode, FragmentDefinitionNode, FragmentSpreadNode, OperationType, get_operation_ast, parse, validate
from msgspec import Struct

from gateway.auth.sessions import Session
from gateway.engine.collect_fields import Uncompiled
from gateway.execution import executor
from gateway.execution.context import Context
from gateway.execution.document_cache import ParsedDocument
from gateway.execution.executor import Executor, SerializedResult
from gateway.graph import schema
from gateway.rpc.clients import Clients, acting_as
from services.kit.rpc import channel
from services.kit.runtime.runtime import SERVICES
from services.kit.security.principals import Grant, Principal
from services.kit.settings import Settings
from services.local.keys import new_keys
from tests.gateway.engine.services import Memory, serve

SESSION = Session(Principal(id="stf_1", grants=(Grant("ROLE_GUIDE", "SCOPE_KIND_STORE", "str_1"),)), staff_id="stf_1", consumer_id="con_1")
SECONDS = 20.0
HANGING_SECONDS = (0.15, 1.0, 5.0)
"""Deadlines of an operation with services that never answer. A difference is retried with the next one: the machine may be busy."""


class Pair(Struct, frozen=True):
    """The two answers. `reason` is why the engine did not compile the operation; empty if it did."""

    core: Any
    engine: Any
    reason: str
    calls: tuple[list[str], list[str]]


class BothExecutors:
    """Runs an operation with both executors, on services that answer from memory."""

    def __init__(self, memory: Memory, clients: Clients) -> None:
        self.memory, self.clients = memory, clients
        self.executor = Executor(schema.build(), suggestions=True)
        self.seconds = SECONDS

    async def run(
        self,
        query: str,
        variables: dict[str, Any] | None = None,
        operation_name: str | None = None,
        session: Session = SESSION,
        seconds: float | None = None,
    ) -> Pair | None:
        """Returns both answers in comparable form; None if the document is invalid."""
        document = parse(query)
        if validate(self.executor.core, document):
            return None
        prepared = ParsedDocument(document)
        compiled = self.executor._compile(prepared, operation_name)
        event = self._event(document, operation_name)

        async def core(context: Context) -> SerializedResult:
            result = await self.executor.execute_core(prepared, context, variables, operation_name)
            return executor.serialize(result.data, result.errors or (), is_executed=executor.is_executed(result))

        async def engine(context: Context) -> SerializedResult:
            return await self.executor.execute(prepared, context, variables, operation_name)

        answers, called = [], []
        for execute in (core, engine):
            self.memory.calls.clear()
            channel.deadline.set(time.monotonic() + (seconds or self.seconds))
            with acting_as(session.principal):
                answers.append(comparable(await execute(Context(session, self.clients, event))))
            called.append(sorted(self.memory.calls))
        reason = compiled.reason if isinstance(compiled, Uncompiled) else self._reason(compiled, variables)
        return Pair(*answers, reason, (called[0], called[1]))

    async def run_engine(self, query: str, variables: dict[str, Any] | None = None) -> tuple[Any, list[str]]:
        """Returns the engine's answer and its rpcs, without graphql-core, whose cancelled rpcs may be counted late."""
        self.memory.calls.clear()
        channel.deadline.set(time.monotonic() + self.seconds)
        with acting_as(SESSION.principal):
            answered = await self.executor.execute(ParsedDocument(parse(query)), Context(SESSION, self.clients), variables)
        assert answered.uncompiled == ""
        return orjson.loads(answered.body), sorted(self.memory.calls)

    def _event(self, document: DocumentNode, operation_name: str | None) -> Any:
        """Returns an event of a subscription, which both executors answer; None for other operations."""
        operation: Any = get_operation_ast(document, operation_name)
        if operation is None or operation.operation is not OperationType.SUBSCRIPTION:
            return None
        fragments = {each.name.value: each for each in document.definitions if isinstance(each, FragmentDefinitionNode)}
        field: Any = operation.selection_set.selections[0]
        while not isinstance(field, FieldNode):
            inner = fragments[field.name.value] if isinstance(field, FragmentSpreadNode) else field
            field = inner.selection_set.selections[0]
        definition: Any = self.executor.core.subscription_type.fields[field.name.value].extensions["strawberry-definition"]  # type: ignore[union-attr]
        return self.memory.create(definition.rpc.response(), "an event")

    @staticmethod
    def _reason(compiled: Any, variables: dict[str, Any] | None) -> str:
        coerced = compiled.variables.coerce(variables or {})
        if isinstance(coerced, list):
            return ""
        try:
            compiled.plan(coerced)
        except Uncompiled as uncompiled:
            return uncompiled.reason
        return ""

    async def compare(self, query: str, variables: dict[str, Any] | None = None, operation_name: str | None = None) -> Pair | None:
        """Runs both and asserts that the answers are equal; returns None if the document is invalid."""
        differing = ""
        for seconds in HANGING_SECONDS if self.memory.hangs else (self.seconds,):
            pair = await self.run(query, variables, operation_name, seconds=seconds)
            if pair is None or pair.engine == pair.core:
                return pair
            differing = f"seed {self.memory.seed}\n{query}\n{variables}\ncore   {pair.core}\nengine {pair.engine}"
        raise AssertionError(differing)


def comparable(answered: SerializedResult) -> bytes:
    """Returns the body with sorted errors and with one id for all bugs, whose ids are random."""
    body = orjson.loads(answered.body)
    for error in body.get("errors", ()):
        if "id" in error.get("extensions", {}):
            error["extensions"]["id"] = "bug_"
    if "errors" in body:
        body["errors"].sort(key=orjson.dumps)
        assert answered.errors == len(body["errors"])
    assert answered.is_executed == ("data" in body)
    return orjson.dumps(body)


@asynccontextmanager
async def open_executors() -> AsyncIterator[BothExecutors]:
    """Yields both executors with simulated services in this process."""
    memory = Memory()
    # Each masked bug would write a traceback, and the simulated services cause many.
    structlog.configure(processors=[lambda *_: ""], logger_factory=structlog.ReturnLoggerFactory())
    async with serve(memory) as address:
        addresses: dict[str, Any] = {f"{name}_address": address for name in SERVICES}
        clients = Clients(Settings(**addresses, signing_key=new_keys().signing_setting("gateway")))
        await clients.open()
        try:
            yield BothExecutors(memory, clients)
        finally:
            await clients.close()
            structlog.reset_defaults()
