"""How often a person buys a brand, older purchases counting less, and the order of brands that follows from it.

D_ui = sum over the consumer's orders with the brand of 0.5^(age / 13 weeks). It is kept as one sum that needs no reading to grow
(forward decay: Cormode, Shkapenyuk, Srivastava, Xu, "Forward decay", ICDE 2009): an order adds 2^((paid - LANDMARK) / 13 weeks), and
the frequency at any moment is that sum times 2^-((moment - LANDMARK) / 13 weeks). Sums commute, so that facts may come in any order.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b

from msgspec import Struct

HALF_LIFE = timedelta(weeks=13)
LANDMARK = datetime(2020, 1, 1, tzinfo=UTC)
LATEST = datetime(2200, 1, 1, tzinfo=UTC)
"""Half-lives until then fit a double (2^720); a later date counts as this one."""
LINK_DEPTH_MAX = 1_000


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


class Link(Struct, frozen=True):
    """The newest word about a consumer id: whom it resolves to (None: itself), and since when."""

    id: str
    parent_id: str | None
    at: datetime


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


def relink(before: Link | None, fact: Link) -> Link:
    """What stands after a fact about a link: the newest word. An undoing only undoes the link it names, see `unlink`."""
    return fact if before is None or fact.at >= before.at else before


def unlink(before: Link | None, parent_id: str, fact: Link) -> Link:
    """What stands after a link to `parent_id` was undone: the id itself, unless it was linked elsewhere meanwhile."""
    if before is not None and before.parent_id not in (None, parent_id):
        return before
    return relink(before, fact)


def person_of(consumer_id: str, parents: Mapping[str, str]) -> str:
    """Whom a consumer id resolves to, by following the links; the id itself without one. A circle ends at its smallest id."""
    seen: list[str] = []
    current = consumer_id
    while current in parents and current not in seen and len(seen) < LINK_DEPTH_MAX:
        seen.append(current)
        current = parents[current]
    return min(seen[seen.index(current) :]) if current in seen else current


def ids_of(person_id: str, parents: Mapping[str, str]) -> Sequence[str]:
    """All ids that resolve to this person, the person's own first."""
    return [person_id, *sorted(id for id in parents if id != person_id and person_of(id, parents) == person_id)]
