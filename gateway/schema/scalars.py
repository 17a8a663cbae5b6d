"""Custom scalars of the graph: `Long`, `DateTime` and `Decimal`."""

import decimal
import re
from datetime import UTC, datetime
from typing import Any, NewType

import strawberry
from google.protobuf.timestamp_pb2 import Timestamp
from graphql import GraphQLError
from strawberry.types.scalar import ScalarDefinition

from gateway.schema.registry import register

Long = NewType("Long", int)
DateTime = NewType("DateTime", datetime)
Decimal = NewType("Decimal", decimal.Decimal)

LONG_MAX = 2**63 - 1
DECIMAL_PATTERN = re.compile(r"-?[0-9]{1,16}(\.[0-9]{1,4})?")
DATE_TIME_LENGTH_MAX = 40
"""A `DateTime` with more characters is rejected before it is parsed."""


def _parse_long(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -LONG_MAX <= value <= LONG_MAX:
        raise GraphQLError("Long must be a whole number of at most 64 bits.")
    return value


def _parse_date_time(value: Any) -> datetime:
    try:
        if not isinstance(value, str) or len(value) > DATE_TIME_LENGTH_MAX:
            raise ValueError("not a string, or too long")
        at = datetime.fromisoformat(value)
        if at.tzinfo is None:
            raise ValueError("no offset")
        return at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise GraphQLError("DateTime must be an RFC 3339 time with an offset, such as 2018-11-20T21:40:00+08:00.") from None


def to_utc(text: str) -> str:
    """Returns an RFC 3339 time in UTC, in the format of all times of the graph; raises ValueError if it is invalid."""
    at = Timestamp()
    at.FromJsonString(text)
    return at.ToJsonString()


def _parse_decimal(value: Any) -> decimal.Decimal:
    if not isinstance(value, str) or not DECIMAL_PATTERN.fullmatch(value):
        raise GraphQLError('Decimal must be a string such as "12.30", with at most 16 digits before the point and 4 after it.')
    return decimal.Decimal(value)


def serialize_unchanged(value: Any) -> Any:
    """Returns the value of the message: it is already in the format of the answer."""
    return value


SCALARS: dict[object, ScalarDefinition] = {
    Long: strawberry.scalar(
        name="Long",
        description="A whole number of at most 64 bits.",
        serialize=serialize_unchanged,
        parse_value=_parse_long,
    ),
    DateTime: strawberry.scalar(
        name="DateTime",
        description="A point in time, as RFC 3339. Answers are in UTC; inputs may have any offset.",
        specified_by_url="https://www.rfc-editor.org/rfc/rfc3339",
        serialize=serialize_unchanged,
        parse_value=_parse_date_time,
    ),
    Decimal: strawberry.scalar(
        name="Decimal",
        description='A decimal number as a string, such as "12.30", so that it keeps its precision.',
        serialize=serialize_unchanged,
        parse_value=_parse_decimal,
    ),
}

for _name, _type in (("Long", Long), ("DateTime", DateTime), ("Decimal", Decimal)):
    register(_name, _type)
