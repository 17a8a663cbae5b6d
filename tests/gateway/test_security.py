"""What others look for when they attack a graph: the checks of graphql-cop, graphql-armor and clairvoyance, and of browsers' rules."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from graphql import get_introspection_query

from gateway.__main__ import Server, configured
from gateway.graph import schema
from gateway.http import graphiql, protocol
from gateway.limits.document import MESSAGES
from services.kit.runtime.runtime import SERVICES
from services.kit.settings import Settings
from tests.gateway.conftest import GRAPHQL, Gateway, Open
from tests.gateway.limits.test_limits import doubling
from tests.gateway.limits.test_rate_limit import load_shedding
from tests.gateway.serving import until

JSON = "application/json"
MUTATION = "mutation { markRead(input: {outreachIds: []}) { __typename } }"
SECONDS_MAX = 20.0


@pytest.fixture
async def production(open_gateway: Open) -> Gateway:
    """A gateway as it is in production: no schema told, no local issuer."""
    return await open_gateway(env="production", token_keys='{"keys": []}', deadline_seconds=2.0)


async def refused(gateway: Gateway, query: str, **body: Any) -> str:
    """The message with which a document is refused before anything of it is carried out."""
    response = await gateway.post({"query": query} | body)
    assert response.status_code == 400, response.text
    assert "data" not in response.json()
    return str(response.json()["errors"][0]["message"])


# graphql-cop ---------------------------------------------------------------------------------------------------------------


async def test_cop_alias_overloading(alone: Gateway) -> None:
    assert "aliases" in await refused(alone, "query cop { " + " ".join(f"alias{number}:__typename" for number in range(101)) + " }")


async def test_cop_array_batching(alone: Gateway) -> None:
    assert (await alone.post([{"query": "query cop { __typename }"}] * 10)).status_code == 400


async def test_cop_directive_overloading(alone: Gateway) -> None:
    response = await alone.post({"query": "query cop { __typename " + "@aa" * 10 + " }"})
    assert response.status_code == 400
    assert "directives" in await refused(alone, "query cop { __typename " + "@aa" * 50 + " }")


async def test_cop_circular_introspection(alone: Gateway, production: Gateway) -> None:
    circle = "fields { type { " * 4 + "name" + " } }" * 4
    query = f"query cop {{ __schema {{ types {{ {circle} }} }} }}"
    await refused(alone, query)
    await refused(production, query)


async def test_cop_circular_fragment(alone: Gateway) -> None:
    await refused(alone, "query cop { ...A } fragment A on Query { ...B } fragment B on Query { ...A }")


async def test_cop_field_duplication(alone: Gateway) -> None:
    assert MESSAGES["repeats"].format(25) in await refused(alone, "query cop { " + "__typename \n" * 500 + "}")


async def test_cop_field_suggestions(alone: Gateway, production: Gateway) -> None:
    for gateway in (alone, production):
        for query in (
            "query cop { __schema { directive } }",
            "query cop { brnd { id } }",
            'query cop { brand(i: "x") { id } }',
            "{ viewer { stff { id } } }",
        ):
            assert "Did you mean" not in await refused(gateway, query)


async def test_cop_get_based_mutation(alone: Gateway) -> None:
    assert (await alone.http.get("/graphql", params={"query": "mutation cop { __typename }"})).status_code == 405


async def test_cop_get_method_csrf(alone: Gateway) -> None:
    """Queries may be sent by GET, but no page of another site can have a browser send one without being allowed to."""
    asked = {"query": "query cop { __typename }"}
    for site in ("cross-site", "same-site"):
        assert (await alone.http.get("/graphql", params=asked, headers={"sec-fetch-site": site})).status_code == 403
        allowed = {"sec-fetch-site": site, "graphql-require-preflight": "1"}
        assert (await alone.http.get("/graphql", params=asked, headers=allowed)).status_code == 200
    for site in ("same-origin", "none"):
        assert (await alone.http.get("/graphql", params=asked, headers={"sec-fetch-site": site})).status_code == 200


async def test_cop_post_based_csrf(alone: Gateway) -> None:
    """What a form can send without a preflight is not taken."""
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
    await refused(production, get_introspection_query())
    await refused(production, '{ __type(name: "Query") { name } }')
    closed = await open_gateway(introspection="off")
    await refused(closed, "{ __schema { queryType { name } } }")
    opened = await open_gateway(introspection="on", env="production", token_keys='{"keys": []}')
    assert (await opened.post({"query": "{ __schema { queryType { name } } }"})).status_code == 200


async def test_cop_trace_mode_and_unhandled_errors(alone: Gateway) -> None:
    for query in ("query cop { __typename }", "qwerty cop { abc }", '{ brand(id: "brd_x") { id } }', "query cop { nothing }"):
        text = (await alone.post({"query": query})).text.lower()
        for word in ("tracing", "stacktrace", "traceback", "exception", "debug", ".py", "grpc", "127.0.0.1"):
            assert word not in text, (query, word)


async def test_cop_graphiql(alone: Gateway, production: Gateway) -> None:
    """GraphiQL is there in development only, and loads nothing from elsewhere."""
    html = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    page = await alone.http.get("/graphql", headers=html)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers.get_list("content-security-policy") == [graphiql.CONTENT_SECURITY_POLICY], (
        "a browser would hold it to a second one too"
    )
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) > 5 and all(path.startswith("/graphiql/") for path in loaded)
    for path in loaded:
        file = await alone.http.get(path)
        assert file.status_code == 200 and file.headers["x-content-type-options"] == "nosniff", path
        assert path.endswith(".js") or not re.search(r"@import|url\((?!data:)", file.text), path
        assert (await production.http.get(path)).status_code == 404
    assert (await alone.http.get("/graphql", headers=html, params={"query": "{ __typename }"})).json() == {"data": {"__typename": "Query"}}
    there = await production.http.get("/graphql", headers=html)
    assert there.status_code == 400
    for path in ("/", "/graphiql", "/playground", "/console", "/graphql/console", "/voyager", "/altair"):
        assert (await production.http.get(path, headers=html)).status_code == 404


# graphql-armor -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "said"),
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
async def test_armor(production: Gateway, query: str, said: str) -> None:
    message = await refused(production, query)
    assert said in message


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


async def test_clairvoyance_gets_nothing(production: Gateway) -> None:
    """Whatever is guessed, right or wrong, the answer is the same: nothing in it tells which it was."""
    for probe in PROBES:
        messages = {await refused(production, probe % word) for word in WORDS}
        assert messages == {"the document does not fit the graph"}, probe
    for probe in PROBES[:4]:
        assert await refused(production, probe % " ".join(WORDS)) == "the document does not fit the graph"


async def test_no_answer_names_what_was_not_asked_for(production: Gateway) -> None:
    own = {name for kind in schema.build()._schema.type_map.values() for name in (kind.name, *getattr(kind, "fields", ()))}
    for query in ("{ brnd }", "{ brand }", "{ brand(id: 7) }", "{ offers { nodes { i } } }", MUTATION.replace("outreachIds", "ids")):
        answer = await production.post({"query": query})
        said = {name for error in answer.json()["errors"] for name in NAMES.findall(error["message"])}
        assert not said & (own - {"id", "name", "document", "code"}), (query, said & own)


# HTTP ---------------------------------------------------------------------------------------------------------------------


async def test_browsers_are_kept_careful(alone: Gateway, production: Gateway) -> None:
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


async def test_metrics_are_not_for_everybody(alone: Gateway, production: Gateway) -> None:
    assert (await alone.http.get("/metrics")).status_code == 200
    assert (await production.http.get("/metrics")).status_code == 404


async def test_services_are_not_asked_as_often_as_anybody_asks_whether_they_are_ready(open_gateway: Open) -> None:
    gateway = await open_gateway("member")
    clients, asked = gateway.app.state.clients, 0
    serving = clients._serving

    async def counted(channel: Any) -> bool:
        nonlocal asked
        asked += 1
        return bool(await serving(channel))

    clients._serving = counted
    answers = await asyncio.gather(*(gateway.http.get("/ready") for _ in range(100)))
    assert {answer.json()["services"]["member"] for answer in answers} == {True}
    assert asked == len(SERVICES)
    async with asyncio.timeout(SECONDS_MAX):
        while asked == len(SERVICES):
            await gateway.http.get("/ready")
            await asyncio.sleep(0)  # what is kept is answered without a turn of the event loop, in which it would be forgotten


async def test_answers_to_other_origins_are_theirs_to_read_only_when_named(open_gateway: Open) -> None:
    gateway = await open_gateway(cors_origins="https://console.example", rate_address=0.01)
    for origin, read in (("https://console.example", True), ("https://elsewhere.example", False), ("null", False)):
        response = await gateway.http.post("/graphql", json={"query": "{ __typename }"}, headers={"origin": origin})
        assert ("access-control-allow-origin" in response.headers) is read
        assert "access-control-allow-credentials" not in response.headers
    assert response.status_code == 429, "refusals are readable too"


async def test_every_error_has_a_code_and_the_id_of_its_log_line_and_nothing_else(
    alone: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
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


async def test_variables_have_a_bound(alone: Gateway) -> None:
    query = "query ($ids: [ID!]!) { nodes(ids: $ids) { id } }"
    assert "values" in await refused(alone, query, variables={"ids": ["con_a"] * 5_001})
    assert "values" in await refused(alone, query, variables={"ids": [], "more": [[{"a": [0] * 60}] * 100]})
    assert (await alone.post({"query": query, "variables": {"ids": ["con_a"] * 101}})).status_code == 200


class Started(Server):
    """The gateway's own server, which says when it has started."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(configured(gateway.app, Settings(drain_seconds=1)))
        self.config.lifespan = "off"
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@asynccontextmanager
async def listening(gateway: Gateway) -> AsyncIterator[int]:
    """The gateway behind its own real server; the port."""
    with socket.create_server(("127.0.0.1", 0)) as subscriber:
        port: int = subscriber.getsockname()[1]
        gateway.app.state.address = f"127.0.0.1:{port}"
        server = Started(gateway)
        serving = asyncio.create_task(server.serve([subscriber]))
        try:
            await asyncio.wait_for(server.ready.wait(), SECONDS_MAX)
            yield port
        finally:
            server.should_exit = True
            await serving


async def spoken(port: int, sent: bytes) -> bytes:
    """What the server says to some bytes before it ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with suppress(ConnectionError):
            writer.write(sent)
            await writer.drain()
            return await asyncio.wait_for(reader.read(), SECONDS_MAX)
        return b""
    finally:
        writer.close()


async def test_request_head_has_a_size_and_a_deadline(alone: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "REQUEST_SECONDS_MAX", 0.2)
    async with listening(alone) as port:
        many = b"GET /health HTTP/1.1\r\nhost: x\r\n" + b"a: " + b"x" * 100 + b"\r\n"
        for head in (many * 1 + (b"a: " + b"x" * 100 + b"\r\n") * 1_000, b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n"):
            assert not (answer := await spoken(port, head)) or answer.startswith(b"HTTP/1.1 400")
        assert await spoken(port, b"GET /health HTTP/1.1\r\nhost:") == b"", "an incomplete head ends the connection"
        assert await spoken(port, b"") == b""
        assert (await spoken(port, b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).startswith(b"HTTP/1.1 200")
        answered = await spoken(port, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\nGET /health HTTP/1.1\r\nhost:")
        assert answered.count(b"HTTP/1.1 ") == 1, "the incomplete second head ends the connection"


async def test_incomplete_body_is_answered_with_408(open_gateway: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "REQUEST_SECONDS_MAX", 0.2)
    alone = await open_gateway(deadline_seconds=2.0)
    head = b"POST /graphql HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{"
    async with listening(alone) as port:
        assert (await spoken(port, head)).startswith(b"HTTP/1.1 408")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            assert (await http.post("/graphql", json={"query": "{ __typename }"})).status_code == 200


async def test_incomplete_bodies_above_their_limit_are_shed(open_gateway: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.http.load_shedding.INCOMPLETE_BYTES_MAX", 30)
    alone = await open_gateway()
    head = b"POST /graphql HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 24\r\n\r\n"
    body = b'{"query":"{__typename}"}'
    async with listening(alone) as port, asyncio.timeout(SECONDS_MAX):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + body[:20])
        await until(lambda: load_shedding(alone.app).incomplete_bytes == 20)
        answer = await spoken(port, head + body[:20])
        assert answer.startswith(b"HTTP/1.1 503") and b"retry-after: 1\r\n" in answer and b"OVERLOADED" in answer
        assert (await spoken(port, head + body)).startswith(b"HTTP/1.1 200"), "a complete body is never shed"
        writer.write(body[20:])
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
        assert load_shedding(alone.app).incomplete_bytes == 0
