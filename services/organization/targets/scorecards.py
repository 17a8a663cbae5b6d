"""Scorecards: counter documents, their cells, and the sums of a scorecard.

A counter document belongs to one subject (an org unit or a product brand) and one bucket (a month `2024-05` or a day `2024-05-31`).
Its cells are `cells.<currency>.<scenario>:<ONLINE|OFFLINE>.<store>.{o,i,m}`, with the numbers of orders, items and minor units.
An order is in exactly one cell of a document, so a sum over cells counts it once.
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
"""A scorecard covers at most this many days."""
STORES_MAX = 500
"""A scorecard lists at most this many stores, those with the highest amounts."""
NUMBERS = ("o", "i", "m")
"""The keys of a cell: orders, items, minor units."""


class Counter(Struct, frozen=True):
    """A counter document. Its `id` is "<subject>:<bucket>"."""

    id: str
    cells: dict[str, dict[str, dict[str, dict[str, int]]]]


Key = tuple[str, str]
"""The subject and the bucket of a counter document."""
Cells = dict[str, int]
"""The increments of one document, by dotted path."""


def count_cells(credits: Iterable[Credit]) -> dict[Key, Cells]:
    """Returns what these credits add to each counter document. For all stored credits, that is the content of the documents."""
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


def nest(cells: Cells) -> dict[str, Any]:
    """Returns the document that the increments would create."""
    document: dict[str, Any] = {}
    for path, value in cells.items():
        *parents, last = path.split(".")
        within = document
        for parent in parents:
            within = within.setdefault(parent, {})
        within[last] = value
    return document


def flatten(cells: Mapping[str, Mapping[str, Mapping[str, Mapping[str, int]]]]) -> Cells:
    """Returns the cells of a stored document as increments; the inverse of `nest`."""
    return {
        f"cells.{currency}.{cell}.{store}.{number}": value
        for currency, by_cell in cells.items()
        for cell, by_store in by_cell.items()
        for store, numbers in by_store.items()
        for number, value in numbers.items()
    }


def buckets(from_day: date, until_day: date) -> list[str]:
    """Returns the fewest buckets that cover a period, both days included: whole months as months, the rest as days."""
    if until_day < from_day or (until_day - from_day).days >= PERIOD_DAYS_MAX:
        message = f"`untilDay` must not be before `fromDay`, and the period has at most {PERIOD_DAYS_MAX} days. Choose another day."
        raise Invalid(Reason.INVALID_PERIOD, message, field="until_day")
    found, offset = [], 0
    while offset <= (until_day - from_day).days:
        day = from_day + timedelta(days=offset)
        length = monthrange(day.year, day.month)[1]
        if day.day == 1 and (until_day - day).days >= length - 1:
            found.append(day.isoformat()[:7])
            offset += length
        else:
            found.append(day.isoformat())
            offset += 1
    return found


def months(from_day: date, until_day: date) -> list[str]:
    """Returns the months that overlap a period."""
    return sorted({bucket[:7] for bucket in buckets(from_day, until_day)})


def parse_days(from_day: str, until_day: str) -> tuple[date, date]:
    """Returns two days as dates. `Invalid` if one is not a calendar day, or not written as YYYY-MM-DD."""
    return _parse_day("from_day", from_day), _parse_day("until_day", until_day)


def _parse_day(field: str, written: str) -> date:
    try:
        found = date.fromisoformat(written)
    except ValueError:
        found = None
    if found is None or found.isoformat() != written:
        message = "This is not a calendar day. Write it as YYYY-MM-DD, like 2024-05-31."
        raise Invalid(Reason.INVALID_PERIOD, message, field=field)
    return found


def choose_currency(requested: str, default: str) -> str:
    """Returns the requested currency, or the default if none is requested. `Invalid` if there is no such currency."""
    if requested and requested not in CODES:
        raise Invalid("INVALID_FIELD", "This is not a currency code. Use an ISO 4217 code, like CNY.", field="currency")
    return requested or default


class Sum(NamedTuple):
    """Numbers of orders and items, and an amount in minor units."""

    orders: int = 0
    items: int = 0
    minor: int = 0

    def plus(self, other: "Sum") -> "Sum":
        """Returns the sum of both."""
        return Sum(self.orders + other.orders, self.items + other.items, self.minor + other.minor)


class Cell(NamedTuple):
    """A cell of a counter document. No order is in two cells."""

    currency: str
    scenario: str
    taken: Taken
    store_id: str
    sum: Sum


def read_cells(documents: Iterable[Mapping[str, Mapping[str, Mapping[str, Mapping[str, int]]]]]) -> Iterator[Cell]:
    """Yields the cells of stored documents, given as their `cells` fields."""
    for document in documents:
        for currency, by_cell in document.items():
            for cell, by_store in by_cell.items():
                scenario, _, taken = cell.partition(":")
                for store, numbers in by_store.items():
                    yield Cell(
                        currency,
                        SCENARIO_PREFIX + scenario,
                        Taken(f"TAKEN_{taken}"),
                        store,
                        Sum(*(numbers.get(name, 0) for name in NUMBERS)),
                    )


class Split(Struct):
    """The sums of online and of offline orders."""

    online: Sum = Sum()
    offline: Sum = Sum()

    @property
    def total(self) -> Sum:
        """The sum of both; each order counts once."""
        return self.online.plus(self.offline)

    def add(self, cell: Cell) -> None:
        """Adds one cell."""
        if cell.taken is Taken.ONLINE:
            self.online = self.online.plus(cell.sum)
        else:
            self.offline = self.offline.plus(cell.sum)


class Tally(Struct, frozen=True):
    """The sums of a scorecard in one currency."""

    whole: Split
    by_scenario: dict[str, Split]
    by_store: dict[str, Split]
    other_currencies: list[str]


def tally(found: Iterable[Cell], currency: str) -> Tally:
    """Returns the sums of the cells in one currency, and the names of the other currencies."""
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


def ratio(actual: int, target: int) -> float | None:
    """Returns the attained part of a target: 1.0 if it is met, None if there is no target."""
    return actual / target if target else None
