"""Log formatting for terminals: time, process, level, event and fields of a JSON log record."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import click
import msgspec

COLOURS = ("cyan", "magenta", "blue", "green", "yellow", "bright_cyan", "bright_magenta", "bright_blue")
LEVEL_COLOURS = {"warning": "yellow", "error": "red", "critical": "red"}
NAME_WIDTH = 12
LINE_BYTES_MAX = 256 * 1024
"""Longer lines are replaced by a note."""

Record = Mapping[str, Any]


def format_line(name: str, colour: str, line: bytes) -> str:
    """Formats a line of output with a coloured process name. JSON records of structlog are formatted; other text is kept."""
    prefix = click.style(f"{name:<{NAME_WIDTH}}", fg=colour)
    text = line.decode(errors="replace").rstrip("\r\n")
    record = _parse(text)
    body = _format_record(record) if record else text
    return "\n".join(f"{prefix} {part}" for part in body.split("\n"))


def format_plain(line: bytes) -> str:
    """Formats a line without prefix and colour, for the report of an ended process."""
    text = line.decode(errors="replace").rstrip("\r\n")
    record = _parse(text)
    return click.unstyle(_format_record(record)) if record else text


def _parse(text: str) -> Record | None:
    if not text.startswith("{"):
        return None
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None
    return value if isinstance(value, dict) and "event" in value else None


def _format_record(record: Record) -> str:
    rest = {key: value for key, value in record.items() if key != "process"}  # shown in the prefix
    level, event = str(rest.pop("level", "info")), str(rest.pop("event"))
    at, trace = _local_time(str(rest.pop("timestamp", ""))), rest.pop("exception", None)
    head = " ".join(part for part in (at, click.style(f"{level:<7}", fg=LEVEL_COLOURS.get(level)), event) if part)
    pairs = " ".join(f"{key}={_format_value(value)}" for key, value in rest.items() if value not in (None, ""))
    line = f"{head} {click.style(pairs, dim=True)}" if pairs else head
    return f"{line}\n{trace}" if trace else line


def _local_time(stamp: str) -> str:
    try:
        return datetime.fromisoformat(stamp).astimezone().strftime("%H:%M:%S")
    except ValueError:
        return stamp


def _format_value(value: object) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return msgspec.json.encode(text).decode() if " " in text and isinstance(value, str) else text
