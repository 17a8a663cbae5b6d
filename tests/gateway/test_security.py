"""Security: the checks of graphql-cop, graphql-armor and clairvoyance, the rules for browsers, and the content of errors."""

import asyncio
import re
from typing import Any

import pytest
from graphql import get_introspection_query

from gateway.execution.executor import INVALID_MESSAGE
from gateway.graph import schema
from gateway.http import graphiql
from gateway.limits.document import MESSAGES
from services.kit.runtime.runtime import SERVICES
from tests.gateway.conftest import GRAPHQL, Gateway, Open
from tests.gateway.limits.test_document_limits import doubling

JSON = "application/json"
MUTATION = "mutation { markRead(input: {outreachIds: []}) { __typename } }"
SECONDS_MAX = 20.0


@pytest.fixture
async def production(open_gateway: Open) -> Gateway:
    """A gateway with the settings of production: no introspection, no local issuer."""
    return await open_gateway(env="production", token_keys='{"keys": []}', deadline_seconds=2.0)


async def refusal_message(gateway: Gateway, query: str, **body: Any) -> str:
    """Asserts that a document is refused before its execution; returns the message."""
    response = await gateway.post({"query": query} | body)
    assert response.status_code == 400, response.text
    assert "data" not in response.json()
    return str(response.json()["errors"][0]["message"])


# graphql-cop ---------------------------------------------------------------------------------------------------------------


async def test_cop_alias_overloading(alone: Gateway) -> None:
    assert "aliases" in await refusal_message(alone, "query cop { " + " ".join(f"alias{number}:__typename" for number in range(101)) + " }")


async def test_cop_array_batching(alone: Gateway) -> None:
    assert (await alone.post([{"query": "query cop { __typename }"}] * 10)).status_code == 400


async def test_cop_directive_overloading(alone: Gateway) -> None:
    response = await alone.post({"query": "query cop { __typename " + "@aa" * 10 + " }"})
    assert response.status_code == 400
    assert "directives" in await refusal_message(alone, "query cop { __typename " + "@aa" * 50 + " }")


async def test_cop_circular_introspection(alone: Gateway, production: Gateway) -> None:
    circle = "fields { type { " * 4 + "name" + " } }" * 4
    query = f"query cop {{ __schema {{ types {{ {circle} }} }} }}"
    await refusal_message(alone, query)
    await refusal_message(production, query)


async def test_cop_circular_fragment(alone: Gateway) -> None:
    await refusal_message(alone, "query cop { ...A } fragment A on Query { ...B } fragment B on Query { ...A }")


async def test_cop_field_duplication(alone: Gateway) -> None:
    assert MESSAGES["repeats"].format(25) in await refusal_message(alone, "query cop { " + "__typename \n" * 500 + "}")


async def test_cop_field_suggestions(alone: Gateway, production: Gateway) -> None:
    for gateway in (alone, production):
        for query in (
            "query cop { __schema { directive } }",
            "query cop { brnd { id } }",
            'query cop { brand(i: "x") { id } }',
            "{ viewer { stff { id } } }",
        ):
            assert "Did you mean" not in await refusal_message(gateway, query)


async def test_cop_get_based_mutation(alone: Gateway) -> None:
    assert (await alone.http.get("/graphql", params={"query": "mutation cop { __typename }"})).status_code == 405


async def test_cop_get_method_csrf(alone: Gateway) -> None:
    """GET is allowed for queries, but a page of another site needs a preflight for it."""
    query = {"query": "query cop { __typename }"}
    for site in ("cross-site", "same-site"):
        assert (await alone.http.get("/graphql", params=query, headers={"sec-fetch-site": site})).status_code == 403
        allowed = {"sec-fetch-site": site, "graphql-require-preflight": "1"}
        assert (await alone.http.get("/graphql", params=query, headers=allowed)).status_code == 200
    for site in ("same-origin", "none"):
        assert (await alone.http.get("/graphql", params=query, headers={"sec-fetch-site": site})).status_code == 200


async def test_cop_post_based_csrf(alone: Gateway) -> None:
    """A request that a form can send without a preflight is refused."""
    for sent in ({"data": {"query": "query cop { __typename }"}}, {"files": {"query": b"{ __typename }"}}):
        assert (await alone.http.post("/graphql", **sent)).status_code == 415  # type: ignore[arg-type]
    for media in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/graphql",
        "",
        "text/plain; application/json",
    ):
        response = await alone.http.post("/graphql", content=b'{"query": "{ __typename }"}', headers={"content-type": media})
        assert response.status_code == 415, media


async def test_cop_introspection(alone: Gateway, production: Gateway, open_gateway: Open) -> None:
    assert (await alone.post({"query": get_introspection_query()})).status_code == 200
    await refusal_message(production, get_introspection_query())
    await refusal_message(production, '{ __type(name: "Query") { name } }')
    closed = await open_gateway(introspection="off")
    await refusal_message(closed, "{ __schema { queryType { name } } }")
    opened = await open_gateway(introspection="on", env="production", token_keys='{"keys": []}')
    assert (await opened.post({"query": "{ __schema { queryType { name } } }"})).status_code == 200


async def test_cop_trace_mode_and_unhandled_errors(alone: Gateway) -> None:
    for query in ("query cop { __typename }", "qwerty cop { abc }", '{ brand(id: "brd_x") { id } }', "query cop { nothing }"):
        text = (await alone.post({"query": query})).text.lower()
        for word in ("tracing", "stacktrace", "traceback", "exception", "debug", ".py", "grpc", "127.0.0.1"):
            assert word not in text, (query, word)


async def test_cop_graphiql(alone: Gateway, production: Gateway) -> None:
    """GraphiQL is served in development only, and loads no file of another site."""
    html = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    page = await alone.http.get("/graphql", headers=html)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers.get_list("content-security-policy") == [graphiql.CONTENT_SECURITY_POLICY], (
        "a browser would apply a second policy too"
    )
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) > 5 and all(path.startswith("/graphiql/") for path in loaded)
    for path in loaded:
        file = await alone.http.get(path)
        assert file.status_code == 200 and file.headers["x-content-type-options"] == "nosniff", path
        assert path.endswith(".js") or not re.search(r"@import|url\((?!data:)", file.text), path
        assert (await production.http.get(path)).status_code == 404
    assert (await alone.http.get("/graphql", headers=html, params={"query": "{ __typename }"})).json() == {"data": {"__typename": "Query"}}
    response = await production.http.get("/graphql", headers=html)
    assert response.status_code == 400
    for path in ("/", "/graphiql", "/playground", "/console", "/graphql/console", "/voyager", "/altair"):
        assert (await production.http.get(path, headers=html)).status_code == 404


# graphql-armor -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (
            "query { "
            + " ".join(f"a{number}:__typename" for number in range(16))
            + " ...f } fragment f on Query { "
            + " ".join(f"b{number}:__typename" for number in range(16))
            + "}",
            "aliases",
        ),
        ("query { viewer { staff " + "{ brand { headquarters " * 8 + "{ id }" + "}}" * 8 + "} }", "deep"),
        ("query { ...f ...f } fragment f on Query { viewer { staff " + "{ brand { headquarters " * 8 + "{ id }" + "}}" * 8 + "} }", "deep"),
        ("query { __typename " + "@skip(if: false)" * 51 + " }", "directives"),
        ("query { " + " ".join(f"f{number}" for number in range(21)) + " }", "root fields"),
        ("query { a(b: [" + "1 " * 1_000 + "]) }", "1000 tokens"),
        ("query { a } #" + "x" * 17_000, "characters"),
        ("query { offers(first: 100) { nodes { brand { orders(first: 100) { nodes { lines { variant { id } } } } } } } }", "points"),
        (doubling(26), "fields"),
    ],
)
async def test_armor(production: Gateway, query: str, expected: str) -> None:
    message = await refusal_message(production, query)
    assert expected in message


# clairvoyance --------------------------------------------------------------------------------------------------------------

NAMES = re.compile(r"[A-Za-z_]\w+")
WORDS = [
    "brand",
    "brnd",
    "offers",
    "viewer",
    "order",
    "orders",
    "user",
    "users",
    "product",
    "node",
    "consumer",
    "payOrder",
    "id",
    "name",
    "staff",
    "login",
]
PROBES = [
    "{ %s }",
    "{ %s { __imaginary } }",
    "{ viewer { %s } }",
    "{ viewer { %s { __imaginary } } }",
    "mutation { %s }",
    "mutation { %s(input: {}) { __imaginary } }",
    "subscription { %s }",
    "{ offers(%s: 7) { __imaginary } }",
    "{ offers(first: %s) { __imaginary } }",
    "query ($a: %s) { __imaginary }",
    "{ ... on %s { __imaginary } }",
    "fragment f on %s { __imaginary } { ...f }",
    "{ __imaginary @%s }",
]


async def test_clairvoyance_gets_equal_messages(production: Gateway) -> None:
    """A guessed name gets the same message whether it exists or not."""
    for probe in PROBES:
        messages = {await refusal_message(production, probe % word) for word in WORDS}
        assert messages == {INVALID_MESSAGE}, probe
    for probe in PROBES[:4]:
        assert await refusal_message(production, probe % " ".join(WORDS)) == INVALID_MESSAGE


async def test_errors_name_no_unrequested_fields(production: Gateway) -> None:
    own = {name for kind in schema.build()._schema.type_map.values() for name in (kind.name, *getattr(kind, "fields", ()))}
    for query in ("{ brnd }", "{ brand }", "{ brand(id: 7) }", "{ offers { nodes { i } } }", MUTATION.replace("outreachIds", "ids")):
        response = await production.post({"query": query})
        named = {name for error in response.json()["errors"] for name in NAMES.findall(error["message"])}
        assert not named & (own - {"id", "name", "document", "code"}), (query, named & own)


# HTTP ---------------------------------------------------------------------------------------------------------------------


async def test_responses_have_security_headers(alone: Gateway, production: Gateway) -> None:
    for gateway in (alone, production):
        for path in ("/graphql", "/health"):
            headers = (await gateway.http.get(path, params={"query": "{ __typename }"})).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
            assert headers["cache-control"] == "no-store"
            assert headers["referrer-policy"] == "no-referrer"
            assert "server" not in headers
            assert "access-control-allow-origin" not in headers
    assert "strict-transport-security" in (await production.http.get("/health")).headers
    assert "strict-transport-security" not in (await alone.http.get("/health")).headers


async def test_metrics_are_served_in_development_only(alone: Gateway, production: Gateway) -> None:
    assert (await alone.http.get("/metrics")).status_code == 200
    assert (await production.http.get("/metrics")).status_code == 404


async def test_concurrent_readiness_requests_share_one_check(open_gateway: Open) -> None:
    gateway = await open_gateway("member")
    clients, checks = gateway.app.state.clients, 0
    is_serving = clients._is_serving

    async def count_check(channel: Any) -> bool:
        nonlocal checks
        checks += 1
        return bool(await is_serving(channel))

    clients._is_serving = count_check
    answers = await asyncio.gather(*(gateway.http.get("/ready") for _ in range(100)))
    assert {answer.json()["services"]["member"] for answer in answers} == {True}
    assert checks == len(SERVICES)
    async with asyncio.timeout(SECONDS_MAX):
        while checks == len(SERVICES):
            await gateway.http.get("/ready")
            await asyncio.sleep(0)  # a cached result is returned without a turn of the event loop, in which it would expire


async def test_only_configured_origins_may_read_responses(open_gateway: Open) -> None:
    gateway = await open_gateway(cors_origins="https://console.example", rate_address=0.01)
    for origin, is_allowed in (("https://console.example", True), ("https://elsewhere.example", False), ("null", False)):
        response = await gateway.http.post("/graphql", json={"query": "{ __typename }"}, headers={"origin": origin})
        assert ("access-control-allow-origin" in response.headers) is is_allowed
        assert "access-control-allow-credentials" not in response.headers
    assert response.status_code == 429, "refusals are readable too"


async def test_errors_contain_only_code_and_log_id(alone: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    sent: list[tuple[dict[str, Any], dict[str, str]]] = [
        ({"json": {"query": "{"}}, {}),
        ({"json": {"query": "{ nothing }"}}, {}),
        ({"json": {"query": '{ brand(id: "brd_x") { id } }'}}, {}),
        ({"json": {"query": '{ node(id: "x") { id } }'}}, {}),
        ({"json": {"query": "query ($id: ID!) { brand(id: $id) { id } }"}}, {}),
        ({"json": []}, {}),
        ({"content": b"x"}, {"content-type": "text/plain"}),
        ({"json": {"query": "{ __typename }"}}, {"authorization": "Bearer x"}),
        ({"json": {"query": "{ __typename }", "variables": {"a": [0] * 6_000}}}, {}),
    ]
    for body, headers in sent:
        response = await alone.http.post("/graphql", headers={"accept": GRAPHQL} | headers, **body)
        logged = capsys.readouterr().out
        for error in response.json()["errors"]:
            assert error.keys() <= {"message", "path", "locations", "extensions"}
            assert error["extensions"].keys() <= {"code", "retryable", "id"}
            assert error["extensions"]["id"] in logged
            assert error["extensions"]["code"]
    assert "brd_x" not in logged


async def test_too_many_variable_values_are_refused(alone: Gateway) -> None:
    query = "query ($ids: [ID!]!) { nodes(ids: $ids) { id } }"
    assert "values" in await refusal_message(alone, query, variables={"ids": ["con_a"] * 5_001})
    assert "values" in await refusal_message(alone, query, variables={"ids": [], "more": [[{"a": [0] * 60}] * 100]})
    assert (await alone.post({"query": query, "variables": {"ids": ["con_a"] * 101}})).status_code == 200
