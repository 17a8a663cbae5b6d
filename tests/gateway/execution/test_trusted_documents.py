"""Trusted documents: the manifest, and the requests that a gateway accepts with it."""

import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pytest
from graphql import parse

from gateway.app import build
from gateway.execution.trusted_documents import build_manifest, document_id, normalize
from services.kit.settings import Settings, SettingsError
from services.local.keys import Keys
from tests.gateway.conftest import OPERATIONS, Gateway, Open

ROOT = Path(__file__).parents[3]
TEXT = normalize("query Kind { __typename }")
ID = document_id(TEXT)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "documents.json"
    path.write_bytes(orjson.dumps({ID: TEXT}))
    return str(path)


def test_layout_and_comments_do_not_change_an_id() -> None:
    assert normalize("# of the consumer app\nquery   Kind\n{ __typename, }") == TEXT
    assert sha256(TEXT.encode()).hexdigest() == ID
    assert document_id(normalize("query Kind { type: __typename }")) != ID


def test_manifest_contains_every_operation_of_a_folder() -> None:
    completed = subprocess.run(
        [str(Path(sys.executable).parent / "quanyu"), "documents", str(OPERATIONS)], cwd=ROOT, capture_output=True, text=True
    )
    assert completed.returncode == 0, completed.stderr
    texts = orjson.loads(completed.stdout)
    assert texts == build_manifest([OPERATIONS])
    assert len(texts) == len(list(OPERATIONS.glob("*.graphql")))
    for id, text in texts.items():
        assert id == document_id(text)
        assert parse(text).definitions


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("query Wrong { nothing }", "Wrong: Cannot query field 'nothing'"),
        ("query {", "Syntax Error"),
        ("query Deep { node" + "{node" * 20 + "{id}" + "}" * 21, "deep"),
    ],
)
def test_manifest_of_invalid_operation_is_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "wrong.graphql").write_text(text)
    completed = subprocess.run(
        [sys.executable, "-m", "gateway.execution.trusted_documents", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert completed.returncode == 2
    assert why in completed.stderr
    assert not completed.stdout


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read"),
        (b"{", "must be a JSON object of id -> text"),
        (b"[]", "must be a JSON object of id -> text"),
        (b'{"": "{a}"}', "ids have 1 to"),
    ],
)
def test_invalid_manifest_prevents_the_start(tmp_path: Path, keys: Keys, content: bytes | None, why: str) -> None:
    path = tmp_path / "documents.json"
    if content is not None:
        path.write_bytes(content)
    settings = Settings(signing_key=keys.signing_setting("gateway"), documents="also", documents_file=str(path))
    with pytest.raises(SettingsError, match=why):
        build(settings)


async def request_code(gateway: Gateway, **body: Any) -> str:
    """Returns the code of the error; empty for a result with data."""
    response = await gateway.post(body)
    answer = response.json()
    if response.status_code == 200:
        assert answer == {"data": {"__typename": "Query"}}
        return ""
    assert response.status_code == 400
    return str(answer["errors"][0]["extensions"]["code"])


def apollo_extensions(id: str) -> dict[str, Any]:
    return {"persistedQuery": {"version": 1, "sha256Hash": id}}


async def test_only_trusted_documents_are_executed(open_gateway: Open, file: str) -> None:
    gateway = await open_gateway(documents="only", documents_file=file)
    assert await request_code(gateway, documentId=ID) == ""
    assert await request_code(gateway, extensions=apollo_extensions(ID)) == ""
    assert await request_code(gateway, query=TEXT) == ""
    assert await request_code(gateway, query="{ __typename }") == "DOCUMENT_NOT_TRUSTED"
    assert await request_code(gateway, documentId="0" * 64) == "PERSISTED_QUERY_NOT_FOUND"
    assert (
        await request_code(gateway, query="{ __typename }", extensions=apollo_extensions(sha256(b"{ __typename }").hexdigest()))
        == "PERSISTED_QUERY_NOT_FOUND"
    )
    assert await request_code(gateway, query="{ __typename }", extensions=apollo_extensions(ID)) == "", "the id selects the document"
    assert (
        await request_code(gateway, extensions=apollo_extensions(sha256(b"{ __typename }").hexdigest())) == "PERSISTED_QUERY_NOT_FOUND"
    ), "clients cannot register documents"
    assert await request_code(gateway) == "BAD_REQUEST"
    assert await request_code(gateway, documentId=7) == "BAD_REQUEST"
    assert await request_code(gateway, documentId=ID, operationName="Kind") == ""


async def test_trusted_documents_and_others_are_executed(open_gateway: Open, file: str) -> None:
    gateway = await open_gateway(documents="also", documents_file=file)
    assert await request_code(gateway, documentId=ID) == ""
    assert await request_code(gateway, query="{ __typename }") == ""
    assert await request_code(gateway, extensions=apollo_extensions("0" * 64)) == "PERSISTED_QUERY_NOT_FOUND"
    by_get = await gateway.http.get("/graphql", params={"documentId": ID})
    assert by_get.json() == {"data": {"__typename": "Query"}}
    by_get = await gateway.http.get("/graphql", params={"extensions": orjson.dumps(apollo_extensions(ID)).decode()})
    assert by_get.json() == {"data": {"__typename": "Query"}}


async def test_document_id_without_manifest_is_refused(alone: Gateway) -> None:
    assert await request_code(alone, documentId=ID) == "PERSISTED_QUERY_NOT_SUPPORTED"
    assert await request_code(alone, query="{ __typename }", extensions=apollo_extensions("0" * 64)) == ""
