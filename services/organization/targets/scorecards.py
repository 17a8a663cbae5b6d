"""What many orders come to: counter documents, the cells they hold, and the sums a scorecard shows.

A counter document stands for one subject (a unit or a product brand) and one bucket (a month `2024-05` or a day `2024-05-31`). Its cells:
`cells.<currency>.<scenario>:<ONLINE|OFFLINE>.<store>.{o,i,m}` with orders, items and minor units. An order lies in exactly one cell
of a document, so sums over cells never count it twice.
"""

from calendar import monthrange
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, timedelta
from typing import Any, NamedTuple

from msgspec import Struct

from services.kit.errors import Invalid
from services.kit.values.currencies import CODES
from services.organization.targets.enums import Reason, Taken
from services.organization.targets.rules import SCENARIO_PREFIX, Credit

PERIOD_DAYS_MAX = 366
STORES_MAX = 500
NUMBERS = ("o", "i", "m")
"""Orders, items, minor units."""


class Counter(Struct, frozen=True):
    """A counter document; `id` is "<subject>:<bucket>"."""

    id: str
    cells: dict[str, dict[str, dict[str, dict[str, int]]]]


Key = tuple[str, str]
"""A counter document: subject and bucket."""
Cells = dict[str, int]
"""`$inc` paths of one document."""


def counters(credits: Iterable[Credit]) -> dict[Key, Cells]:
    """What `credits` add to which counter documents; over all rows that are kept it is what the documents hold."""
    sums: dict[Key, Cells] = defaultdict(dict)
    for credit in credits:
        cell = f"cells.{credit.amount.currency}.{credit.scenario.removeprefix(SCENARIO_PREFIX)}:"
        cell += f"{'ONLINE' if credit.taken is Taken.ONLINE else 'OFFLINE'}.{credit.store_id}."
        for org_unit_id in credit.org_unit_ids:
            _add(sums, org_unit_id, credit.day, cell, credit.items, credit.amount.minor)
        for share in credit.brands:
            _add(sums, share.brand_id, share.day, cell, share.items, share.minor)
    return dict(sums)


def _add(sums: dict[Key, Cells], subject: str, day: str, cell: str, items: int, minor: int) -> None:
    orders_path, items_path, minor_path = cell + "o", cell + "i", cell + "m"
    for bucket in (day[:7], day):
        cells = sums[subject, bucket]
        cells[orders_path] = cells.get(orders_path, 0) + 1
        cells[items_path] = cells.get(items_path, 0) + items
        cells[minor_path] = cells.get(minor_path, 0) + minor


def nested(cells: Cells) -> dict[str, Any]:
    """The document that `$inc` paths make where there is none."""
    document: dict[str, Any] = {}
    for path, value in cells.items():
        *heads, last = path.split(".")
        within = document
        for head in heads:
            within = within.setdefault(head, {})
        within[last] = value
    return document


def paths(cells: Mapping[str, Mapping[str, Mapping[str, Mapping[str, int]]]]) -> Cells:
    """The cells of a stored document as the `$inc` paths that made them."""
    return {
        f"cells.{currency}.{cell}.{store}.{number}": value
        for currency, by_cell in cells.items()
        for cell, by_store in by_cell.items()
        for store, numbers in by_store.items()
        for number, value in numbers.items()
    }


def buckets(from_day: date, until_day: date) -> list[str]:
    """The fewest buckets that make up a period, both days included: whole months as months, the rest as days."""
    if until_day < from_day or (until_day - from_day).days >= PERIOD_DAYS_MAX:
        raise Invalid(Reason.INVALID_PERIOD, f"give two days in order, at most {PERIOD_DAYS_MAX} days", field="until_day")
    found, ahead = [], 0
    while ahead <= (until_day - from_day).days:
        day = from_day + timedelta(days=ahead)
        length = monthrange(day.year, day.month)[1]
        if day.day == 1 and (until_day - day).days >= length - 1:
            found.append(day.isoformat()[:7])
            ahead += length
        else:
            found.append(day.isoformat())
            ahead += 1
    return found


def months(from_day: date, until_day: date) -> list[str]:
    """The months a period touches."""
    return sorted({bucket[:7] for bucket in buckets(from_day, until_day)})


def days(from_day: str, until_day: str) -> tuple[date, date]:
    """Two days as dates; `Invalid` when they are none, or not written as buckets are."""
    return _day("from_day", from_day), _day("until_day", until_day)


def _day(field: str, written: str) -> date:
    try:
        found = date.fromisoformat(written)
    except ValueError:
        found = None
    if found is None or found.isoformat() != written:
        raise Invalid(Reason.INVALID_PERIOD, "days are written like 2024-05-31", field=field)
    return found


def currency(asked: str, own: str) -> str:
    """The currency to count in: the one asked for, else the tenant's own; `Invalid` when there is no such."""
    if asked and asked not in CODES:
        raise Invalid("INVALID_FIELD", f"{asked} is no currency of ISO 4217", field="currency")
    return asked or own


class Sum(NamedTuple):
    """Orders, items and minor units."""

    orders: int = 0
    items: int = 0
    minor: int = 0

    def plus(self, other: "Sum") -> "Sum":
        """Both together."""
        return Sum(self.orders + other.orders, self.items + other.items, self.minor + other.minor)


class Cell(NamedTuple):
    """A part of a scorecard that no order shares with another part."""

    currency: str
    scenario: str
    taken: Taken
    store_id: str
    sum: Sum


def cells(documents: Iterable[Mapping[str, Mapping[str, Mapping[str, Mapping[str, int]]]]]) -> Iterator[Cell]:
    """The cells of stored documents (each one's `cells`)."""
    for document in documents:
        for currency, by_cell in document.items():
            for cell, by_store in by_cell.items():
                scenario, _, where = cell.partition(":")
                for store, numbers in by_store.items():
                    yield Cell(
                        currency,
                        SCENARIO_PREFIX + scenario,
                        Taken(f"TAKEN_{where}"),
                        store,
                        Sum(*(numbers.get(name, 0) for name in NUMBERS)),
                    )


class Split(Struct):
    """A sum and its two parts; online and offline share no order."""

    online: Sum = Sum()
    offline: Sum = Sum()

    @property
    def total(self) -> Sum:
        """Every order once."""
        return self.online.plus(self.offline)

    def add(self, cell: Cell) -> None:
        """Takes one cell in."""
        if cell.taken is Taken.ONLINE:
            self.online = self.online.plus(cell.sum)
        else:
            self.offline = self.offline.plus(cell.sum)


class Tally(Struct, frozen=True):
    """What a scorecard shows, in one currency."""

    whole: Split
    by_scenario: dict[str, Split]
    by_store: dict[str, Split]
    other_currencies: list[str]


def tally(found: Iterable[Cell], currency: str) -> Tally:
    """Sums the cells of one currency; the names of the others are kept."""
    whole = Split()
    by_scenario: dict[str, Split] = defaultdict(Split)
    by_store: dict[str, Split] = defaultdict(Split)
    others: set[str] = set()
    for cell in found:
        if cell.currency != currency:
            others.add(cell.currency)
            continue
        for split in (whole, by_scenario[cell.scenario], by_store[cell.store_id]):
            split.add(cell)
    return Tally(whole, dict(by_scenario), dict(by_store), sorted(others))


def ratio(reached: int, aimed: int) -> float | None:
    """How much of a target is reached; 1.0 is met; None without a target."""
    return reached / aimed if aimed else None
