"""Values out of their bounds are told to a person, with the field."""

from enum import StrEnum
from typing import Annotated, Any

import pytest
from msgspec import Meta, Struct

from services.kit.bounds import WRITTEN
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


class Named(Struct):
    name: Annotated[str, Meta(max_length=20, pattern=WRITTEN)] = ""


@pytest.mark.parametrize("name", ["", "白", "Shinjuku 新宿", "★", "👩\u200d👧", "שלום", " a "])
def test_a_name_may_be(name: str) -> None:
    assert as_struct({"name": name}, Named).name == name


@pytest.mark.parametrize("mark", list("\0\n\r\t\x1b\x7f\x85\u2028\u2029\u202a\u202e\u2066\u2069"))
def test_a_name_stands_on_one_line_and_turns_nothing(mark: str) -> None:
    for name in (f"a{mark}b", f"a{mark}", f"{mark}a", mark):
        with pytest.raises(Invalid, match="name: write it in one line") as refused:
            as_struct({"name": name}, Named)
        assert refused.value.metadata["field"] == "name"


@pytest.mark.parametrize("name", [" ", "  ", "\u3000", "\u00a0", "\u200b", "\ufeff \u2060"])
def test_something_of_a_name_is_seen(name: str) -> None:
    with pytest.raises(Invalid, match="name: write it in one line"):
        as_struct({"name": name}, Named)
