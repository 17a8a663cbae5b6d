"""Limits of documents: an oversized document is refused at once, and the static cost equals a count of the response."""

import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from graphql import (
    DocumentNode,
    FieldNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLSyntaxError,
    OperationDefinitionNode,
    SelectionSetNode,
    get_introspection_query,
    parse,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.execution.executor import NESTING_MESSAGE, Executor
from gateway.graph import schema
from gateway.limits.cost import CostAnalysis, Measure
from gateway.limits.document import CODE, MESSAGES, Limits, Rule
from gateway.limits.field_costs import CALL_POINTS
from services.kit.mongo.pagination import PAGE_SIZE
from services.kit.settings import Settings
from tests.gateway.conftest import OPERATIONS, Gateway, Open

CPU_SECONDS_MAX = 0.010
SLOWER_FACTOR = 3
"""The machine that runs the tests may be this much slower than the one that the goal was measured on."""


@pytest.fixture(scope="module")
def executor() -> Executor:
    return Executor(schema.build(), suggestions=False)


def doubling(levels: int) -> str:
    """Fragments that each spread the next one twice."""
    middle = "".join(f"fragment f{level} on Query{{...f{level + 1} ...f{level + 1}}}" for level in range(levels))
    return f"{{...f0}}{middle}fragment f{levels} on Query{{__typename}}"


ATTACKS = {
    "20 doubling fragments": doubling(20),
    "26 doubling fragments": doubling(26),
    "1,000 spreads": "{" + "...f " * 1_000 + "} fragment f on Query{__typename}",
    "500 aliases": "{" + " ".join(f"a{number}:__typename" for number in range(500)) + "}",
    "500 unknown directives": "{__typename " + "@a " * 500 + "}",
    "introspection of 500 levels": "{__schema{types{" + "ofType{" * 500 + "name" + "}" * 500 + "}}}",
    "introspection of 100 levels": "{__schema{types{" + "ofType{" * 100 + "name" + "}" * 100 + "}}}",
    "one field 490 times": "{" + "__typename " * 490 + "}",
    "one field 3,000 times": "{" + "a " * 3_000 + "}",
    "fields of 200 levels": "{brand(id:1)" + "{headquarters{brand" * 100 + "{id}" + "}}" * 100 + "}",
    "a list of 1,000 levels": "{a(b:" + "[" * 1_000,
    "an object of 190 levels": "{brand(id:" + "{c:" * 190 + "1" + "}" * 190 + "){id}}",
    "inline fragments of 190 levels": "{" + "...on Query{" * 190 + "unknown" + "}" * 191,
    "8,000 comments": "{a}" + "#\n" * 8_000,
    "a text of 200,000 characters": '{a(b:"' + "x" * 200_000 + '")}',
    "a comment of 200,000 characters": "{a} #" + "x" * 200_000,
    "1,000 variables": "query(" + "$a:Int " * 1_000 + "){__typename}",
    "fragments in a circle": "{...a} fragment a on Query{...b} fragment b on Query{...a ...a}",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_oversized_document_is_refused_within_milliseconds(executor: Executor, attack: str) -> None:
    seconds = []
    for _ in range(5):
        started = time.process_time()
        prepared = executor.prepare(ATTACKS[attack])
        seconds.append(time.process_time() - started)
        assert prepared.ast is None
        assert prepared.errors
    assert min(seconds) < CPU_SECONDS_MAX * SLOWER_FACTOR, f"{min(seconds) * 1000:.1f} ms"


def nested_fields(count: int, row: str, item: str, row_size: int) -> str:
    """Returns `count` fields, most of them in rows of `row_size`: a field with a selection."""
    inner = row_size - 1
    return " ".join([f"{row}{{{f' {item}' * inner}}}"] * (count // row_size) + [item] * (count % row_size))


EXCEEDING = [
    ("depth", lambda n: "{node" + "{id" * (n - 1) + "}" * n),
    ("fields", lambda n: "{node{" + nested_fields(n - 1, "a", "b", 20) + "}}"),
    ("repeats", lambda n: "{node{" + "id " * n + "}}"),
    ("repeats", lambda n: "{node{id ...f}} fragment f on Node{" + "id " * (n - 1) + "}"),
    ("roots", lambda n: "{" + " ".join(f"f{number}" for number in range(n)) + "}"),
    ("aliases", lambda n: "{node{" + " ".join(f"a{number}:id" for number in range(n)) + "}}"),
    ("directives", lambda n: "{__typename" + " @include(if:true)" * n + "}"),
    ("directives", lambda n: "query" + " @a" * n + "{__typename}"),
    ("directives", lambda n: "query($a:Int" + " @a" * n + "){__typename}"),
    ("directives", lambda n: "{...f} fragment f on Query" + " @a" * n + "{__typename}"),
    ("spreads", lambda n: "{node{" + "...f " * n + "}} fragment f on Node{a}"),
    ("fragments", lambda n: "{a}" + "fragment f on Query{b}" * n),
    ("operations", lambda n: " ".join(f"query q{number}{{a}}" for number in range(n))),
    ("introspected", lambda n: "{__schema{" + nested_fields(n, "queryType", "description", 10) + "}}"),
    ("introspection_depth", lambda n: "{__type" + "{ofType" * (n - 1) + "{name}" + "}" * (n - 1) + "}"),
]


@pytest.mark.parametrize(("limit", "document"), EXCEEDING)
def test_limit_admits_its_value_and_no_more(limit: str, document: Callable[[int], str]) -> None:
    rule = Rule(schema.build()._schema, msgspec.structs.replace(Limits(), spreads=20) if limit == "spreads" else Limits())
    limit_max = getattr(rule.limits, limit)
    assert not rule.check(parse(document(limit_max))).errors
    (error,) = rule.check(parse(document(limit_max + 1))).errors
    assert error.message == MESSAGES[limit].format(limit_max)


NESTED = [
    lambda n: "{a" * n + "}" * n,
    lambda n: "{a" + "...{" * (n - 1) + "a" + "}" * n,
    lambda n: "{a(b:" + "[" * (n - 2) + "]" * (n - 2) + ")}",
    lambda n: "{a(b:" + "{c:" * (n - 2) + "1" + "}" * (n - 2) + ")}",
    lambda n: "query($a:" + "[" * (n - 1) + "Int" + "]" * (n - 1) + "){a}",
]


@pytest.mark.parametrize("document", NESTED)
def test_parser_refuses_documents_that_nest_too_deep(executor: Executor, document: Callable[[int], str]) -> None:
    executor.rule.parse(document(64))
    (error,) = executor.prepare(document(230)).errors
    assert isinstance(error, GraphQLSyntaxError)


def test_fragments_beyond_the_recursion_limit_are_refused(executor: Executor) -> None:
    chain = "".join(f"fragment f{number} on Query{{{'...{' * 4}...f{number + 1}{'}' * 4}}}" for number in range(48))
    prepared = executor.prepare("{...f0}" + chain + "fragment f48 on Query{__typename}")
    assert prepared.ast is None
    assert [error.message for error in prepared.errors] in ([NESTING_MESSAGE], ["Validation aborted."])


def test_document_above_the_token_limit_is_refused(executor: Executor) -> None:
    tokens_max = executor.rule.limits.tokens
    executor.rule.parse("{" + "a " * (tokens_max - 2) + "}")
    for text in ("{" + "a " * (tokens_max - 1) + "}", "{a}" + "#\n" * tokens_max):
        (error,) = executor.prepare(text).errors
        assert str(tokens_max) in error.message


def test_document_limits_are_settings() -> None:
    assert Limits.of(Settings()) == Limits()
    assert Limits.of(Settings(limit_depth=3, limit_cost=9)).depth == 3
    strict = Executor(schema.build(), suggestions=False, limits=Limits.of(Settings(limit_depth=3)))
    (error,) = strict.prepare("{viewer{staff{id tasks{nodes{id}}}}}").errors
    assert error.message == MESSAGES["depth"].format(3)
    assert error.extensions == {"code": CODE}


def test_front_end_operations_are_within_the_limits(executor: Executor) -> None:
    for path in OPERATIONS.glob("*.graphql"):
        prepared = executor.prepare(path.read_text())
        assert prepared.ast is not None, (path, prepared.errors)
        assert prepared.cost_max <= executor.rule.limits.cost, path
    for full in (False, True):
        query = get_introspection_query(
            specified_by_url=full, directive_is_repeatable=full, schema_description=full, input_value_deprecation=full
        )
        assert executor.prepare(query).ast is not None


# the same count, by a walk through every value ----

FIELDS = {
    "Query": ["__typename", "viewer Viewer", "offers Connection", "nodes Node", "scorecard Scorecard"],
    "Viewer": ["__typename", "staff Staff"],
    "Staff": ["id", "name", "tasks Tasks"],
    "Tasks": ["nodes Task", "edges TaskEdge", "pageInfo PageInfo"],
    "TaskEdge": ["cursor", "node Task"],
    "Task": ["id", "consumer Consumer", "coupons TaskCoupon", "assignee Staff"],
    "Consumer": ["id", "sizes Attribute", "relations Relations", "inbox Inbox"],
    "Relations": ["nodes Relation"],
    "Relation": ["id", "spent Money"],
    "Inbox": ["unread", "nodes Outreach"],
    "Outreach": ["id"],
    "TaskCoupon": ["couponId"],
    "Money": ["amount"],
    "Attribute": ["name"],
    "PageInfo": ["endCursor"],
    "Connection": ["nodes Offer", "edges OfferEdge"],
    "OfferEdge": ["node Offer"],
    "Offer": ["id", "goods Goods", "brand Brand"],
    "Goods": ["attributes Attribute"],
    "Brand": ["id", "scorecard Scorecard"],
    "Scorecard": ["byStore StoreFigures"],
    "StoreFigures": ["store Store"],
    "Store": ["id"],
    "Node": ["__typename", "id"],
}
"""Fields of the graph by type, each with the key of its own type in this table."""
NAMES = {"Connection": "OfferConnection", "Tasks": "TaskConnection", "Relations": "RelationConnection", "Inbox": "InboxConnection"}
NAMES |= {"Goods": "OfferedVariant"}
PAGED = ("offers", "tasks", "relations", "inbox")


@st.composite
def selections(draw: st.DrawFn, row: str, fragments: dict[str, str], depth: int = 0) -> str:
    """A selection on a type. It spreads only fragments that were defined before, so that there are no cycles."""
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["field"] * 6 + ["inline", "spread"]))
        directive = draw(st.sampled_from(["", "", " @include(if: true)"]))
        if kind == "inline" and depth < 5:
            parts.append(f"...{directive} {draw(selections(row, fragments, depth + 1))}")
        elif kind == "spread" and (names := [name for name, on in fragments.items() if on == row]):
            parts.append(f"...{draw(st.sampled_from(names))}{directive}")
        else:
            parts.append(draw(fields(row, fragments, depth)) + "")
    return "{ " + " ".join(parts) + " }"


@st.composite
def fields(draw: st.DrawFn, row: str, fragments: dict[str, str], depth: int) -> str:
    name, _, below = draw(st.sampled_from(FIELDS[row] if depth < 6 else [FIELDS[row][0]])).partition(" ")
    alias = draw(st.sampled_from(["", "", "a: ", "b: "]))
    arguments = ""
    if name in PAGED:
        arguments = draw(
            st.sampled_from(["", "(first: 2)", "(first: $size)", "(first: 3, after: null)", '(first: 1, after: "x")', "(after: $after)"])
        )
    elif name == "nodes" and row == "Query":
        arguments = draw(st.sampled_from(["(ids: [1, 2, 3])", "(ids: $ids)"]))
    inner = (draw(selections(below, fragments, depth + 1)) if depth < 6 else "{ __typename }") if below else ""
    return f"{alias}{name}{arguments} {inner}"


@st.composite
def documents(draw: st.DrawFn) -> str:
    rows = draw(st.lists(st.sampled_from(["Query", "Staff", "Task", "Tasks", "Consumer", "Offer"]), max_size=5))
    known: dict[str, str] = {}
    texts = []
    for number, row in enumerate(rows):
        on = NAMES.get(row, row)
        texts.append(f"fragment f{number} on {on} {draw(selections(row, dict(known)))}")
        known[f"f{number}"] = row
    operation = "query ($size: Int, $after: String, $ids: [ID!]!) " + draw(selections("Query", known))
    return " ".join([operation, *texts])


class ResponseCounter:
    """Counts every value and rpc of a response with the maximum number of items."""

    def __init__(self, analysis: CostAnalysis) -> None:
        self.analysis, self.field_costs = analysis, analysis.field_costs
        self.values = self.calls = 0
        self.levels: set[tuple[int, ...]] = set()
        self.counts = Measure()

    def selection(
        self, parent: Any, node: SelectionSetNode, page: int, where: tuple[int, ...] = (), depth: int = 1, first: bool = True
    ) -> int:
        """Counts a selection and returns its levels. `first`: its fields and directives are not counted yet."""
        levels = 0
        for place, each in enumerate(node.selections):
            here = (*where, place)
            if first:
                self.counts.directives += len(each.directives or ())
            if isinstance(each, FieldNode):
                levels = max(levels, self.field(parent, each, page, here, depth, first))
            elif isinstance(each, FragmentSpreadNode):
                self.counts.spreads += first
                levels = max(
                    levels, self.selection(parent, self.analysis.fragments[each.name.value].selection_set, page, here, depth, first)
                )
            else:
                levels = max(levels, self.selection(parent, each.selection_set, page, here, depth, first))  # type: ignore[attr-defined]
        return levels

    def field(self, parent: Any, node: FieldNode, page: int, where: tuple[int, ...], depth: int, first: bool) -> int:
        cost = self.field_costs.find(parent, node.name.value)
        if first:
            self.counts.fields += 1
            self.counts.aliases += node.alias is not None
        size = self.analysis._size(cost, node) if cost.sized_by else PAGE_SIZE
        if cost.shared or (cost.first_shared and not self.analysis._is_given(node, "after")):
            self.levels.add(where)
        elif cost.calls:
            self.calls += 1
        items = page if cost.of_page else size if cost.sized_by == "ids" else cost.size
        levels = 1
        for item in range(items):
            self.values += 1
            if node.selection_set is not None:
                levels = max(levels, 1 + self.selection(cost.type, node.selection_set, size, where, depth + 1, first and item == 0))
        if not items and node.selection_set is not None:  # an empty list still has the fields of its selection
            uncounted = ResponseCounter(self.analysis)
            uncounted.counts = self.counts
            levels = 1 + uncounted.selection(cost.type, node.selection_set, size, where, depth + 1, first)
            self.levels |= uncounted.levels
        return levels


@given(
    documents(),
    st.fixed_dictionaries({}, optional={"size": st.none() | st.integers(-1, 4), "after": st.none() | st.just("x"), "ids": st.just(["a"])}),
)
@settings(max_examples=150, deadline=None)
def test_measured_cost_equals_the_counted_response(text: str, variables: dict[str, Any]) -> None:
    rule = Rule(schema.build()._schema, Limits())
    document: DocumentNode = parse(text)
    operation = next(item for item in document.definitions if isinstance(item, OperationDefinitionNode))
    measured = CostAnalysis(rule.field_costs, document, variables).operation(operation)
    counter = ResponseCounter(CostAnalysis(rule.field_costs, document, variables))
    counter.counts.depth = counter.selection(rule.field_costs.schema.query_type, operation.selection_set, PAGE_SIZE)
    counted = ("fields", "aliases", "directives", "spreads", "depth")
    assert {name: getattr(measured, name) for name in counted} == {name: getattr(counter.counts, name) for name in counted}
    assert measured.cost == counter.values + CALL_POINTS * (counter.calls + len(counter.levels))


# the cost ----------------------------------------------------------------------------------------------------------------


def cost(executor: Executor, text: str, **variables: Any) -> int:
    prepared = executor.prepare(text)
    assert prepared.ast is not None, prepared.errors
    operation = prepared.find_operation(None)
    assert operation is not None
    return executor.rule.cost(prepared.ast, operation, variables)


def test_pages_multiply_and_references_cost_once_per_level(executor: Executor) -> None:
    page = "query ($n: Int) { offers(first: $n) { nodes { id brand { id } } } }"
    assert cost(executor, page, n=7) == CALL_POINTS + 1 + 7 * (1 + 1 + 1 + 1) + CALL_POINTS
    assert cost(executor, page) == CALL_POINTS + 1 + PAGE_SIZE * 4 + CALL_POINTS
    below = "{ offers(first: 7) { nodes { brand { orders(first: 2) { nodes { id } } } } } }"
    assert cost(executor, below) == CALL_POINTS + 1 + 7 * (1 + 1 + 1 + 2 * 2) + 2 * CALL_POINTS
    further = below.replace("first: 2", 'first: 2, after: "x"')
    assert cost(executor, further) == CALL_POINTS + 1 + 7 * (1 + 1 + CALL_POINTS + 1 + 2 * 2) + CALL_POINTS
    assert cost(executor, "{ nodes(ids: [1, 2, 3]) { id } }") == CALL_POINTS + 3 * 2
    assert cost(executor, '{ variant(id: "v") { attributes { name } } }') == CALL_POINTS + 1 + 16 * 2
    assert cost(executor, '{ relation(brandId: "b") { spent { amount } } }') == CALL_POINTS + 1 + 10 * 2


def test_variable_page_is_refused_only_above_the_limit(executor: Executor) -> None:
    text = """query ($n: Int) { offers(first: $n) { nodes { brand { orders(first: $n, after: "x") { nodes { id credit { id } } } } } } }"""
    prepared = executor.prepare(text)
    operation = prepared.find_operation(None)
    assert operation is not None
    assert executor.cost(prepared, operation, {"n": 20}) < executor.rule.limits.cost < prepared.cost_max * 3
    expensive = "query ($n: Int) { offers(first: $n) { nodes { brand { orders(first: 100) { nodes { lines { variant { id } } } } } } } }"
    prepared = executor.prepare(expensive)
    operation = prepared.find_operation(None)
    assert operation is not None
    assert executor.cost(prepared, operation, {"n": 2})
    with pytest.raises(GraphQLError, match="may cost at most") as refused:
        executor.cost(prepared, operation, {"n": 100})
    assert refused.value.extensions == {"code": CODE, "points": executor.rule.cost(prepared.ast, operation, {"n": 100})}
    constant = text.replace("$n: Int", "$m: Int").replace("$n", "100").replace("id credit { id }", "id lines { quantity variant { id } }")
    assert [error.message for error in executor.prepare(constant).errors] == [MESSAGES["cost"].format(150_000)]


def test_variable_costs_its_coerced_value(executor: Executor) -> None:
    expensive = "{ offers(first: $n) { nodes { brand { orders(first: 100) { nodes { lines { variant { id } } } } } } } }"
    for declared, variables in (("Int = 100", {}), ("Int", {"n": 100.0})):
        prepared = executor.prepare(f"query ($n: {declared}) {expensive}")
        operation = prepared.find_operation(None)
        assert operation is not None
        with pytest.raises(GraphQLError, match="may cost at most"):
            executor.cost(prepared, operation, variables)
        assert executor.cost(prepared, operation, {"n": 2}) == executor.cost(prepared, operation, {"n": 2.0})
    page = "query ($after: String%s) { offers(first: 7) { nodes { brand { orders(first: 2, after: $after) { nodes { id } } } } } }"
    assert cost(executor, page % ' = "x"') == cost(executor, page % "", after="x") > cost(executor, page % "")
    assert cost(executor, page % ' = "x"', after=None) == cost(executor, page % "")


async def test_response_contains_its_cost_on_request(alone: Gateway) -> None:
    request = {"query": "query ($n: Int) { offers(first: $n) { nodes { id } } }", "variables": {"n": 3}}
    assert "extensions" not in (await alone.post(request)).json()
    answer = (await alone.post(request | {"extensions": {"cost": True}})).json()
    assert answer["extensions"] == {"cost": {"points": CALL_POINTS + 1 + 3 * 2}}


async def test_operation_above_the_cost_limit_is_refused(open_gateway: Open) -> None:
    gateway = await open_gateway(deadline_seconds=2.0, limit_cost=600)
    request = {"query": "query ($n: Int) { offers(first: $n) { nodes { id } } }"}
    assert (await gateway.post(request | {"variables": {"n": 20}})).status_code == 200
    by_default = {"query": request["query"].replace("Int", "Int = 100")}
    for expensive in (request | {"variables": {"n": 100}}, request | {"variables": {"n": 100.0}}, by_default):
        refused = await gateway.post(expensive)
        assert refused.status_code == 400
        assert refused.json()["errors"][0]["extensions"]["code"] == CODE
        assert "data" not in refused.json()
    assert gateway.calls == ["SearchOffers"]
