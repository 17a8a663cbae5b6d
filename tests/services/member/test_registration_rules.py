"""Registering people: nothing that was given is lost, and what stands is held by one person."""

from datetime import UTC, datetime
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from services.kit.errors import Refusal
from services.member.identity import rules
from services.member.identity.enums import IdentityKind
from services.member.identity.registration import Book, Entry, Given
from services.member.identity.rules import NewIdentity, Registration

AT = datetime(2026, 1, 1, tzinfo=UTC)
PHONES = [f"1381234000{digit}" for digit in range(4)]
IDENTITIES = st.one_of(
    st.builds(NewIdentity, kind=st.just(IdentityKind.PHONE), value=st.sampled_from(PHONES), verified=st.booleans()),
    st.builds(
        NewIdentity,
        kind=st.sampled_from([IdentityKind.CARD, IdentityKind.UNION_ID]),
        value=st.sampled_from("abc"),
        namespace=st.just("one"),
    ),
)
ENTRIES = st.lists(
    st.tuples(
        st.sampled_from(["brd_1", "brd_2"]),
        st.lists(IDENTITIES, min_size=1, max_size=3),
        st.sampled_from(["", "", "con_a", "con_b"]),
    ),
    max_size=12,
)


def hashed(identity: NewIdentity, brand_id: str) -> Given:
    claim = rules.claim(identity, brand_id)
    return Given(claim, [f"{claim.kind}:{claim.hashed}"], claim.value.encode())


def entered(book, entries, linking=False):
    """Enters what is not refused; what was given, per consumer that took it."""
    numbers = count()
    taken = []
    for brand_id, identities, named in entries:
        entry = Entry(Registration(identities, named), [hashed(one, brand_id) for one in identities])
        before = (dict(book.consumers), dict(book.identities), dict(book.standing))
        try:
            answer = book.enter(
                entry, brand_id, AT, everywhere=False, new_id=lambda prefix: f"{prefix}_{next(numbers):03}", linking=linking
            )
            taken.append((answer, brand_id, entry.given))
            if linking and named:
                assert answer.consumer_id == named
        except Refusal:
            assert before == (book.consumers, book.identities, book.standing)
    return taken


@given(ENTRIES)
def test_nothing_that_was_given_is_lost_and_what_stands_is_held_once(entries):
    book = Book([], [])
    for answer, brand_id, all_given in entered(book, entries):
        held = {identity.hash: identity for identity in book.identities.values() if identity.consumer_id == answer.consumer_id}
        for given_one in all_given:
            identity = held[given_one.hashes[0]]
            assert brand_id in identity.brand_ids
            assert identity.stands or not given_one.claim.stands
        assert brand_id in book.consumers[answer.person_id].known_to
    standing = [identity.hash for identity in book.identities.values() if identity.stands]
    assert len(standing) == len(set(standing))


@given(ENTRIES)
def test_entering_the_same_again_creates_nobody(entries):
    book = Book([], [])
    first = entered(book, entries)
    again = Book(book.consumers.values(), book.identities.values())
    for answer, brand_id, all_given in first:
        if not any(one.claim.stands for one in all_given):
            continue
        entry = Entry(Registration([]), all_given)
        repeated = again.enter(entry, brand_id, AT, everywhere=False, new_id=lambda prefix: f"{prefix}_new")
        assert (repeated.person_id, repeated.created) == (answer.person_id, False)
    assert again.identities.keys() == book.identities.keys()
    assert again.changed() == ([], [])


@given(ENTRIES)
def test_linking_keeps_every_id_and_mixes_nobody(entries):
    book = Book([], [])
    for answer, brand_id, all_given in entered(book, entries, linking=True):
        row = book.consumers[answer.consumer_id]
        assert (row.person_id, brand_id in row.brand_ids) == (book.consumers[answer.person_id].id, True)
        assert (answer.linked_to_id != "") == (answer.evidence != [])
        if answer.linked_to_id:
            assert row.linked_to_id == answer.linked_to_id
        for one in all_given:
            if one.claim.stands:
                holder = book.identities[book.standing[one.hashes[0]]].consumer_id
                assert book.consumers[holder].person_id == row.person_id
    for row in book.consumers.values():
        assert rules.person_of({one.id: one.linked_to_id for one in book.consumers.values()}, row.id) == row.person_id
