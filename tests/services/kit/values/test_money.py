"""Money is of a currency that there is, and sharing it out never loses a minor unit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.errors import Invalid
from services.kit.mongo.codec import to_struct
from services.kit.values.currencies import CODES, DIGITS, NO_DIGITS, THREE_DIGITS, TWO_DIGITS
from services.kit.values.money import Money, allocate


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=30), st.data())
def test_shares_sum_to_the_whole_and_none_is_more_than_its_weight(weights: list[int], data: st.DataObject) -> None:
    total = data.draw(st.integers(0, sum(weights)))
    shares = allocate(total, weights)
    assert sum(shares) == total
    assert all(0 <= share <= weight for share, weight in zip(shares, weights, strict=True))
    whole = sum(weights) or 1
    assert all(abs(share - total * weight / whole) < 1 + 1e-3 for share, weight in zip(shares, weights, strict=True))


def test_nothing_can_be_shared_out_to_nobody() -> None:
    assert allocate(0, [0, 0]) == [0, 0]
    with pytest.raises(ValueError, match="nothing to share"):
        allocate(1, [0])


@pytest.mark.parametrize("currency", ["zz", "ZZZ", "cny", "", "XXX"])
def test_money_is_of_a_currency_that_there_is(currency: str) -> None:
    with pytest.raises(Invalid) as refused:
        to_struct({"currency": currency, "minor": 1}, Money)
    assert refused.value.metadata["field"] == "currency"
    assert to_struct({"currency": "CNY", "minor": 1}, Money) == Money("CNY", 1)


def test_each_currency_stands_once_and_has_its_digits() -> None:
    assert len(DIGITS) == len(f"{NO_DIGITS} {TWO_DIGITS} {THREE_DIGITS}".split())
    assert all(len(code) == 3 and code.isalpha() and code.isupper() for code in CODES)
    assert (DIGITS["CNY"], DIGITS["JPY"], DIGITS["KWD"]) == (2, 0, 3)
    assert set(DIGITS.values()) == {0, 2, 3}
