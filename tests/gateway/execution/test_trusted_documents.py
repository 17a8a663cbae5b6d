"""Trusted documents: the manifest, and what a gateway takes with it."""

import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pytest
from graphql import parse

from gateway.app import build
from gateway.execution.trusted_documents import id_of, manifest, normalised
from services.kit.settings import Settings, SettingsError
from services.local.keys import Keys
from tests.gateway.conftest import OPERATIONS, Gateway, Open

ROOT = Path(__file__).parents[2]
TEXT = normalised("query Kind { __typename }")
ID = id_of(TEXT)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "documents.json"
    path.write_bytes(orjson.dumps({ID: TEXT}))
    return str(path)


def test_layout_and_comments_do_not_change_an_id() -> None:
    assert normalised("# of the consumer app\nquery   Kind\n{ __typename, }") == TEXT
    assert sha256(TEXT.encode()).hexdigest() == ID
    assert id_of(normalised("query Kind { type: __typename }")) != ID


def test_the_manifest_has_every_operation_of_a_folder() -> None:
    made = subprocess.run(
        [str(Path(sys.executable).parent / "quanyu"), "documents", str(OPERATIONS)], cwd=ROOT, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    texts = orjson.loads(made.stdout)
    assert texts == manifest([OPERATIONS])
    assert len(texts) == len(list(OPERATIONS.glob("*.graphql")))
    for id, text in texts.items():
        assert id == id_of(text)
        assert parse(text).definitions


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("query Wrong { nothing }", "Wrong: Cannot query field 'nothing'"),
        ("query {", "Syntax Error"),
        ("query Deep { node" + "{node" * 20 + "{id}" + "}" * 21, "deep"),
    ],
)
def test_an_operation_that_the_gateway_would_not_take_is_named(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "wrong.graphql").write_text(text)
    made = subprocess.run(
        [sys.executable, "-m", "gateway.execution.trusted_documents", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert made.returncode == 2
    assert why in made.stderr
    assert not made.stdout


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "cannot be read"), (b"{", "no JSON of id -> text"), (b"[]", "no JSON of id -> text"), (b'{"": "{a}"}', "ids have 1 to")],
)
def test_a_manifest_that_cannot_be_used_stops_the_start(tmp_path: Path, keys: Keys, content: bytes | None, why: str) -> None:
    path = tmp_path / "documents.json"
    if content is not None:
        path.write_bytes(content)
    settings = Settings(signing_key=keys.signing_setting("gateway"), documents="also", documents_file=str(path))
    with pytest.raises(SettingsError, match=why):
        build(settings)


async def code(gateway: Gateway, **body: Any) -> str:
    """The code of the error; empty when there is data."""
    response = await gateway.post(body)
    answer = response.json()
    if response.status_code == 200:
        assert answer == {"data": {"__typename": "Query"}}
        return ""
    assert response.status_code == 400
    return str(answer["errors"][0]["extensions"]["code"])


def apollo(id: str) -> dict[str, Any]:
    return {"persistedQuery": {"version": 1, "sha256Hash": id}}


async def test_only_trusted_documents(open_gateway: Open, file: str) -> None:
    gateway = await open_gateway(documents="only", documents_file=file)
    assert await code(gateway, documentId=ID) == ""
    assert await code(gateway, extensions=apollo(ID)) == ""
    assert await code(gateway, query=TEXT) == ""
    assert await code(gateway, query="{ __typename }") == "DOCUMENT_NOT_TRUSTED"
    assert await code(gateway, documentId="0" * 64) == "PERSISTED_QUERY_NOT_FOUND"
    assert (
        await code(gateway, query="{ __typename }", extensions=apollo(sha256(b"{ __typename }").hexdigest())) == "PERSISTED_QUERY_NOT_FOUND"
    )
    assert await code(gateway, query="{ __typename }", extensions=apollo(ID)) == "", "the text of that id, not what was sent beside it"
    assert await code(gateway, extensions=apollo(sha256(b"{ __typename }").hexdigest())) == "PERSISTED_QUERY_NOT_FOUND", "nothing was added"
    assert await code(gateway) == "BAD_REQUEST"
    assert await code(gateway, documentId=7) == "BAD_REQUEST"
    assert await code(gateway, documentId=ID, operationName="Kind") == ""


async def test_trusted_documents_beside_others(open_gateway: Open, file: str) -> None:
    gateway = await open_gateway(documents="also", documents_file=file)
    assert await code(gateway, documentId=ID) == ""
    assert await code(gateway, query="{ __typename }") == ""
    assert await code(gateway, extensions=apollo("0" * 64)) == "PERSISTED_QUERY_NOT_FOUND"
    by_get = await gateway.http.get("/graphql", params={"documentId": ID})
    assert by_get.json() == {"data": {"__typename": "Query"}}
    by_get = await gateway.http.get("/graphql", params={"extensions": orjson.dumps(apollo(ID)).decode()})
    assert by_get.json() == {"data": {"__typename": "Query"}}


async def test_without_a_manifest_there_are_none(alone: Gateway) -> None:
    assert await code(alone, documentId=ID) == "PERSISTED_QUERY_NOT_SUPPORTED"
    assert await code(alone, query="{ __typename }", extensions=apollo("0" * 64)) == ""
