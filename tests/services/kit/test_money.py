"""Sharing money out never loses a minor unit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.money import allocate


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
