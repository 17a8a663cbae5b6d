"""Tests of keyset pagination: pages contain each document once and in order; a foreign cursor is refused."""

from base64 import urlsafe_b64encode
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanyu.common.v1.page_pb2 import PageRequest
from services.kit.errors import Invalid
from services.kit.mongo import pagination

ORDER = [("at", -1), ("name", 1), ("_id", 1)]
document_lists = st.lists(
    st.fixed_dictionaries(
        {"at": st.datetimes(timezones=st.just(UTC)).map(lambda at: at.replace(microsecond=0)), "name": st.sampled_from(["甲", "乙", "b"])}
    ),
    max_size=30,
)


def matches(document: dict[str, Any], query: dict[str, Any]) -> bool:
    """Evaluates the filters of `filter_after` as MongoDB does."""
    if "$or" in query:
        return any(matches(document, part) for part in query["$or"])
    return all(
        (document[field] > test["$gt"] if "$gt" in test else document[field] < test["$lt"])
        if isinstance(test, dict)
        else document[field] == test
        for field, test in query.items()
    )


@given(document_lists, st.integers(1, 7))
def test_pages_have_each_document_once_in_order(drawn: list[dict[str, Any]], first: int) -> None:
    documents = [document | {"_id": f"{number:03}"} for number, document in enumerate(drawn)]
    for field, direction in reversed(ORDER):
        documents.sort(key=lambda document: document[field], reverse=direction < 0)
    seen: list[dict[str, Any]] = []
    token = ""
    while True:
        query = pagination.filter_after(ORDER, pagination.decode_cursor("things", ORDER, token)) if token else {}
        page = [document for document in documents if matches(document, query)][:first]
        if not page:
            break
        seen += page
        token = pagination.encode_cursor("things", [page[-1][field] for field, _ in ORDER])
    assert seen == documents


def test_cursor_keeps_its_values() -> None:
    values = [datetime(2026, 11, 22, 13, 40, tzinfo=UTC), "白衬衫", "id_1"]
    assert pagination.decode_cursor("things", ORDER, pagination.encode_cursor("things", values)) == values


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "!!!",
        "白",
        "A" * 2000,
        pagination.encode_cursor("others", [1, "a", "b"]),
        pagination.encode_cursor("things", [1, "a"]),
        pagination.encode_cursor("things", [2**63, "a", "b"]),
        pagination.encode_cursor("things", [None, "a", "b"]),
        urlsafe_b64encode(msgspec.msgpack.encode(["things", {"$gt": ""}, "a", "b"])).decode(),
        urlsafe_b64encode(msgspec.msgpack.encode({"things": 1})).decode(),
    ],
)
def test_foreign_cursor_is_refused(token: str) -> None:
    with pytest.raises(Invalid) as caught:
        pagination.decode_cursor("things", ORDER, token)
    assert caught.value.reason == "INVALID_CURSOR"


def test_cursor_with_values_of_other_kinds_is_refused() -> None:
    token = pagination.encode_cursor("things", [1, "a", "b"])
    assert pagination.decode_cursor("things", ORDER, token, kinds=(int, str, str)) == [1, "a", "b"]
    with pytest.raises(Invalid):
        pagination.decode_cursor("things", ORDER, token, kinds=(str, str, str))


@given(st.text(max_size=80))
def test_any_text_as_cursor_is_refused(token: str) -> None:
    with pytest.raises(Invalid):
        pagination.decode_cursor("things", ORDER, token)


@pytest.mark.parametrize("first", [-1, 101])
def test_page_size_out_of_bounds_is_refused(first: int) -> None:
    with pytest.raises(Invalid):
        pagination.page_size(PageRequest(first=first))
