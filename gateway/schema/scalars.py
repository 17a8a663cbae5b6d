"""The graph's scalars beside GraphQL's own."""

import decimal
import re
from datetime import UTC, datetime
from typing import Any, NewType

import strawberry
from google.protobuf.timestamp_pb2 import Timestamp
from graphql import GraphQLError
from strawberry.types.scalar import ScalarDefinition

from gateway.schema.registry import declare

Long = NewType("Long", int)
DateTime = NewType("DateTime", datetime)
Decimal = NewType("Decimal", decimal.Decimal)

LONG_MAX = 2**63 - 1
DECIMAL = re.compile(r"-?[0-9]{1,16}(\.[0-9]{1,4})?")
DATE_TIME_LENGTH_MAX = 40


def _parse_long(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -LONG_MAX <= value <= LONG_MAX:
        raise GraphQLError("Long is a whole number of at most 64 bits")
    return value


def _parse_date_time(value: Any) -> datetime:
    try:
        if not isinstance(value, str) or len(value) > DATE_TIME_LENGTH_MAX:
            raise ValueError("no text of that length")
        at = datetime.fromisoformat(value)
        if at.tzinfo is None:
            raise ValueError("no offset")
        return at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise GraphQLError("DateTime is a time with its offset, like 2018-11-20T21:40:00+08:00") from None


def utc(text: str) -> str:
    """An RFC 3339 moment as the graph writes every other; ValueError when it is none."""
    at = Timestamp()
    at.FromJsonString(text)
    return at.ToJsonString()


def _parse_decimal(value: Any) -> decimal.Decimal:
    if not isinstance(value, str) or not DECIMAL.fullmatch(value):
        raise GraphQLError('Decimal is a text like "12.30"')
    return decimal.Decimal(value)


def as_it_is(value: Any) -> Any:
    """What a message holds is what the answer has."""
    return value


SCALARS: dict[object, ScalarDefinition] = {
    Long: strawberry.scalar(
        name="Long",
        description="A whole number of up to 64 bits.",
        serialize=as_it_is,
        parse_value=_parse_long,
    ),
    DateTime: strawberry.scalar(
        name="DateTime",
        description="A moment, RFC 3339. Answered in UTC; given with any offset.",
        specified_by_url="https://www.rfc-editor.org/rfc/rfc3339",
        serialize=as_it_is,
        parse_value=_parse_date_time,
    ),
    Decimal: strawberry.scalar(
        name="Decimal",
        description='A decimal number as a text, so that nothing of it is lost: "12.30".',
        serialize=as_it_is,
        parse_value=_parse_decimal,
    ),
}

for _name, _type in (("Long", Long), ("DateTime", DateTime), ("Decimal", Decimal)):
    declare(_name, _type)
