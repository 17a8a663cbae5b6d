"""Keyset pages give every row once, in order, whatever is inserted meanwhile; a cursor that is not ours is refused."""

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
rows = st.lists(
    st.fixed_dictionaries(
        {"at": st.datetimes(timezones=st.just(UTC)).map(lambda at: at.replace(microsecond=0)), "name": st.sampled_from(["甲", "乙", "b"])}
    ),
    max_size=30,
)


def matches(row: dict[str, Any], query: dict[str, Any]) -> bool:
    """What Mongo would say of the filters `after` makes."""
    if "$or" in query:
        return any(matches(row, part) for part in query["$or"])
    return all(
        (row[field] > test["$gt"] if "$gt" in test else row[field] < test["$lt"]) if isinstance(test, dict) else row[field] == test
        for field, test in query.items()
    )


@given(rows, st.integers(1, 7))
def test_pages_give_every_row_once_in_order(given_rows: list[dict[str, Any]], first: int) -> None:
    table = [row | {"_id": f"{number:03}"} for number, row in enumerate(given_rows)]
    for field, direction in reversed(ORDER):
        table.sort(key=lambda row: row[field], reverse=direction < 0)
    seen: list[dict[str, Any]] = []
    token = ""
    while True:
        query = pagination.filter_after(ORDER, pagination.decode_cursor("things", ORDER, token)) if token else {}
        page = [row for row in table if matches(row, query)][:first]
        if not page:
            break
        seen += page
        token = pagination.encode_cursor("things", [page[-1][field] for field, _ in ORDER])
    assert seen == table


def test_a_cursor_keeps_its_values() -> None:
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
def test_a_cursor_that_is_not_ours_is_refused(token: str) -> None:
    with pytest.raises(Invalid) as caught:
        pagination.decode_cursor("things", ORDER, token)
    assert caught.value.reason == "INVALID_CURSOR"


def test_a_cursor_holds_what_it_is_said_to() -> None:
    token = pagination.encode_cursor("things", [1, "a", "b"])
    assert pagination.decode_cursor("things", ORDER, token, kinds=(int, str, str)) == [1, "a", "b"]
    with pytest.raises(Invalid):
        pagination.decode_cursor("things", ORDER, token, kinds=(str, str, str))


@given(st.text(max_size=80))
def test_no_text_breaks_a_cursor(token: str) -> None:
    with pytest.raises(Invalid):
        pagination.decode_cursor("things", ORDER, token)


@pytest.mark.parametrize("first", [-1, 101])
def test_a_page_size_out_of_bounds_is_refused(first: int) -> None:
    with pytest.raises(Invalid):
        pagination.page_size(PageRequest(first=first))
