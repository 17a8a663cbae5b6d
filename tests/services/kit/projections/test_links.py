"""Links gather a person's consumer ids and let go of them again."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.kit.projections import links
from services.kit.projections.links import Link

NOW = datetime(2026, 11, 22, 13, 40, tzinfo=UTC)
words_of = st.lists(st.tuples(st.booleans(), st.sampled_from("abcdef"), st.sampled_from("abcdef")), max_size=15)


@given(words_of)
def test_linking_and_unlinking_leaves_what_the_last_words_say(words: list[tuple[bool, str, str]]) -> None:
    rows: dict[str, Link] = {}
    said: dict[str, str] = {}
    for second, (linking, parent, child) in enumerate(words):
        if parent == child:
            continue
        at = NOW + timedelta(seconds=second)
        if linking:
            rows[child], said[child] = links.relink(rows.get(child), Link(child, parent, at)), parent
        else:
            rows[child] = links.unlink(rows.get(child), parent, Link(child, None, at))
            if said.get(child) == parent:
                del said[child]
    assert {id: row.parent_id for id, row in rows.items() if row.parent_id} == said
    everyone = "abcdef"
    groups = {person: links.ids_of(person, said) for person in {links.person_of(id, said) for id in everyone}}
    assert sorted(id for ids in groups.values() for id in ids) == sorted(everyone)
    for person, ids in groups.items():
        assert {links.person_of(id, said) for id in ids} == {person}


def test_words_that_come_late_do_not_undo_newer_ones() -> None:
    first, second = NOW, NOW + timedelta(seconds=1)
    newest = links.relink(None, Link("b", "c", second))
    assert links.relink(newest, Link("b", "a", first)).parent_id == "c"
    assert links.unlink(newest, "a", Link("b", None, first)).parent_id == "c"
