"""Tests of money: known currencies, and allocation without a remainder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.errors import Invalid
from services.kit.mongo.codec import to_struct
from services.kit.values.currencies import CODES, DIGITS, NO_DIGITS, THREE_DIGITS, TWO_DIGITS
from services.kit.values.money import Money, allocate


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=30), st.data())
def test_shares_sum_to_total_within_their_weights(weights: list[int], data: st.DataObject) -> None:
    total = data.draw(st.integers(0, sum(weights)))
    shares = allocate(total, weights)
    assert sum(shares) == total
    assert all(0 <= share <= weight for share, weight in zip(shares, weights, strict=True))
    whole = sum(weights) or 1
    assert all(abs(share - total * weight / whole) < 1 + 1e-3 for share, weight in zip(shares, weights, strict=True))


def test_allocation_without_weights_is_refused() -> None:
    assert allocate(0, [0, 0]) == [0, 0]
    with pytest.raises(ValueError, match="The weights sum to zero"):
        allocate(1, [0])


@pytest.mark.parametrize("currency", ["zz", "ZZZ", "cny", "", "XXX"])
def test_unknown_currency_is_refused(currency: str) -> None:
    with pytest.raises(Invalid) as refused:
        to_struct({"currency": currency, "minor": 1}, Money)
    assert refused.value.metadata["field"] == "currency"
    assert to_struct({"currency": "CNY", "minor": 1}, Money) == Money("CNY", 1)


def test_currencies_are_unique_and_have_digits() -> None:
    assert len(DIGITS) == len(f"{NO_DIGITS} {TWO_DIGITS} {THREE_DIGITS}".split())
    assert all(len(code) == 3 and code.isalpha() and code.isupper() for code in CODES)
    assert (DIGITS["CNY"], DIGITS["JPY"], DIGITS["KWD"]) == (2, 0, 3)
    assert set(DIGITS.values()) == {0, 2, 3}
