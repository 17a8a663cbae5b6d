"""How often a person buys a brand, older purchases counting less, and the order of brands that follows from it.

D_ui = sum over the consumer's orders with the brand of 0.5^(age / 13 weeks). It is kept as one sum that needs no reading to grow
(forward decay: Cormode, Shkapenyuk, Srivastava, Xu, "Forward decay", ICDE 2009): an order adds 2^((paid - LANDMARK) / 13 weeks), and
the frequency at any moment is that sum times 2^-((moment - LANDMARK) / 13 weeks). Sums commute, so that events may come in any order.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import blake2b

from msgspec import Struct

HALF_LIFE = timedelta(weeks=13)
LANDMARK = datetime(2020, 1, 1, tzinfo=UTC)
LATEST = datetime(2200, 1, 1, tzinfo=UTC)
"""Half-lives until then fit a double (2^720); a later date counts as this one."""


class Interest(Struct, frozen=True):
    """What one consumer id bought of one brand: the forward-decayed sum, the number of orders, the last one."""

    weight: float = 0.0
    orders: int = 0
    last_at: datetime | None = None

    def __add__(self, other: "Interest") -> "Interest":
        lasts = [at for at in (self.last_at, other.last_at) if at is not None]
        return Interest(self.weight + other.weight, self.orders + other.orders, max(lasts, default=None))


class Purchase(Struct, frozen=True):
    """One order, as far as matching cares. Each brand in it counts once, however many lines it has."""

    consumer_id: str
    paid_at: datetime
    brand_ids: frozenset[str]


def gain(paid_at: datetime) -> float:
    """What an order adds to the weight of each of its brands."""
    weight: float = 2.0 ** ((min(paid_at, LATEST) - LANDMARK) / HALF_LIFE)
    return weight


def frequency(interest: Interest, at: datetime) -> float:
    """The decayed number of orders as of `at`."""
    decay: float = 2.0 ** -((min(at, LATEST) - LANDMARK) / HALF_LIFE)
    return interest.weight * decay


def gather(purchases: Iterable[Purchase]) -> dict[str, dict[str, Interest]]:
    """The purchases as increments: consumer id -> brand id -> what is to be added."""
    added: dict[str, dict[str, Interest]] = {}
    for purchase in purchases:
        brands = added.setdefault(purchase.consumer_id, {})
        for brand_id in purchase.brand_ids:
            brands[brand_id] = brands.get(brand_id, Interest()) + Interest(gain(purchase.paid_at), 1, purchase.paid_at)
    return added


def combine(views: Iterable[Mapping[str, Interest]]) -> dict[str, Interest]:
    """What a person bought under several ids."""
    together: dict[str, Interest] = {}
    for view in views:
        for brand_id, interest in view.items():
            together[brand_id] = together.get(brand_id, Interest()) + interest
    return together


def rank(brand_ids: Iterable[str], interests: Mapping[str, Interest], at: datetime, seed: str) -> list[str]:
    """The brands, those bought most often (decayed) first, then the new ones in an order that depends on `seed` alone."""

    def order(brand_id: str) -> tuple[float, bytes]:
        interest = interests.get(brand_id)
        return (-frequency(interest, at) if interest else 1.0), blake2b(f"{seed}|{brand_id}".encode(), digest_size=8).digest()

    return sorted(set(brand_ids), key=order)
