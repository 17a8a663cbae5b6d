"""Cells of a file as values: each reader takes text (CSV) or any type (Parquet), and says what it expected without repeating the cell."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from services.kit.calendar import zone_of

MINOR_DIGITS = {"JPY": 0, "KRW": 0, "VND": 0, "KWD": 3, "BHD": 3}
"""Digits of the minor unit where they are not two (ISO 4217)."""


class BadValue(ValueError):
    """A cell that cannot be read; the message says what is expected, without repeating what may be personal."""


def text(cell: Any) -> str:
    """Text without blanks around it."""
    return str(cell).strip()


def integer(cell: Any) -> int:
    """A whole number."""
    return int(cell) if not isinstance(cell, float) or cell.is_integer() else _expected("a whole number")


def number(cell: Any) -> float:
    """A number."""
    return float(cell)


def amount(cell: Any) -> Decimal:
    """An amount in major units, like 12.30."""
    try:
        value = Decimal(str(cell).strip())
    except InvalidOperation:
        value = Decimal("NaN")
    return value if value.is_finite() else _expected("an amount like 12.30")


def flag(cell: Any) -> bool:
    """yes or no."""
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    value = known.get(str(cell).strip().lower())
    return value if value is not None else _expected("yes or no")


def moment(cell: Any) -> datetime:
    """An ISO 8601 time; without an offset it is Shanghai's."""
    at = cell if isinstance(cell, datetime) else datetime.fromisoformat(str(cell).strip())
    return (at if at.tzinfo else at.replace(tzinfo=zone_of("Asia/Shanghai"))).astimezone(UTC)


def hours(cell: Any) -> tuple[int, int]:
    """Daily opening hours like 10:00-22:00, as minutes since midnight."""
    minutes = []
    for part in str(cell).split("-"):
        hour, _, minute = part.strip().partition(":")
        minutes.append(int(hour) * 60 + int(minute or 0))
    return (minutes[0], minutes[1]) if len(minutes) == 2 else _expected("hours like 10:00-22:00")


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
    """An amount in minor units; `BadValue` when it has more digits than the currency."""
    scaled = value.scaleb(MINOR_DIGITS.get(currency, 2))
    return int(scaled) if scaled == scaled.to_integral_value() else _expected(f"an amount with the digits of {currency}")


def _expected(what: str) -> Any:
    raise BadValue(f"expected {what}")
