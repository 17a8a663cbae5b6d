"""Lines of the log, as JSON."""

import json
import select
from datetime import datetime
from typing import Any

import pytest

from services.kit.logs import Lines


class Written:
    """What was written, at most so many bytes at a time; nothing at all when nobody takes it."""

    def __init__(self, most: int | None) -> None:
        self.most, self.bytes = most, b""
        self.sizes: list[int] = []

    def __call__(self, line: bytes) -> int | None:
        if self.most is None:
            return None
        self.bytes += line[: self.most]
        self.sizes.append(len(line))
        return min(len(line), self.most)


@pytest.fixture
def lines() -> Lines:
    return Lines("gateway", "info")


@pytest.mark.parametrize("most", [1, 7, 10_000])
def test_a_line_is_whole_however_much_is_taken_at_a_time(lines: Lines, most: int) -> None:
    lines.write = written = Written(most)  # type: ignore[method-assign]
    told: Any = lines
    told.info("operation", id="opn_1", calls=2)
    told.debug("nobody wants this")
    first, end = written.bytes.split(b"\n")
    line = json.loads(first)
    assert (line["event"], line["id"], line["calls"], line["process"], line["level"]) == ("operation", "opn_1", 2, "gateway", "info")
    assert not end


def test_a_line_that_nobody_takes_costs_no_call(lines: Lines) -> None:
    lines.write = Written(None)  # type: ignore[method-assign]
    told: Any = lines
    told.info("operation")


def test_lines_that_are_told_together_are_each_of_its_own_time(lines: Lines) -> None:
    lines.write = written = Written(10_000)  # type: ignore[method-assign]
    lines.tell("info", "operation", [(number / 4, {"id": f"opn_{number}"}) for number in range(1_000)])
    lines.tell("debug", "operation", [(0.0, {"id": "nobody wants this"})])
    told = [json.loads(line) for line in written.bytes.splitlines()]
    assert [each["id"] for each in told] == [f"opn_{number}" for number in range(1_000)]
    assert [datetime.fromisoformat(each["timestamp"]).timestamp() for each in told] == [number / 4 for number in range(1_000)]
    assert max(written.sizes) <= select.PIPE_BUF < sum(written.sizes[:2]), "as many in a write as a pipe takes whole"


def test_an_exception_is_told_of_with_where_it_was(lines: Lines) -> None:
    lines.write = written = Written(10_000)  # type: ignore[method-assign]
    try:
        raise KeyError("it")
    except KeyError:
        lines.exception("bug", bug="bug_1")
    line = json.loads(written.bytes)
    assert line["level"] == "error" and "KeyError: 'it'" in line["exception"] and "exc_info" not in line
