"""Rules of matching: how often a person buys a brand, with older purchases decayed, and the order of brands that follows.

D_ui = sum over the consumer's orders with the brand of 0.5^(age / 13 weeks). It is stored as one sum that grows without a read
(forward decay: Cormode, Shkapenyuk, Srivastava, Xu, "Forward decay", ICDE 2009): an order adds 2^((paid - LANDMARK) / 13 weeks), and
the frequency at any moment is that sum times 2^-((moment - LANDMARK) / 13 weeks). Sums commute, so that events may arrive in any order.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import blake2b

from msgspec import Struct

HALF_LIFE = timedelta(weeks=13)
"""The weight of a purchase halves within this time."""
LANDMARK = datetime(2020, 1, 1, tzinfo=UTC)
"""Forward decay measures ages from this moment; stored sums depend on it."""
LATEST_AT = datetime(2200, 1, 1, tzinfo=UTC)
"""A later date counts as this one: the weight of this date, 2^720, still fits a double."""


class Affinity(Struct, frozen=True):
    """The purchases of one consumer id from one brand: the forward-decayed sum, the number of orders, and the latest time."""

    weight: float = 0.0
    orders: int = 0
    last_at: datetime | None = None

    def __add__(self, other: "Affinity") -> "Affinity":
        times = [at for at in (self.last_at, other.last_at) if at is not None]
        return Affinity(self.weight + other.weight, self.orders + other.orders, max(times, default=None))


class Purchase(Struct, frozen=True):
    """The fields of an order that matching needs. Each brand counts once, whatever its number of lines."""

    consumer_id: str
    paid_at: datetime
    brand_ids: frozenset[str]


def compute_weight(paid_at: datetime) -> float:
    """Returns the weight that an order adds to each of its brands."""
    weight: float = 2.0 ** ((min(paid_at, LATEST_AT) - LANDMARK) / HALF_LIFE)
    return weight


def compute_frequency(affinity: Affinity, at: datetime) -> float:
    """Returns the decayed number of orders as of `at`."""
    decay: float = 2.0 ** -((min(at, LATEST_AT) - LANDMARK) / HALF_LIFE)
    return affinity.weight * decay


def sum_by_consumer(purchases: Iterable[Purchase]) -> dict[str, dict[str, Affinity]]:
    """Returns the purchases as increments, by consumer id and brand id."""
    added: dict[str, dict[str, Affinity]] = {}
    for purchase in purchases:
        brands = added.setdefault(purchase.consumer_id, {})
        for brand_id in purchase.brand_ids:
            brands[brand_id] = brands.get(brand_id, Affinity()) + Affinity(compute_weight(purchase.paid_at), 1, purchase.paid_at)
    return added


def combine(views: Iterable[Mapping[str, Affinity]]) -> dict[str, Affinity]:
    """Returns the affinities of a person, summed over the views of several consumer ids."""
    combined: dict[str, Affinity] = {}
    for view in views:
        for brand_id, affinity in view.items():
            combined[brand_id] = combined.get(brand_id, Affinity()) + affinity
    return combined


def rank(brand_ids: Iterable[str], affinities: Mapping[str, Affinity], at: datetime, seed: str) -> list[str]:
    """Returns the brands by decayed frequency, then the new brands in an order that depends on `seed` alone."""

    def sort_key(brand_id: str) -> tuple[float, bytes]:
        affinity = affinities.get(brand_id)
        return (-compute_frequency(affinity, at) if affinity else 1.0), blake2b(f"{seed}|{brand_id}".encode(), digest_size=8).digest()

    return sorted(set(brand_ids), key=sort_key)
