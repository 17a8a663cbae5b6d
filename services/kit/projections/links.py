"""Which consumer ids are one person: links as events tell them, in whatever order those of different persons come."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from msgspec import Struct

LINK_DEPTH_MAX = 1_000


class Link(Struct, frozen=True):
    """The newest word about a consumer id: whom it resolves to (None: itself), and since when."""

    id: str
    parent_id: str | None
    at: datetime


def relink(before: Link | None, event: Link) -> Link:
    """What stands after an event about a link: the newest word. An undoing only undoes the link it names, see `unlink`."""
    return event if before is None or event.at >= before.at else before


def unlink(before: Link | None, parent_id: str, event: Link) -> Link:
    """What stands after a link to `parent_id` was undone: the id itself, unless it was linked elsewhere meanwhile."""
    if before is not None and before.parent_id not in (None, parent_id):
        return before
    return relink(before, event)


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
