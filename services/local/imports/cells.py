"""Cells of a file as values: each reader takes text (CSV) or any type (Parquet), and says what it expected without repeating the cell."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Context, Decimal
from math import isfinite
from typing import Any, NoReturn

from services.kit.calendar import DAY_MINUTES, zone_of
from services.kit.currencies import DIGITS
from services.kit.money import MINOR_MAX

WHOLE_MAX = 1_000_000_000
NUMBER_CHARACTERS_MAX, EXPONENT_MAX = 60, 30
"""Beyond these nobody counts or pays; within them arithmetic is exact and quick."""
EXACT = Context(prec=2 * NUMBER_CHARACTERS_MAX)
YEARS = range(1900, 2200)
"""Every zone can show these: a time at the edge of the calendar would only fail later, in a service."""
HOURS = re.compile(r"(\d{1,2})(?::(\d{2}))?\s*-\s*(\d{1,2})(?::(\d{2}))?", re.ASCII)


class BadValue(ValueError):
    """A cell that cannot be read; the message says what is expected, without repeating what may be personal."""


def text(cell: Any) -> str:
    """Text without blanks around it."""
    return str(cell).strip()


def integer(cell: Any) -> int:
    """A whole number; 3.0 is one."""
    value = _decimal(cell)
    if value is None or value != value.to_integral_value() or value.copy_abs() > WHOLE_MAX:
        _expected(f"a whole number of at most {WHOLE_MAX:,}")
    return int(value)


def number(cell: Any) -> float:
    """A number."""
    value = float(str(cell))
    return value if isfinite(value) else _expected("a number")


def amount(cell: Any) -> Decimal:
    """An amount in major units, like 12.30."""
    value = _decimal(cell)
    return value if value is not None else _expected("an amount like 12.30")


def _decimal(cell: Any) -> Decimal | None:
    """A number as it is written; None when it is none, or beyond the bounds."""
    written = str(cell).strip()
    try:
        value = Decimal(written) if len(written) <= NUMBER_CHARACTERS_MAX else None
    except ArithmeticError:
        return None
    return value if value is not None and value.is_finite() and abs(value.adjusted()) <= EXPONENT_MAX else None


def currency(cell: Any) -> str:
    """A currency's code."""
    code = str(cell).strip().upper()
    return code if code in DIGITS else _expected("a currency of ISO 4217 like CNY")


def flag(cell: Any) -> bool:
    """yes or no."""
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    value = known.get(str(cell).strip().lower())
    return value if value is not None else _expected("yes or no")


def moment(cell: Any) -> datetime:
    """An ISO 8601 time; without an offset it is Shanghai's."""
    at = cell if isinstance(cell, datetime) else datetime.fromisoformat(str(cell).strip())
    if at.year not in YEARS:
        _expected(f"a time between {YEARS.start} and {YEARS.stop}")
    return (at if at.tzinfo else at.replace(tzinfo=zone_of("Asia/Shanghai"))).astimezone(UTC)


def hours(cell: Any) -> tuple[int, int]:
    """Daily opening hours like 10:00-22:00, as minutes since midnight."""
    found = HOURS.fullmatch(str(cell).strip())
    opens, opens_minute, closes, closes_minute = (int(part or 0) for part in found.groups()) if found else (0, DAY_MINUTES, 0, 0)
    minutes = opens * 60 + opens_minute, closes * 60 + closes_minute
    possible = max(opens_minute, closes_minute) < 60 and max(minutes) <= DAY_MINUTES
    return minutes if possible else _expected("hours like 10:00-22:00")


def pairs(cell: Any) -> dict[str, str]:
    """Names and values like size=40;colour=white."""
    found = {}
    for part in str(cell).split(";"):
        if part.strip():
            name, equals, value = part.partition("=")
            if not equals:
                _expected("pairs like size=40;colour=white")
            found[name.strip()] = value.strip()
    return found


def names(cell: Any) -> list[str]:
    """Several values with semicolons between them."""
    return [part.strip() for part in str(cell).split(";") if part.strip()]


def choice(*labels: str) -> Callable[[Any], str]:
    """One of these words."""

    def read(cell: Any) -> str:
        word = str(cell).strip().lower()
        return word if word in labels else _expected(f"one of {', '.join(labels)}")

    return read


def choices(*labels: str) -> Callable[[Any], list[str]]:
    """Some of these words, with semicolons between them."""
    one = choice(*labels)
    return lambda cell: [one(part) for part in names(cell)]


def minor(value: Decimal, currency: str) -> int:
    """An amount in minor units; `BadValue` when it has more digits than the currency, or is more than anybody pays."""
    scaled = EXACT.scaleb(value, DIGITS[currency])
    if scaled != scaled.to_integral_value():
        _expected(f"an amount with the digits of {currency}")
    return int(scaled) if scaled.copy_abs() <= MINOR_MAX else _expected("an amount that can be paid")


def _expected(what: str) -> NoReturn:
    raise BadValue(f"expected {what}")
