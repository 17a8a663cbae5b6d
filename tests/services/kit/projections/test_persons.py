"""Tests of the person projection: events maintain it, and one query finds many persons."""

from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count

import pytest

from quanyu.events.v1 import events_pb2
from services.kit.mongo.client import Database, Session
from services.kit.projections.persons import Person, PersonProjection
from services.kit.transactions.outbox import Outbox
from services.kit.transactions.unit_of_work import UnitOfWork

NOW = datetime(2026, 11, 22, 13, 40, tzinfo=UTC)
minutes = count()


@pytest.fixture
async def persons(database: Database) -> PersonProjection:
    persons = PersonProjection(database)
    await persons.links.prepare()
    return persons


async def apply_links(persons: PersonProjection, *links: str) -> None:
    """Applies events one minute apart: `a+b` links b to a, `a-b` removes that link."""
    for link in links:
        at = NOW + timedelta(minutes=next(minutes))
        await persons.links.database.transact(partial(_apply, persons, link, at))


async def _apply(persons: PersonProjection, link: str, at: datetime, session: Session) -> None:
    uow = UnitOfWork(session, at, Outbox(persons.links.database, "member"))
    id, linked_id = link.split("+" if "+" in link else "-")
    if "+" in link:
        await persons.handle_consumer_linked(uow, events_pb2.Event(consumer_linked={"consumer_id": id, "linked_consumer_id": linked_id}))
    else:
        await persons.handle_consumer_unlinked(
            uow, events_pb2.Event(consumer_unlinked={"consumer_id": id, "linked_consumer_id": linked_id})
        )


def person(id: str, *others: str) -> Person:
    return Person(id, frozenset({id, *others}))


async def test_person_is_found_by_each_linked_id(persons: PersonProjection) -> None:
    await apply_links(persons, "a+b", "c+a", "d+e")
    both, other = person("c", "a", "b"), person("d", "e")
    found = await persons.find_many(["a", "b", "c", "e", "stranger", "a"])
    assert found == {"a": both, "b": both, "c": both, "e": other, "stranger": person("stranger")}
    await apply_links(persons, "c-a")
    assert await persons.find_many(["a", "b", "c"]) == {"a": person("a", "b"), "b": person("a", "b"), "c": person("c")}
    assert await persons.find_many([]) == {}


async def test_links_of_different_keys_may_arrive_unordered(persons: PersonProjection) -> None:
    """The event c+a may arrive before a+b, since only events of one key are ordered."""
    await apply_links(persons, "c+a", "a+b")
    assert (await persons.find("b")).id == "c"
    assert (await persons.find("c")).ids == {"a", "b", "c"}
