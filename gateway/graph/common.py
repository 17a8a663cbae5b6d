"""Nouns that all use cases share."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal as Number
from typing import TYPE_CHECKING, Any

from gateway.schema.inputs import Form, form, part
from gateway.schema.types import computed, enumeration, root, view
from quanyu.commerce.v1 import catalog_pb2
from quanyu.common.v1 import money_pb2, point_pb2, touch_pb2
from quanyu.organization.v1 import chart_pb2
from services.kit.errors import Invalid
from services.kit.values.currencies import DIGITS
from services.kit.values.money import MINOR_MAX

if TYPE_CHECKING:
    from gateway.schema.resolver_context import ResolverContext
    from gateway.schema.scalars import Decimal

UNKNOWN = 2
"""Digits of a currency that is in no table: of one withdrawn since, or one that is refused."""


def amount(money: money_pb2.Money) -> str:
    """1230 minor units of CNY are 12.30."""
    minor, digits = money.minor, DIGITS.get(money.currency, UNKNOWN)
    if not digits:
        return str(minor)
    text = str(minor).zfill(digits + 1 + (minor < 0))  # the last digit before the point and the sign
    return f"{text[:-digits]}.{text[-digits:]}"


def minor(value: Number, currency: str) -> int:
    """The reverse; `Invalid` for more digits than the currency has, or more money than there is."""
    scaled = value.scaleb(DIGITS.get(currency, UNKNOWN))
    if scaled != scaled.to_integral_value() or abs(scaled) > MINOR_MAX:
        raise Invalid("INVALID_FIELD", f"{value} is no amount of {currency}", field="amount")
    return int(scaled)


@view(money_pb2.Money)
class Money:
    amount: Decimal = computed(amount, 'In the currency\'s own units, as a text: "12.30".')
    currency: str


class MoneyForm(Form):
    """Money given as it is shown."""

    def fill(self, message: Any, values: Mapping[str, Any], context: ResolverContext) -> None:
        message.currency = values["currency"]
        message.minor = minor(values["amount"], values["currency"])


@form(money_pb2.Money, made=MoneyForm)
class MoneyInput:
    amount: Decimal = part(field="minor", description='In the currency\'s own units, as a text: "12.30".')
    currency: str


@view(point_pb2.Point)
class Point:
    longitude: float
    latitude: float


@form(point_pb2.Point)
class PointInput:
    longitude: float
    latitude: float


@view(catalog_pb2.Text, chart_pb2.Name)
class Text:
    zh: str | None
    en: str | None


@form(chart_pb2.Name)
class TextInput:
    zh: str | None
    en: str | None


def bilingual(description: str) -> Any:
    """A text out of a message's `name` (Chinese) and `name_en`."""
    return computed(lambda source: chart_pb2.Name(zh=source.name, en=source.name_en), description)


@root("A name and its value, like size: 40.")
class Attribute:
    name: str = computed(lambda entry: entry.name, "In lower case.")
    value: str = computed(lambda entry: entry.value, "What it is.")


@form(catalog_pb2.OfferedVariant.AttributesEntry, description="A name and what it is.")
class AttributeInput:
    name: str = part(field="key", description="In lower case.")
    value: str = part(description="What it is.")


@enumeration(touch_pb2.Touchpoint)
class Touchpoint: ...


@enumeration(touch_pb2.Scenario)
class Scenario: ...
