"""Tests of validation: an invalid value is refused with its field and a message for the client."""

from enum import StrEnum
from typing import Annotated, Any

import pytest
from msgspec import Meta, Struct

from services.kit.errors import Invalid
from services.kit.mongo.codec import to_struct
from services.kit.values.validation import ENGLISH, VISIBLE_LINE_PATTERN, Violation, problems


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
        ({"note": "xxxx"}, "note", "The note must have at most 3 characters."),
        ({"city": ""}, "city", "The city must not be empty."),
        ({"currency": "CNY"}, "currency", r"The currency must match ^\d{3}$"),
        ({"lines": [{}]}, "lines[0].unit_price", "The unit price is missing. Set it."),
        ({"lines": [{"unit_price": 0}]}, "lines[0].unit_price", "The unit price must be 1 or more."),
        ({"lines": [{"unit_price": 101}]}, "lines[0].unit_price", "The unit price must be 100 or less."),
        ({"lines": [{"unit_price": 1, "price": {"minor": 0}}]}, "lines[0].price.minor", "The price must be 1 or more."),
        ({"lines": [{"unit_price": 1}] * 2}, "lines", "The lines must have at most 1 entries."),
        ({"sizes": {"shirt": "4"}}, "sizes", "The sizes must have at most 2 characters."),
        ({"sizes": {"a": "400"}}, "sizes[...]", "The sizes must have at most 2 characters."),
        ({"longitude": 200.0}, "longitude", "The longitude must be 180 or less."),
        ({"longitude": -180.0}, "longitude", "The longitude must be more than -180."),
        ({"colour": "COLOUR_RED"}, "colour", "COLOUR_RED is not a known colour. Choose another one."),
    ],
)
def test_refusal_names_field_and_limit(given: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(Invalid) as refused:
        to_struct(given, Form)
    assert (refused.value.reason, refused.value.message, refused.value.metadata["field"]) == ("INVALID_FIELD", message, field)


def test_money_without_path_is_named_amount() -> None:
    with pytest.raises(Invalid, match="The amount must be 1 or more"):
        to_struct({"minor": 0}, Price)


def test_problems_contain_all_violations() -> None:
    given = {"note": "xxxx", "city": "", "lines": [{"unit_price": 0, "price": {}}]}
    assert problems(given, Form) == [
        ("note", Violation.MAX_CHARACTERS, 3),
        ("city", Violation.EMPTY, None),
        ("lines[0].unit_price", Violation.GREATER_OR_EQUAL, 1),
        ("lines[0].price.minor", Violation.MISSING, None),
    ]


def test_every_violation_has_a_message() -> None:
    assert set(ENGLISH) == set(Violation)


def test_missing_field_is_refused_by_name() -> None:
    with pytest.raises(Invalid, match="The unit price is missing") as refused:
        to_struct({}, Line)
    assert refused.value.metadata["field"] == "unit_price"


class Named(Struct):
    name: Annotated[str, Meta(max_length=20, pattern=VISIBLE_LINE_PATTERN)] = ""


@pytest.mark.parametrize("name", ["", "白", "Shinjuku 新宿", "★", "👩\u200d👧", "שלום", " a "])
def test_visible_name_is_valid(name: str) -> None:
    assert to_struct({"name": name}, Named).name == name


@pytest.mark.parametrize("mark", list("\0\n\r\t\x1b\x7f\x85\u2028\u2029\u202a\u202e\u2066\u2069"))
def test_control_character_in_a_name_is_refused(mark: str) -> None:
    for name in (f"a{mark}b", f"a{mark}", f"{mark}a", mark):
        with pytest.raises(Invalid, match="The name must be one line") as refused:
            to_struct({"name": name}, Named)
        assert refused.value.metadata["field"] == "name"


@pytest.mark.parametrize("name", [" ", "  ", "\u3000", "\u00a0", "\u200b", "\ufeff \u2060"])
def test_invisible_name_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match="The name must be one line"):
        to_struct({"name": name}, Named)
