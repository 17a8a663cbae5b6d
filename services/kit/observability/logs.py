"""Structured logging (structlog): JSON lines (orjson) for machines or text for people, on standard output.

No personal data and no secrets: a line carries ids, codes and counts, never a request, a response, a name or the text of a message.
"""

import logging
import sys
from typing import Any

import orjson
import structlog
from structlog.typing import EventDict

from services.kit.settings import Settings


def configure(settings: Settings, process: str) -> None:
    """Configures the logging of this process: its format and level, and the field `process` of each line."""

    def add_process(logger: Any, method: str, event: EventDict) -> EventDict:
        event["process"] = process
        return event

    as_json = settings.log_format == "json"
    json = structlog.processors.JSONRenderer(serializer=orjson.dumps, option=orjson.OPT_UTC_Z)
    # The default formatter prints local variables, and these may hold secrets.
    text = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    # Unbuffered: each line is flushed anyway, and a full non-blocking pipe drops the line instead of failing the request that logs it.
    stdout = getattr(sys.stdout.buffer, "raw", sys.stdout.buffer)
    structlog.configure(
        processors=[
            add_process,
            structlog.processors.add_log_level,
            structlog.processors.MaybeTimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            json if as_json else text,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=structlog.BytesLoggerFactory(stdout) if as_json else structlog.PrintLoggerFactory(sys.stdout),
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")


def logger() -> Any:
    """Returns the logger of this process: `logger().info("event", field=value)`."""
    return structlog.get_logger()
