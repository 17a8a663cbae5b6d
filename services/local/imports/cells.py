"""Cell readers: functions that convert a cell, which is text (CSV) or any type (Parquet), to a value.

Errors name what is expected and do not repeat the cell, since it may hold personal data.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Context, Decimal
from math import isfinite
from typing import Any, NoReturn

from services.kit.values.currencies import DIGITS
from services.kit.values.money import MINOR_MAX
from services.kit.values.opening_hours import DAY_MINUTES, zone_of

INTEGER_MAX = 1_000_000_000
NUMBER_CHARACTERS_MAX, EXPONENT_MAX = 60, 30
"""Numbers with more characters or a larger exponent are refused, so that decimal arithmetic stays exact and fast."""
EXACT = Context(prec=2 * NUMBER_CHARACTERS_MAX)
YEARS = range(1900, 2200)
"""Times outside these years are refused: at the edge of the calendar, a conversion to another zone would fail in a service."""
HOURS = re.compile(r"(\d{1,2})(?::(\d{2}))?\s*-\s*(\d{1,2})(?::(\d{2}))?", re.ASCII)


class BadValue(ValueError):
    """The cell cannot be read. The message says what is expected, without the cell's content."""


def text(cell: Any) -> str:
    """Returns the text without surrounding blanks."""
    return str(cell).strip()


def integer(cell: Any) -> int:
    """Returns a whole number, also for 3.0."""
    value = _decimal(cell)
    if value is None or value != value.to_integral_value() or value.copy_abs() > INTEGER_MAX:
        _expect(f"a whole number of at most {INTEGER_MAX:,}")
    return int(value)


def number(cell: Any) -> float:
    """Returns a finite number."""
    value = float(str(cell))
    return value if isfinite(value) else _expect("a number")


def amount(cell: Any) -> Decimal:
    """Returns an amount in major units, like 12.30."""
    value = _decimal(cell)
    return value if value is not None else _expect("an amount like 12.30")


def _decimal(cell: Any) -> Decimal | None:
    """Returns the number as written; None if it is not a number or is out of bounds."""
    written = str(cell).strip()
    try:
        value = Decimal(written) if len(written) <= NUMBER_CHARACTERS_MAX else None
    except ArithmeticError:
        return None
    return value if value is not None and value.is_finite() and abs(value.adjusted()) <= EXPONENT_MAX else None


def currency(cell: Any) -> str:
    """Returns a currency code in upper case."""
    code = str(cell).strip().upper()
    return code if code in DIGITS else _expect("a currency code of ISO 4217, like CNY")


def flag(cell: Any) -> bool:
    """Returns True for yes, true and 1, False for no, false and 0."""
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    value = known.get(str(cell).strip().lower())
    return value if value is not None else _expect("yes or no")


def moment(cell: Any) -> datetime:
    """Returns an ISO 8601 time in UTC. A time without an offset is Shanghai time."""
    at = cell if isinstance(cell, datetime) else datetime.fromisoformat(str(cell).strip())
    if at.year not in YEARS:
        _expect(f"a time between {YEARS.start} and {YEARS.stop - 1}")
    return (at if at.tzinfo else at.replace(tzinfo=zone_of("Asia/Shanghai"))).astimezone(UTC)


def hours(cell: Any) -> tuple[int, int]:
    """Returns daily opening hours like 10:00-22:00 as minutes since midnight."""
    found = HOURS.fullmatch(str(cell).strip())
    opens, opens_minute, closes, closes_minute = (int(part or 0) for part in found.groups()) if found else (0, DAY_MINUTES, 0, 0)
    minutes = opens * 60 + opens_minute, closes * 60 + closes_minute
    is_possible = max(opens_minute, closes_minute) < 60 and max(minutes) <= DAY_MINUTES
    return minutes if is_possible else _expect("hours like 10:00-22:00")


def pairs(cell: Any) -> dict[str, str]:
    """Returns the values by name of a cell like size=40;colour=white."""
    found = {}
    for part in str(cell).split(";"):
        if part.strip():
            name, equals, value = part.partition("=")
            if not equals:
                _expect("pairs like size=40;colour=white")
            found[name.strip()] = value.strip()
    return found


def names(cell: Any) -> list[str]:
    """Returns the values of a cell, separated by semicolons."""
    return [part.strip() for part in str(cell).split(";") if part.strip()]


def choice(*labels: str) -> Callable[[Any], str]:
    """Returns a reader that accepts one of these words."""

    def read(cell: Any) -> str:
        word = str(cell).strip().lower()
        return word if word in labels else _expect(f"one of {', '.join(labels)}")

    return read


def choices(*labels: str) -> Callable[[Any], list[str]]:
    """Returns a reader that accepts some of these words, separated by semicolons."""
    one = choice(*labels)
    return lambda cell: [one(part) for part in names(cell)]


def minor(value: Decimal, currency: str) -> int:
    """Converts an amount to minor units; raises `BadValue` if it has more decimals than the currency, or exceeds `MINOR_MAX`."""
    scaled = EXACT.scaleb(value, DIGITS[currency])
    if scaled != scaled.to_integral_value():
        _expect(f"an amount with at most {DIGITS[currency]} decimals, as {currency} has")
    return int(scaled) if scaled.copy_abs() <= MINOR_MAX else _expect(f"an amount of at most {MINOR_MAX:,} minor units")


def _expect(what: str) -> NoReturn:
    raise BadValue(f"expected {what}")
