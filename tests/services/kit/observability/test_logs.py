"""Log lines as JSON and as text."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, BinaryIO

import pytest
import structlog

from services.kit.observability import logs
from services.kit.settings import Settings

SECRET = "a value that only the process knows"


Start = Callable[..., tuple[Any, BinaryIO]]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Configures logging with a pipe as standard output. Returns the logger and the reading end of the pipe."""
    reading, writing = os.pipe()
    with open(reading, "rb") as reader, open(writing, "w") as writer:

        def configured(**settings: Any) -> tuple[Any, BinaryIO]:
            monkeypatch.setattr(sys, "stdout", writer)
            logs.configure(Settings(**settings), "gateway")
            return logs.logger(), reader

        yield configured
    structlog.reset_defaults()


def test_json_line_has_event_process_level_and_time(start: Start) -> None:
    logger, pipe = start()
    logger.info("operation", id="opn_1", calls=2, unknown=object)
    logger.debug("is below the level")
    logger.warning("next")
    line = json.loads(pipe.readline())
    assert datetime.fromisoformat(line.pop("timestamp")).utcoffset() is not None
    assert line == {"event": "operation", "id": "opn_1", "calls": 2, "unknown": repr(object), "process": "gateway", "level": "info"}
    assert json.loads(pipe.readline())["event"] == "next"


def test_long_line_is_whole_in_a_slow_pipe(start: Start) -> None:
    (logger, pipe), text = start(), "x" * 1_000_000
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(logger.info, text)
        assert json.loads(pipe.readline())["event"] == text
        writing.result()


def test_full_pipe_drops_lines_without_an_error(start: Start) -> None:
    logger, pipe = start()
    os.set_blocking(sys.stdout.fileno(), False)
    for _ in range(2_000):
        logger.info("operation", text="x" * 100)
    assert json.loads(pipe.readline())["event"] == "operation"


def fail() -> None:
    local = SECRET
    raise KeyError("the message", len(local))


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_exception_has_its_traceback_without_local_variables(start: Start, log_format: str) -> None:
    logger, pipe = start(log_format=log_format)
    try:
        fail()
    except KeyError:
        logger.exception("bug", bug="bug_1")
    sys.stdout.close()
    written = pipe.read().decode()
    assert "KeyError" in written and "in fail" in written and "bug_1" in written
    assert SECRET not in written
    if log_format == "json":
        line = json.loads(written)
        assert line["level"] == "error" and "in fail" in line["exception"] and "exc_info" not in line
