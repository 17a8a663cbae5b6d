"""Links between consumer ids: which ids are one person. Events of different persons may arrive in any order."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from msgspec import Struct

LINK_DEPTH_MAX = 1_000
"""A person is found over at most this many links."""


class Link(Struct, frozen=True):
    """The latest link of a consumer id: the id that it resolves to (None for itself), and the time of the link."""

    id: str
    parent_id: str | None
    at: datetime


def relink(before: Link | None, event: Link) -> Link:
    """Returns the link after an event: the later one of both."""
    return event if before is None or event.at >= before.at else before


def unlink(before: Link | None, parent_id: str, event: Link) -> Link:
    """Returns the link after the removal of a link to `parent_id`. A link to another id is kept."""
    if before is not None and before.parent_id not in (None, parent_id):
        return before
    return relink(before, event)


def person_of(consumer_id: str, parents: Mapping[str, str]) -> str:
    """Returns the person of a consumer id by following the links; the id itself without one, the smallest id in a cycle."""
    path: list[str] = []
    current = consumer_id
    while current in parents and current not in path and len(path) < LINK_DEPTH_MAX:
        path.append(current)
        current = parents[current]
    return min(path[path.index(current) :]) if current in path else current


def ids_of(person_id: str, parents: Mapping[str, str]) -> Sequence[str]:
    """Returns all ids that resolve to this person, the person's own first."""
    return [person_id, *sorted(id for id in parents if id != person_id and person_of(id, parents) == person_id)]
