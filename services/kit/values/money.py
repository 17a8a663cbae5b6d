"""Money in minor units, and its allocation without a remainder."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, Struct

from services.kit.values.currencies import CODES

MINOR_MAX = 10**15
"""An amount has at most this many minor units."""

if TYPE_CHECKING:
    Currency = str
else:  # msgspec checks the code when a document or a request becomes a struct
    Currency = Literal[CODES]


class Money(Struct, frozen=True):
    """12.30 CNY is `Money("CNY", 1230)`; shaped like `quanyu.common.v1.Money`."""

    currency: Currency
    minor: Annotated[int, Meta(ge=-MINOR_MAX, le=MINOR_MAX)] = 0


def allocate(total: int, weights: Sequence[int]) -> list[int]:
    """Allocates `total` in proportion to non-negative `weights` by the largest remainder method; the shares sum to `total`.

    If `total` is at most the sum of the weights, no share exceeds its weight. Of equal remainders the earlier share gets the unit.
    ValueError if `total` is not zero and the weights are.
    """
    whole = sum(weights)
    if not whole:
        if total:
            raise ValueError("The weights sum to zero. Give at least one positive weight.")
        return [0] * len(weights)
    shares = [total * weight // whole for weight in weights]
    remainders = sorted(range(len(weights)), key=lambda index: (-(total * weights[index] % whole), index))
    for index in remainders[: total - sum(shares)]:
        shares[index] += 1
    return shares
