"""Values out of their bounds are told to a person, with the field."""

from enum import StrEnum
from typing import Annotated, Any

import pytest
from msgspec import Meta, Struct

from services.kit.documents import as_struct
from services.kit.errors import Invalid


class Colour(StrEnum):
    WHITE = "COLOUR_WHITE"


class Price(Struct, frozen=True):
    minor: Annotated[int, Meta(ge=1)]


class Line(Struct):
    unit_price: Annotated[int, Meta(ge=1, le=100)]
    price: Price = Price(1)


class Form(Struct):
    note: Annotated[str, Meta(max_length=3)] = "x"
    city: Annotated[str, Meta(min_length=1)] = "x"
    currency: Annotated[str, Meta(pattern=r"^\d{3}$")] = "123"
    lines: Annotated[list[Line], Meta(max_length=1)] = []
    sizes: dict[Annotated[str, Meta(max_length=2)], Annotated[str, Meta(max_length=2)]] = {}
    longitude: Annotated[float, Meta(gt=-180, le=180)] = 0.0
    colour: Colour = Colour.WHITE


@pytest.mark.parametrize(
    ("given", "field", "message"),
    [
        ({"note": "xxxx"}, "note", "note: at most 3 characters"),
        ({"city": ""}, "city", "city: not empty"),
        ({"currency": "CNY"}, "currency", r"currency: must match ^\d{3}$"),
        ({"lines": [{}]}, "lines[0].unit_price", "give unit price"),
        ({"lines": [{"unit_price": 0}]}, "lines[0].unit_price", "unit price: 1 or more"),
        ({"lines": [{"unit_price": 101}]}, "lines[0].unit_price", "unit price: 100 at most"),
        ({"lines": [{"unit_price": 1, "price": {"minor": 0}}]}, "lines[0].price.minor", "price: 1 or more"),
        ({"lines": [{"unit_price": 1}] * 2}, "lines", "lines: at most 1 entries"),
        ({"sizes": {"shirt": "4"}}, "sizes", "sizes: at most 2 characters"),
        ({"sizes": {"a": "400"}}, "sizes[...]", "sizes: at most 2 characters"),
        ({"longitude": 200.0}, "longitude", "longitude: 180 at most"),
        ({"longitude": -180.0}, "longitude", "longitude: more than -180"),
        ({"colour": "COLOUR_RED"}, "colour", "colour: COLOUR_RED is none of the choices"),
    ],
)
def test_a_person_hears_what_is_wrong_and_where(given: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(Invalid) as refused:
        as_struct(given, Form)
    assert (refused.value.reason, refused.value.message, refused.value.metadata["field"]) == ("INVALID_FIELD", message, field)


def test_money_alone_is_told_by_its_amount() -> None:
    """A price that stands for itself in a request: nobody knows of its minor units."""
    with pytest.raises(Invalid, match="amount: 1 or more"):
        as_struct({"minor": 0}, Price)


def test_what_is_missing_is_asked_for() -> None:
    with pytest.raises(Invalid, match="give unit price") as refused:
        as_struct({}, Line)
    assert refused.value.metadata["field"] == "unit_price"
