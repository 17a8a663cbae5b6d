"""Plans: the rpcs of each level, which operations are compiled, and that a plan keeps no state of a request."""

import pytest
from graphql import GraphQLError, parse

from gateway.engine.collect_fields import CONDITIONS_MAX, FIELDS_MAX, Uncompiled
from gateway.engine.engine import UNCOMPILED, CompiledOperation, Engine
from gateway.execution.context import Context
from gateway.execution.document_cache import ParsedDocument
from gateway.execution.executor import Executor
from gateway.graph import schema
from gateway.tools import plan
from tests.gateway.conftest import OPERATIONS
from tests.gateway.engine.both import SESSION, BothExecutors

MY_ORDERS = """\
query MyOrders
  level 1
    BatchGetConsumers
      viewer.consumer
  level 2
    BatchListOrders (further pages ListOrders)
      viewer.consumer.orders
  level 3
    BatchGetStores
      viewer.consumer.orders.nodes.store
    BatchGetVariants
      viewer.consumer.orders.nodes.lines.variant"""


def compile_operation(query: str) -> CompiledOperation | Uncompiled:
    document = parse(query)
    return Engine(schema.build(), suggestions=True).compile(document, document.definitions[0])  # type: ignore[arg-type]


def test_plan_prints_rpcs_by_level() -> None:
    assert plan.format_plan((OPERATIONS / "my_orders.graphql").read_text()) == MY_ORDERS


def test_plan_marks_rpcs_called_for_each_item() -> None:
    printed = plan.format_plan(
        """query ($after: String) { store(id: "str_1") {
            tasks { nodes { assignee { tasks(after: $after) { nodes { id } } } } }
            staff { nodes { scorecard: store { scorecard(fromDay: "2024-05-01", untilDay: "2024-05-31") { fromDay } } } }
        } }"""
    )
    lines = [line.strip() for line in printed.splitlines() if "List" in line or "Scorecard" in line]
    assert lines == [
        "BatchListTasks (further pages ListTasks)",
        "BatchListStaff (further pages ListStaff)",
        "BatchListTasks (further pages ListTasks, one for each)",
        "BatchGetScorecards",
    ]


def test_plan_of_invalid_document_is_refused() -> None:
    with pytest.raises(GraphQLError, match="Cannot query field"):
        plan.format_plan("{ nothing }")
    with pytest.raises(GraphQLError, match="Give the name of one"):
        plan.format_plan("query A { __typename } query B { __typename }")


def test_client_text_never_becomes_source() -> None:
    source = plan.format_plan('{ a: brand(id: "\\"); import os #") { a1: id } }', source=True)
    assert "import" not in source


def test_exponential_fragments_are_not_compiled() -> None:
    levels = 12
    fragments = "".join(
        f"fragment F{n} on Brand {{ a: headquarters {{ brand {{ ...F{n + 1} }} }} b: headquarters {{ brand {{ ...F{n + 1} }} }} }} "
        for n in range(levels)
    )
    document = parse('{ brand(id: "brd_1") { ...F0 } } ' + fragments + f"fragment F{levels} on Brand {{ id }}")
    found = Engine(schema.build(), suggestions=True).compile(document, document.definitions[0])  # type: ignore[arg-type]
    assert isinstance(found, CompiledOperation)
    assert 2**levels > FIELDS_MAX
    with pytest.raises(Uncompiled, match="size"):
        found.plan({})
    with pytest.raises(Uncompiled, match="size"):
        found.plan({})


def test_combination_of_conditions_is_compiled_once() -> None:
    names = [f"c{number}" for number in range(CONDITIONS_MAX)]
    declared = ", ".join(f"${name}: Boolean!" for name in names)
    fields = " ".join(f'b{name}: brand(id: "brd_1") @include(if: ${name}) {{ id }}' for name in names)
    found = compile_operation(f"query ({declared}) {{ {fields} }}")
    assert isinstance(found, CompiledOperation)
    combinations = [{name: bool(number >> place & 1) for place, name in enumerate(names)} for number in range(2**CONDITIONS_MAX)]
    plans = [found.plan(each) for each in combinations]
    assert [found.plan(each) for each in combinations] == plans, "other combinations evict none"


async def test_uncompiled_operation_is_counted_and_answered(both: BothExecutors) -> None:
    def count() -> float:
        return UNCOMPILED.labels("introspection")._value.get()

    before = count()
    for query in ("{ __schema { queryType { name } } }", "{ __typename }"):
        assert await both.compare(query) is not None
    assert count() == before + 1


async def test_compiler_bug_falls_back_to_graphql_core(both: BothExecutors, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("gateway.engine.plan.codegen.object_function", broken)
    pair = await both.compare('{ brand(id: "brd_1") { id } }')
    assert pair is not None
    assert pair.reason == "bug"


async def test_plan_is_reused_and_keeps_no_request(both: BothExecutors) -> None:
    executor = Executor(schema.build(), suggestions=True)
    query = "query ($id: ID!) { offer(id: $id) { id brand { id } } }"
    for number in range(3):
        await executor.execute(executor.prepare(query), Context(SESSION, both.clients), {"id": f"ofr_{number}"})
    prepared: ParsedDocument = executor.prepare(query)
    (found,) = prepared.compiled.values()
    assert isinstance(found, CompiledOperation)
    (only,) = found.plans.values()
    assert not isinstance(only, Uncompiled)
    kept = repr([vars(field.deferred) for field in only.selection.fields]) + repr(vars(only)) + repr(vars(found.variables))
    assert "ofr_" not in kept
