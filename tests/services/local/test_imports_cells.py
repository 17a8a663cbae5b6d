"""Cell readers: every cell is read or refused with `BadValue`."""

import decimal
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.local.imports import cells
from services.local.imports.cells import BadValue
from services.local.imports.items import BUILD
from services.local.imports.layout import BY_NAME, FILES, Column

COLUMNS = [column for file in FILES for column in file.columns]
ODD = st.one_of(
    st.text(),
    st.from_regex(r"\s*[-+]?[0-9]{0,40}([.,][0-9]{0,40})?([eE][-+]?[0-9]{1,20})?%?\s*", fullmatch=True),
    st.from_regex(r"[0-9]{1,3}(:[0-9]{1,3})?-[0-9]{1,3}(:[0-9]{1,3})?", fullmatch=True),
    st.from_regex(r"[0-9]{1,5}-[0-9]{1,2}-[0-9]{1,2}([T ][0-9]{1,2}:[0-9]{2}(:[0-9]{2})?)?([+-][0-9]{2}:?[0-9]{2})?", fullmatch=True),
    st.sampled_from(
        ["nan", "-inf", "sNaN123", "0e999999", "1e-999999", "1E+999999999999999999", "9999-12-31T23:59-23:59", "٣:٠٠-٤:٠٠", "\0"]
    ),
)


@pytest.mark.parametrize(
    ("read", "cell", "value"),
    [
        (cells.hours, "10:00-22:00", (600, 1320)),
        (cells.hours, "9 - 24:00", (540, 1440)),
        (cells.pairs, "size=40; colour=白", {"size": "40", "colour": "白"}),
        (cells.flag, "Yes", True),
        (cells.moment, "2026-01-01 12:00", datetime(2026, 1, 1, 4, tzinfo=UTC)),
        (cells.moment, datetime(2026, 1, 1, 4, tzinfo=UTC), datetime(2026, 1, 1, 4, tzinfo=UTC)),
        (cells.integer, 3.0, 3),
        (cells.integer, Decimal("3"), 3),
        (cells.amount, " 12.30 ", Decimal("12.30")),
        (cells.currency, "jod", "JOD"),
        (cells.choices("white", "blue"), "White; blue", ["white", "blue"]),
    ],
)
def test_cell_is_read(read: Any, cell: Any, value: Any) -> None:
    assert read(cell) == value


@pytest.mark.parametrize(
    ("read", "cell"),
    [
        (cells.hours, "ten"),
        (cells.hours, "10:75-22:00"),
        (cells.hours, "10:00-24:01"),
        (cells.hours, "10:00"),
        (cells.pairs, "x"),
        (cells.flag, "maybe"),
        (cells.integer, 3.5),
        (cells.integer, Decimal("3.5")),
        (cells.integer, True),
        (cells.integer, "1e10"),
        (cells.number, "nan"),
        (cells.amount, "NaN"),
        (cells.amount, "1e999999"),
        (cells.currency, "XYZ"),
        (cells.moment, "0001-01-01"),
    ],
)
def test_unreadable_cell_raises_value_error(read: Any, cell: Any) -> None:
    with pytest.raises(ValueError):
        read(cell)


@pytest.mark.parametrize(
    ("amount", "currency", "minor"),
    [
        ("12.30", "CNY", 1230),
        ("1200", "JPY", 1200),
        ("1200", "CLP", 1200),
        ("1.234", "BHD", 1234),
        ("1.234", "TND", 1234),
        ("1.20", "JOD", 1200),
    ],
)
def test_amount_is_converted_to_minor_units(amount: str, currency: str, minor: int) -> None:
    assert cells.minor(cells.amount(amount), currency) == minor


@pytest.mark.parametrize(("amount", "currency"), [("0.001", "CNY"), ("12.5", "ISK"), ("1.2345", "OMR"), ("1e15", "CNY"), ("1e-29", "CNY")])
def test_amount_with_too_many_decimals_is_refused(amount: str, currency: str) -> None:
    with pytest.raises(BadValue):
        cells.minor(cells.amount(amount), currency)


@given(ODD, st.sampled_from(["CNY", "JPY", "KWD"]))
@example("1e999999", "CNY")
def test_amount_is_exact_or_refused(text: str, currency: str) -> None:
    try:
        value = cells.amount(text)
        minor = cells.minor(value, currency)
    except BadValue:
        return
    with decimal.localcontext(prec=200):
        assert Decimal(minor).scaleb(-{"CNY": 2, "JPY": 0, "KWD": 3}[currency]) == Decimal(text.strip())


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
@given(cell=ODD)
def test_any_cell_is_read_or_refused(column: Column, cell: str) -> None:
    try:
        column.value(cell)
    except BadValue as refused:
        assert str(refused).startswith(column.name)


@pytest.mark.parametrize("name", BUILD)
@given(data=st.data())
def test_any_row_becomes_message_or_is_refused(name: str, data: st.DataObject) -> None:
    usual: Mapping[str, str] = {
        "brand_id": "brd_a", "org_unit_id": "unt_a", "store_id": "str_a", "staff_id": "stf_a", "place_id": "str_a", "parent_id": "brd_a",
        "consumer_id": "con_a", "variant_id": "var_a", "name": "白屿", "kind": "region", "longitude": "116.4", "latitude": "39.9",
        "on_hand": "1",
    }  # fmt: skip
    odd = data.draw(st.dictionaries(st.sampled_from([column.name for column in BY_NAME[name].columns]), ODD, min_size=1, max_size=3))
    try:
        BUILD[name](BY_NAME[name].row({**usual, **odd}))
    except BadValue:
        return
