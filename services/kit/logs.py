"""One structured line per call and event. No personal data: no request, no answer, no name, no text of a message."""

import logging
import select
import sys
from collections.abc import MutableMapping, Sequence
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

    def tell(self, level: str, event: str, happened: Sequence[tuple[float, dict[str, Any]]]) -> None:
        """A line for each of what happened, at its time (seconds since 1970)."""
        if getattr(self, level) is _nothing:
            return
        together = b""
        for at, fields in happened:
            line = self._encoded(level, event, datetime.fromtimestamp(at, UTC), fields)
            if len(together) + len(line) > select.PIPE_BUF:
                self._written(together)
                together = b""
            together += line
        self._written(together)

    def _line(self, level: str, event: str, **fields: Any) -> None:
        if "exc_info" in fields:
            fields = dict(structlog.processors.format_exc_info(None, level, fields))
        self._written(self._encoded(level, event, datetime.now(UTC), fields))

    def _encoded(self, level: str, event: str, at: datetime, fields: dict[str, Any]) -> bytes:
        told = fields | {"event": event, "process": self.process, "level": level, "timestamp": at}
        return orjson.dumps(told, default=repr, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)

    def _written(self, line: bytes) -> None:
        # Up to PIPE_BUF bytes a pipe takes whole or not at all.
        while line:
            # Nothing where nobody takes it: a line that would have to be waited for is lost, and not the call that it tells of.
            line = line[self.write(line) or len(line) :]


def _nothing(event: str, **fields: Any) -> None:
    """A line that nobody wants."""


lines: Lines | None = None
"""Of this process, where its settings want JSON."""


def tell(event: str, happened: Sequence[tuple[float, dict[str, Any]]]) -> None:
    """A line for each of what happened, at its time (seconds since 1970): in as few writes as can be, where they are JSON."""
    if lines is not None:
        lines.tell("info", event, happened)
        return
    for _, fields in happened:
        logger().info(event, **fields)


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
