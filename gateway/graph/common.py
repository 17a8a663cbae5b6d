"""Types that all use cases share: money, points, bilingual texts, attributes, touchpoint and scenario."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal as Number
from typing import TYPE_CHECKING, Any

from gateway.schema.inputs import InputType, input_field, input_type
from gateway.schema.types import computed_field, enum_type, object_type, root_type
from quanyu.commerce.v1 import catalog_pb2
from quanyu.common.v1 import money_pb2, point_pb2, touch_pb2
from quanyu.organization.v1 import chart_pb2
from services.kit.errors import Invalid
from services.kit.values.currencies import DIGITS
from services.kit.values.money import MINOR_MAX

if TYPE_CHECKING:
    from gateway.schema.resolver_context import ResolverContext
    from gateway.schema.scalars import Decimal

UNKNOWN_CURRENCY_DIGITS = 2
"""An amount of a currency that the table does not have, such as a withdrawn one, is written with this many decimals."""
AMOUNT = 'The amount in units of the currency, as a string such as "12.30".'


def format_amount(money: money_pb2.Money) -> str:
    """Returns the amount in units of the currency: 12.30 for 1230 minor units of CNY."""
    minor, digits = money.minor, DIGITS.get(money.currency, UNKNOWN_CURRENCY_DIGITS)
    if not digits:
        return str(minor)
    text = str(minor).zfill(digits + 1 + (minor < 0))  # one digit before the point, and the sign
    return f"{text[:-digits]}.{text[-digits:]}"


def parse_amount(value: Number, currency: str) -> int:
    """Returns the amount in minor units; raises `Invalid` if it has more decimals than the currency, or is too large."""
    digits = DIGITS.get(currency, UNKNOWN_CURRENCY_DIGITS)
    scaled = value.scaleb(digits)
    if scaled != scaled.to_integral_value():
        raise Invalid("INVALID_FIELD", f"`amount` has too many decimals. An amount of {currency} has at most {digits}.", field="amount")
    if abs(scaled) > MINOR_MAX:
        raise Invalid("INVALID_FIELD", f"`amount` is too large. Use at most {MINOR_MAX} minor units.", field="amount")
    return int(scaled)


@object_type(money_pb2.Money)
class Money:
    amount: Decimal = computed_field(format_amount, AMOUNT)
    currency: str


class MoneyInputType(InputType):
    """Converts an amount and its currency, which the message needs together, to minor units."""

    def fill(self, message: Any, values: Mapping[str, Any], context: ResolverContext) -> None:
        message.currency = values["currency"]
        message.minor = parse_amount(values["amount"], values["currency"])


@input_type(money_pb2.Money, converter=MoneyInputType)
class MoneyInput:
    amount: Decimal = input_field(proto_field="minor", description=AMOUNT)
    currency: str


@object_type(point_pb2.Point)
class Point:
    longitude: float
    latitude: float


@input_type(point_pb2.Point)
class PointInput:
    longitude: float
    latitude: float


@object_type(catalog_pb2.Text, chart_pb2.Name)
class Text:
    zh: str | None
    en: str | None


@input_type(chart_pb2.Name)
class TextInput:
    zh: str | None
    en: str | None


def bilingual_field(description: str) -> Any:
    """Declares a `Text` field of a message that has `name` (Chinese) and `name_en`."""
    return computed_field(lambda source: chart_pb2.Name(zh=source.name, en=source.name_en), description)


@root_type('A name and its value, such as "size" and "40".')
class Attribute:
    name: str = computed_field(lambda entry: entry.name, "The name, in lower case.")
    value: str = computed_field(lambda entry: entry.value, "The value.")


@input_type(catalog_pb2.OfferedVariant.AttributesEntry, description='A name and its value, such as "size" and "40".')
class AttributeInput:
    name: str = input_field(proto_field="key", description="The name, in lower case.")
    value: str = input_field(description="The value.")


@enum_type(touch_pb2.Touchpoint)
class Touchpoint: ...


@enum_type(touch_pb2.Scenario)
class Scenario: ...
