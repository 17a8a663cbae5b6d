"""Money in minor units, and sharing it out without losing one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, Struct

from services.kit.values.currencies import CODES

MINOR_MAX = 10**15

if TYPE_CHECKING:
    Currency = str
else:  # one of the table: msgspec checks it wherever a document or a request becomes a struct
    Currency = Literal[CODES]


class Money(Struct, frozen=True):
    """12.30 CNY is `Money("CNY", 1230)`; shaped like `quanyu.common.v1.Money`."""

    currency: Currency
    minor: Annotated[int, Meta(ge=-MINOR_MAX, le=MINOR_MAX)] = 0


def allocate(total: int, weights: Sequence[int]) -> list[int]:
    """Shares `total` out in proportion to `weights` (none negative) by largest remainder: the shares sum to `total`.

    When `total` is at most the sum of the weights, no share is more than its weight. Equal remainders go to the earlier ones.
    ValueError when there is something to share and nobody to take it.
    """
    whole = sum(weights)
    if not whole:
        if total:
            raise ValueError("nothing to share it out to")
        return [0] * len(weights)
    shares = [total * weight // whole for weight in weights]
    remainders = sorted(range(len(weights)), key=lambda place: (-(total * weights[place] % whole), place))
    for place in remainders[: total - sum(shares)]:
        shares[place] += 1
    return shares
