"""Tests of links: consumer ids join a person and leave again."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.kit.projections import links
from services.kit.projections.links import Link

NOW = datetime(2026, 11, 22, 13, 40, tzinfo=UTC)
link_events = st.lists(st.tuples(st.booleans(), st.sampled_from("abcdef"), st.sampled_from("abcdef")), max_size=15)


@given(link_events)
def test_last_event_decides_each_link(events: list[tuple[bool, str, str]]) -> None:
    stored: dict[str, Link] = {}
    parents: dict[str, str] = {}
    for second, (is_link, parent, child) in enumerate(events):
        if parent == child:
            continue
        at = NOW + timedelta(seconds=second)
        if is_link:
            stored[child], parents[child] = links.relink(stored.get(child), Link(child, parent, at)), parent
        else:
            stored[child] = links.unlink(stored.get(child), parent, Link(child, None, at))
            if parents.get(child) == parent:
                del parents[child]
    assert {id: link.parent_id for id, link in stored.items() if link.parent_id} == parents
    all_ids = "abcdef"
    groups = {person: links.ids_of(person, parents) for person in {links.person_of(id, parents) for id in all_ids}}
    assert sorted(id for ids in groups.values() for id in ids) == sorted(all_ids)
    for person, ids in groups.items():
        assert {links.person_of(id, parents) for id in ids} == {person}


def test_late_event_does_not_replace_a_later_one() -> None:
    first, second = NOW, NOW + timedelta(seconds=1)
    newest = links.relink(None, Link("b", "c", second))
    assert links.relink(newest, Link("b", "a", first)).parent_id == "c"
    assert links.unlink(newest, "a", Link("b", None, first)).parent_id == "c"
