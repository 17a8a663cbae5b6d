"""Plans: what is asked at which level, what is compiled and what is not, and that a plan keeps nothing of a request."""

import pytest
from graphql import GraphQLError, parse

from gateway.engine.collect_fields import CONDITIONS_MAX, FIELDS_MAX, Uncompiled
from gateway.engine.engine import UNCOMPILED, Compiled, Engine
from gateway.execution.context import Context
from gateway.execution.executor import Executor, Prepared
from gateway.graph import schema
from gateway.tools import plan
from tests.gateway.conftest import OPERATIONS
from tests.gateway.engine.both import SESSION, Both

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


def compiled(query: str) -> Compiled | Uncompiled:
    document = parse(query)
    return Engine(schema.build(), suggestions=True).compiled(document, document.definitions[0])  # type: ignore[arg-type]


def test_a_plan_prints_its_batches_by_level() -> None:
    assert plan.printed((OPERATIONS / "my_orders.graphql").read_text()) == MY_ORDERS


def test_a_plan_tells_what_is_asked_for_each_item_of_a_list() -> None:
    printed = plan.printed(
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


def test_a_plan_without_a_document_is_refused() -> None:
    with pytest.raises(GraphQLError, match="Cannot query field"):
        plan.printed("{ nothing }")
    with pytest.raises(GraphQLError, match="name one"):
        plan.printed("query A { __typename } query B { __typename }")


def test_nothing_a_client_writes_becomes_source() -> None:
    told = plan.printed('{ a: brand(id: "\\"); import os #") { a1: id } }', source=True)
    assert "import" not in told


def test_fragments_within_fragments_are_left_out_of_plans() -> None:
    levels = 12
    fragments = "".join(
        f"fragment F{n} on Brand {{ a: headquarters {{ brand {{ ...F{n + 1} }} }} b: headquarters {{ brand {{ ...F{n + 1} }} }} }} "
        for n in range(levels)
    )
    document = parse('{ brand(id: "brd_1") { ...F0 } } ' + fragments + f"fragment F{levels} on Brand {{ id }}")
    found = Engine(schema.build(), suggestions=True).compiled(document, document.definitions[0])  # type: ignore[arg-type]
    assert isinstance(found, Compiled)
    assert 2**levels > FIELDS_MAX
    with pytest.raises(Uncompiled, match="size"):
        found.plan({})
    with pytest.raises(Uncompiled, match="size"):
        found.plan({})


def test_each_combination_of_conditions_is_compiled_once() -> None:
    names = [f"c{number}" for number in range(CONDITIONS_MAX)]
    declared = ", ".join(f"${name}: Boolean!" for name in names)
    fields = " ".join(f'b{name}: brand(id: "brd_1") @include(if: ${name}) {{ id }}' for name in names)
    found = compiled(f"query ({declared}) {{ {fields} }}")
    assert isinstance(found, Compiled)
    given = [{name: bool(number >> place & 1) for place, name in enumerate(names)} for number in range(2**CONDITIONS_MAX)]
    made = [found.plan(each) for each in given]
    assert [found.plan(each) for each in given] == made, "whoever asks for others drives none of them out"


async def test_what_is_not_compiled_is_counted_and_answered(both: Both) -> None:
    def count() -> float:
        return UNCOMPILED.labels("introspection")._value.get()

    before = count()
    for query in ("{ __schema { queryType { name } } }", "{ __typename }"):
        assert await both.same(query) is not None
    assert count() == before + 1


async def test_a_bug_of_the_compiler_is_left_to_graphql_core(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("gateway.engine.plan.objects.function", broken)
    pair = await both.same('{ brand(id: "brd_1") { id } }')
    assert pair is not None
    assert pair.reason == "bug"


async def test_plans_live_as_long_as_their_documents_and_keep_no_request(both: Both) -> None:
    executor = Executor(schema.build(), suggestions=True)
    query = "query ($id: ID!) { offer(id: $id) { id brand { id } } }"
    for number in range(3):
        await executor.answer(executor.prepare(query), Context(SESSION, both.clients), {"id": f"ofr_{number}"})
    prepared: Prepared = executor.prepare(query)
    (found,) = prepared.compiled.values()
    assert isinstance(found, Compiled)
    (made,) = found.plans.values()
    assert not isinstance(made, Uncompiled)
    held = repr([vars(field.deferred) for field in made.selection.fields]) + repr(vars(made)) + repr(vars(found.variables))
    assert "ofr_" not in held
