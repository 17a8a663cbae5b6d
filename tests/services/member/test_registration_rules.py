"""In-memory registration: no identity is lost, and an identifying identity belongs to one person."""

from datetime import UTC, datetime
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from services.kit.errors import Refusal
from services.member.identity import rules
from services.member.identity.enums import IdentityKind
from services.member.identity.registration import EncryptedIdentity, EncryptedRegistration, PersonRegistry
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


def encrypt(identity: NewIdentity, brand_id: str) -> EncryptedIdentity:
    normalized = rules.normalize(identity, brand_id)
    return EncryptedIdentity(normalized, [f"{normalized.kind}:{normalized.hash_input}"], normalized.value.encode())


def register_all(registry, entries, keeps_id=False):
    """Registers all entries; returns result, brand and identities of each entry that is not refused."""
    numbers = count()
    accepted = []
    for brand_id, new_identities, named_id in entries:
        entry = EncryptedRegistration(Registration(new_identities, named_id), [encrypt(one, brand_id) for one in new_identities])
        before = (dict(registry.consumers), dict(registry.identities), dict(registry.identifying))
        try:
            result = registry.register(
                entry, brand_id, AT, is_unrestricted=False, new_id=lambda prefix: f"{prefix}_{next(numbers):03}", keeps_id=keeps_id
            )
            accepted.append((result, brand_id, entry.identities))
            if keeps_id and named_id:
                assert result.consumer_id == named_id
        except Refusal:
            assert before == (registry.consumers, registry.identities, registry.identifying)
    return accepted


@given(ENTRIES)
def test_registration_keeps_identities_and_identifies_one_consumer(entries):
    registry = PersonRegistry([], [])
    for result, brand_id, identities in register_all(registry, entries):
        own = {identity.hash: identity for identity in registry.identities.values() if identity.consumer_id == result.consumer_id}
        for supplied in identities:
            identity = own[supplied.hashes[0]]
            assert brand_id in identity.brand_ids
            assert identity.stands or not supplied.identity.is_identifying
        assert brand_id in registry.consumers[result.person_id].known_to
    identifying = [identity.hash for identity in registry.identities.values() if identity.stands]
    assert len(identifying) == len(set(identifying))


@given(ENTRIES)
def test_repeated_registration_creates_no_consumer(entries):
    registry = PersonRegistry([], [])
    first = register_all(registry, entries)
    again = PersonRegistry(registry.consumers.values(), registry.identities.values())
    for result, brand_id, identities in first:
        if not any(one.identity.is_identifying for one in identities):
            continue
        entry = EncryptedRegistration(Registration([]), identities)
        repeated = again.register(entry, brand_id, AT, is_unrestricted=False, new_id=lambda prefix: f"{prefix}_new")
        assert (repeated.person_id, repeated.created) == (result.person_id, False)
    assert again.identities.keys() == registry.identities.keys()
    assert again.list_changes() == ([], [])


@given(ENTRIES)
def test_kept_ids_are_linked_to_the_right_person(entries):
    registry = PersonRegistry([], [])
    for result, brand_id, identities in register_all(registry, entries, keeps_id=True):
        consumer = registry.consumers[result.consumer_id]
        assert (consumer.person_id, brand_id in consumer.brand_ids) == (registry.consumers[result.person_id].id, True)
        assert (result.linked_to_id != "") == (result.evidence != [])
        if result.linked_to_id:
            assert consumer.linked_to_id == result.linked_to_id
        for one in identities:
            if one.identity.is_identifying:
                owner = registry.identities[registry.identifying[one.hashes[0]]].consumer_id
                assert registry.consumers[owner].person_id == consumer.person_id
    parents = {one.id: one.linked_to_id for one in registry.consumers.values()}
    for consumer in registry.consumers.values():
        assert rules.find_person(parents, consumer.id) == consumer.person_id
