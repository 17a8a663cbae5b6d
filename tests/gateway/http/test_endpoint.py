"""GraphQL over HTTP: media types, statuses and malformed requests."""

import asyncio
import json

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.observability import coalesced_log
from tests.gateway.conftest import GRAPHQL, Gateway, Open

JSON = "application/json"
QUERY = {"query": "{ __typename }"}


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        (None, JSON),
        ("*/*", JSON),
        (JSON, JSON),
        (GRAPHQL, GRAPHQL),
        (f"{GRAPHQL}, {JSON};q=0.9", GRAPHQL),
        (f"{GRAPHQL};q=0.1, {JSON}", JSON),
        ("application/json; charset=utf-8", JSON),
    ],
)
async def test_accept_header_selects_the_media_type(alone: Gateway, accept: str | None, media: str) -> None:
    request = alone.http.build_request("POST", "/graphql", json=QUERY)
    request.headers.pop("accept")
    if accept:
        request.headers["accept"] = accept
    response = await alone.http.send(request)
    assert response.status_code == 200
    assert response.headers["content-type"] == f"{media}; charset=utf-8"
    assert response.json() == {"data": {"__typename": "Query"}}


async def test_unacceptable_media_type_is_406(alone: Gateway) -> None:
    for accept in ("text/html", f"{JSON};q=0", f"{JSON};q=some"):
        assert (await alone.http.post("/graphql", json=QUERY, headers={"accept": accept})).status_code == 406, accept


async def test_empty_operation_name_counts_as_missing(alone: Gateway) -> None:
    response = await alone.http.post("/graphql", json={"query": "query Named { __typename }", "operationName": ""})
    assert response.json() == {"data": {"__typename": "Query"}}


@pytest.mark.parametrize(
    "body",
    [
        {"query": "{"},
        {"query": "{ nothing }"},
        {"query": "query A { __typename } query B { __typename }"},
        {"query": "query A { __typename }", "operationName": "B"},
        {"query": "query ($id: ID!) { brand(id: $id) { id } }", "variables": {"id": {}}},
        {"query": "query ($id: ID!) { brand(id: $id) { id } }"},
    ],
)
async def test_invalid_document_status_depends_on_media_type(alone: Gateway, body: object) -> None:
    response = await alone.http.post("/graphql", json=body, headers={"accept": GRAPHQL})
    assert response.status_code == 400
    assert "data" not in response.json()
    assert response.json()["errors"][0]["extensions"]["code"] == "BAD_REQUEST"
    plain = await alone.http.post("/graphql", json=body, headers={"accept": JSON})
    assert plain.status_code == 200
    assert "data" not in plain.json()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'[{"query": "{ __typename }"}]',
        b"{}",
        b'{"query": 1}',
        b'{"query": "{ __typename }", "variables": []}',
        b'{"query": "{ __typename }", "operationName": 7}',
        b'{"query": "{ __typename }", "extensions": "x"}',
        b"\xff",
        b"[" * 100_000,
    ],
)
@pytest.mark.parametrize("accept", [JSON, GRAPHQL])
async def test_malformed_graphql_request_is_400(alone: Gateway, body: bytes, accept: str) -> None:
    response = await alone.http.post("/graphql", content=body, headers={"content-type": JSON, "accept": accept})
    assert response.status_code == 400
    assert "data" not in response.json()


async def test_null_parameters_count_as_missing(alone: Gateway) -> None:
    response = await alone.http.post("/graphql", json=QUERY | {"variables": None, "operationName": None, "extensions": None})
    assert response.json() == {"data": {"__typename": "Query"}}


@pytest.mark.parametrize(
    "media", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json; charset=gbk"]
)
async def test_content_type_other_than_json_is_415(alone: Gateway, media: str) -> None:
    response = await alone.http.post("/graphql", content=orjson.dumps(QUERY), headers={"content-type": media})
    assert response.status_code == 415


async def test_oversized_body_is_413(alone: Gateway) -> None:
    response = await alone.http.post("/graphql", json={"query": "{ __typename }" + " " * 300_000})
    assert response.status_code == 413


async def test_get_executes_queries_only(alone: Gateway) -> None:
    query = {"query": "query Q($yes: Boolean!) { __typename @include(if: $yes) }", "variables": '{"yes": true}', "operationName": "Q"}
    assert (await alone.http.get("/graphql", params=query)).json() == {"data": {"__typename": "Query"}}
    assert (await alone.http.get("/graphql", params={"query": "{ __typename }", "variables": "{"})).status_code == 400
    response = await alone.http.get("/graphql", params={"query": "mutation { markRead(input: {outreachIds: []}) { __typename } }"})
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert (await alone.http.put("/graphql", json=QUERY)).status_code == 405
    assert (await alone.http.head("/graphql", params=query)).headers["allow"] in ("GET, POST", "POST, GET")


@pytest.mark.parametrize(("path", "status"), [("/nowhere", 404), ("/health", 405), ("/graphql", 405)])
async def test_unknown_route_is_answered_with_a_log_id(
    alone: Gateway, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], path: str, status: int
) -> None:
    monkeypatch.setattr(coalesced_log, "WINDOW_SECONDS", 0.01)
    responses = [await alone.http.put(path) for _ in range(3)]
    (error,) = responses[0].json()["errors"]
    assert {response.status_code for response in responses} == {status}
    assert error["extensions"]["code"] == ("NOT_FOUND" if status == 404 else "BAD_REQUEST")
    assert status != 404 or "/graphql" in error["message"]
    log = ""
    while error["extensions"]["id"] not in log:  # pytest's timeout ends it
        await asyncio.sleep(0.01)
        log += capfd.readouterr().out
    assert "requests without a route" in log


@pytest.mark.parametrize(
    "query",
    [
        "{" + " __typename" * 5_000 + "}",
        "{ brand(id: 1) " + "{ headquarters { brand " * 900 + "}" * 1801,
        "{ a" + "(b: [" * 800,
        "{" * 3_000,
    ],
)
async def test_oversized_document_is_400(alone: Gateway, query: str) -> None:
    response = await alone.post({"query": query})
    assert response.status_code == 400
    assert "data" not in response.json()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)
DOCUMENTS = st.sampled_from(["{ node(id: $id) { id } }", "query ($id: ID!, $ids: [ID!]!) { node(id: $id) { id } nodes(ids: $ids) { id } }"])


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_random_bodies_cause_no_errors(alone: Gateway, data: st.DataObject) -> None:
    values = {
        "query": data.draw(DOCUMENTS | st.text() | JSON_VALUES),
        "variables": data.draw(st.fixed_dictionaries({"id": JSON_VALUES}) | JSON_VALUES),
    }
    body = data.draw(st.binary() | st.just(json.dumps(values).encode()))
    response = await alone.http.post("/graphql", content=body, headers={"content-type": JSON, "accept": GRAPHQL})
    assert response.status_code in (200, 400)


async def test_nested_documents_cause_no_errors(alone: Gateway) -> None:
    for depth in (50, 100, 200, 400, 800):
        query = "{ brand(id: 1) " + "{ headquarters { brand " * depth + "{ id } " + "}" * (2 * depth + 1)
        assert (await alone.post({"query": query})).status_code in (200, 400)


async def test_unexpected_exception_is_masked_and_logged(alone: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(request: object) -> None:
        raise LookupError("secret")

    alone.app.state.clients.call = fail
    answer = (await alone.post({"query": '{ brand(id: "brd_x") { id } }'})).json()
    (error,) = answer["errors"]
    assert answer["data"] == {"brand": None}
    assert error["message"] == "An internal error occurred. Report its id."
    assert error["path"] == ["brand"]
    assert error["extensions"]["code"] == "INTERNAL"
    logged = capsys.readouterr().out
    assert error["extensions"]["id"] in logged
    assert "secret" in logged


async def test_unreachable_service_is_a_retryable_error(alone: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    answer = (await alone.post({"query": '{ brand(id: "brd_x") { id } __typename }'})).json()
    assert answer["data"] == {"brand": None, "__typename": "Query"}
    extensions = answer["errors"][0]["extensions"]
    assert extensions == {"code": extensions["code"], "retryable": True, "id": extensions["id"]}
    assert extensions["id"] in capsys.readouterr().out


@pytest.mark.parametrize("accept", [GRAPHQL, "text/event-stream"])
async def test_log_line_has_reason_for_uncompiled_operation(alone: Gateway, capsys: pytest.CaptureFixture[str], accept: str) -> None:
    async def log_line(query: str) -> str:
        await alone.post({"query": query}, headers={"accept": accept})
        (found,) = (line for line in capsys.readouterr().out.splitlines() if "operation=query" in line)
        return found

    assert "uncompiled=introspection" in await log_line("{ __schema { queryType { name } } }")
    assert "uncompiled" not in await log_line("{ __typename }")


async def test_health_readiness_and_metrics_are_served(alone: Gateway, open_gateway: Open) -> None:
    assert (await alone.http.get("/health")).status_code == 200
    assert (await alone.http.get("/ready")).status_code == 503
    await alone.post(QUERY)
    assert "quanyu_graphql_seconds_count" in (await alone.http.get("/metrics")).text
    ready = await open_gateway("organization")
    assert (await ready.http.get("/ready")).json()["services"] == {
        "member": False,
        "commerce": False,
        "district": False,
        "organization": True,
    }


async def test_preflight_allows_configured_origins_only(open_gateway: Open) -> None:
    gateway = await open_gateway(cors_origins="https://console.example")
    requested = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}

    async def preflight(origin: str) -> httpx.Response:
        return await gateway.http.options("/graphql", headers={"origin": origin} | requested)

    assert (await preflight("https://console.example")).headers["access-control-allow-origin"] == "https://console.example"
    assert "access-control-allow-origin" not in (await preflight("https://elsewhere.example")).headers


async def test_first_of_repeated_headers_counts(alone: Gateway) -> None:
    sent = [("content-type", JSON), ("accept", GRAPHQL), ("accept", "text/html"), ("authorization", "Bearer x"), ("authorization", "")]
    response = await alone.http.post("/graphql", content=b'{"query": "{ __typename }"}', headers=sent)
    assert (response.status_code, response.headers["content-type"]) == (401, f"{GRAPHQL}; charset=utf-8")
