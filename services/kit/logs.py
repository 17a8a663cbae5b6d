"""One structured line per call and event. No personal data: no request, no answer, no name, no text of a message."""

import logging
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
import structlog

from services.kit.settings import Settings

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

TEXT: list[structlog.typing.Processor] = [
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
    structlog.dev.ConsoleRenderer(),
]
"""How a line for a person is made."""


class Lines:
    """Writes JSON lines, with the methods and the names of structlog's loggers: through its processors a line costs four times as much."""

    def __init__(self, process: str, level: str) -> None:
        self.process = process
        # Without a buffer: it would be flushed after each line. What is a file in memory has none.
        self.write = getattr(sys.stdout.buffer, "raw", sys.stdout.buffer).write
        for name, number in LEVELS.items():
            setattr(self, name, partial(self._line, name) if number >= LEVELS[level] else _nothing)

    def exception(self, event: str, **fields: Any) -> None:
        """Of the exception that is being handled."""
        self._line("error", event, exc_info=True, **fields)

    def _line(self, level: str, event: str, **fields: Any) -> None:
        fields |= {"event": event, "process": self.process, "level": level, "timestamp": datetime.now(UTC)}
        if "exc_info" in fields:
            fields = dict(structlog.processors.format_exc_info(None, level, fields))
        line = orjson.dumps(fields, default=repr, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)
        while line:
            # Nothing where nobody takes it: a line that would have to be waited for is lost, and not the call that it tells of.
            line = line[self.write(line) or len(line) :]


def _nothing(event: str, **fields: Any) -> None:
    """A line that nobody wants."""


lines: Lines | None = None
"""Of this process, where its settings want JSON."""


def configure(settings: Settings, process: str) -> None:
    """Lines of this process go to stdout, as JSON or as text for a person."""

    def named(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["process"] = process
        return event

    global lines
    lines = Lines(process, settings.log_level) if settings.log_format == "json" else None
    structlog.configure(
        processors=[named, *TEXT],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[settings.log_level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")


def logger() -> Any:
    """The process's logger: `logger().info("event", field=value)`."""
    return lines or structlog.get_logger()
