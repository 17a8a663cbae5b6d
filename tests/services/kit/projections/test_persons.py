"""Persons are kept by events alone, and looked up many at once."""

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


async def tell(persons: PersonProjection, *words: str) -> None:
    """`a+b`: b was linked to a; `a-b`: that was undone. A minute lies between two words."""
    for word in words:
        at = NOW + timedelta(minutes=next(minutes))
        await persons.links.database.transact(partial(_tell, persons, word, at))


async def _tell(persons: PersonProjection, word: str, at: datetime, session: Session) -> None:
    unit = UnitOfWork(session, at, Outbox(persons.links.database, "member"))
    id, linked_id = word.split("+" if "+" in word else "-")
    if "+" in word:
        await persons.handle_consumer_linked(unit, events_pb2.Event(consumer_linked={"consumer_id": id, "linked_consumer_id": linked_id}))
    else:
        await persons.handle_consumer_unlinked(
            unit, events_pb2.Event(consumer_unlinked={"consumer_id": id, "linked_consumer_id": linked_id})
        )


def person(id: str, *others: str) -> Person:
    return Person(id, frozenset({id, *others}))


async def test_a_person_is_found_under_each_id_and_let_go_by_an_undoing(persons: PersonProjection) -> None:
    await tell(persons, "a+b", "c+a", "d+e")
    both, other = person("c", "a", "b"), person("d", "e")
    found = await persons.find_many(["a", "b", "c", "e", "stranger", "a"])
    assert found == {"a": both, "b": both, "c": both, "e": other, "stranger": person("stranger")}
    await tell(persons, "c-a")
    assert await persons.find_many(["a", "b", "c"]) == {"a": person("a", "b"), "b": person("a", "b"), "c": person("c")}
    assert await persons.find_many([]) == {}


async def test_links_may_come_in_the_order_of_their_keys(persons: PersonProjection) -> None:
    """C takes A before A is told to have taken B: keys are ordered each for itself only."""
    await tell(persons, "c+a", "a+b")
    assert (await persons.find("b")).id == "c"
    assert (await persons.find("c")).ids == {"a", "b", "c"}
