"""The table of Chinese messages: it has a message for every code, and no placeholder without a value."""

import re
import tomllib
from contextvars import copy_context
from pathlib import Path

import pytest

from gateway.localization import language, messages
from gateway.localization.messages import MessageTable, localize
from services.kit.runtime.runtime import SERVICES
from services.kit.values.validation import Violation
from tests.gateway.graph import proto_files
from tests.gateway.localization.codes import raised_codes

TABLE = Path(messages.__file__).with_name("zh.toml")
SECTIONS = tomllib.loads(TABLE.read_text(encoding="utf-8"))
CHINESE = messages.TABLES["zh"]
STORED = tomllib.loads((Path(__file__).parents[2] / "services" / "stored_names.toml").read_text(encoding="utf-8"))
NOUNS = {collection["noun"] for scenario in SERVICES for collection in STORED["collections"][scenario].values()}
RAISED = raised_codes()
NOT_REASONS = {"CancelReason", "DeclineReason"}
"""Enums that are fields of messages and refuse nothing."""
HTTP_CODES = {"BAD_REQUEST", "NOT_FOUND", "OVERLOADED"}
"""The codes of HTTP errors without an exception of their own."""
ENGLISH_ONLY = {
    "HELD_MEANWHILE",  # never leaves the service
    "TOO_MANY_CONNECTIONS",  # answered as OVERLOADED, before the head of a request is read
    "PERSISTED_QUERY_NOT_FOUND", "PERSISTED_QUERY_NOT_SUPPORTED",  # clients compare the message with the protocol's own
}  # fmt: skip


def reasons() -> set[str]:
    """The reasons of the protos, as they go over the wire."""
    enums = [enum for file in proto_files() for name, enum in file.enum_types_by_name.items() if name.endswith("Reason")]
    found = set()
    for enum in enums:
        if enum.name not in NOT_REASONS:
            prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
            found |= {value.name.removeprefix(prefix) for value in enum.values if value.number}
    return found


NOUN_CODES = {f"{noun}_{code}" for noun in NOUNS for code in SECTIONS["noun_codes"]}
SENDABLE = reasons() | set(RAISED) | NOUN_CODES | HTTP_CODES


def test_every_code_has_a_chinese_message() -> None:
    assert len(SENDABLE) > 200
    assert SENDABLE - set(CHINESE.codes) == ENGLISH_ONLY


def test_table_has_no_unknown_code() -> None:
    assert set(CHINESE.codes) <= SENDABLE
    assert set(SECTIONS["nouns"]) == NOUNS
    assert set(SECTIONS["violations"]) == set(Violation)


def test_placeholders_are_metadata_of_their_code() -> None:
    for code, templates in CHINESE.codes.items():
        for template in templates:
            assert template.placeholders <= RAISED.get(code, set()) | {"message"}, code
        assert templates[-1].placeholders <= {"message"}, f"{code} has no message without metadata"
    for kind, templates in CHINESE.violations.items():
        assert all("field" in template.placeholders <= {"field", "limit"} for template in templates), kind


def test_messages_are_chinese_sentences() -> None:
    for templates in (*CHINESE.codes.values(), *CHINESE.violations.values()):
        for template in templates:
            assert re.search(r"[\u4e00-\u9fff]", template.text)
            assert template.text.endswith(("。", "：{message}"))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"", "en"),
        (b"zh", "zh"),
        (b"zh-CN", "zh"),
        (b"zh-Hans-CN", "zh"),
        (b"ZH-tw", "zh"),
        (b"fr", "en"),
        (b"*", "en"),
        (b"zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        (b"en-US,en;q=0.9,zh;q=0.8", "en"),
        (b"en;q=0.5, zh;q=0.6", "zh"),
        (b"fr, zh ; q=0.1", "zh"),
        (b"zh;q=0, en;q=0.1", "en"),
        (b"*;q=0.5, zh;q=0.3", "en"),
        (b"zh, en", "zh"),
        (b"en, zh", "en"),
        (b"\xff,,;;q=", "en"),
    ],
)
def test_language_is_the_preferred_one(header: bytes, expected: str) -> None:
    assert language.negotiate(header) == expected


def test_long_header_is_read_in_part() -> None:
    with_header = copy_context()
    with_header.run(language.request_headers.set, [(b"accept-language", b"fr," * language.HEADER_BYTES_MAX + b"zh")])
    assert with_header.run(language.current_language) == "en"


def test_message_without_request_is_english() -> None:
    assert localize("OVERLOADED", "English") == "English"


def test_unknown_code_keeps_the_english_message() -> None:
    with_header = copy_context()
    with_header.run(language.request_headers.set, [(b"accept-language", b"zh")])
    assert with_header.run(localize, "OF_A_LATER_VERSION", "English") == "English"


def test_most_detailed_template_with_values_is_used() -> None:
    table = MessageTable(
        {"codes": {"FULL": ["{limit} {free_at:time}", "{limit}", "-"]}, "violations": {"EMPTY": "{field}!"}, "nouns": {}, "noun_codes": {}}
    )
    assert table.find("FULL", {"limit": "3", "free_at": "2024-05-01T01:05:00.5Z"}) == "3 北京时间 5月1日 09:05"
    assert table.find("FULL", {"limit": "3", "free_at": "soon"}) == "3"
    assert table.find("FULL", {"limit": "3", "free_at": ""}) == "3"
    assert table.find("FULL", {"limit": "{0}"}) == "{0}"
    assert table.find("FULL", {"violation": "EMPTY", "field": "name"}) == "name!"
    assert table.find("FULL", {"violation": "EMPTY"}) == table.find("FULL", {"violation": "OTHER", "field": "name"}) == "-"
    assert table.find("NONE", {}) is None
