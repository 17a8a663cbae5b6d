"""Identity rules: the algebra of links, the canonical form of identities, and visibility."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.errors import Conflict, Denied, Invalid, Refusal
from services.member.identity import rules
from services.member.identity.enums import IdentityKind
from services.member.identity.rules import BoundGuide, Consumer, NewIdentity, Profile

IDS = [f"con_{letter}" for letter in "abcdefg"]
AT = datetime(2026, 1, 1, tzinfo=UTC)
STEPS = st.lists(st.tuples(st.sampled_from(["link", "unlink"]), st.sampled_from(IDS), st.sampled_from(IDS)), max_size=40)


def apply_steps(steps: list[tuple[str, str, str]]) -> tuple[dict[str, str | None], set[tuple[str, str]]]:
    """Returns the forest after the steps that are not refused, and the set of links that remain."""
    parents: dict[str, str | None] = dict.fromkeys(IDS)
    links: set[tuple[str, str]] = set()
    for verb, id, other in steps:
        try:
            parents = rules.link(parents, id, other) if verb == "link" else rules.unlink(parents, id, other)
        except Refusal:
            continue
        (links.add if verb == "link" else links.remove)((id, other))
    return parents, links


def connected(links: set[tuple[str, str]]) -> dict[str, frozenset[str]]:
    """Returns the equivalence classes of these links, by brute force."""
    groups = {id: {id} for id in IDS}
    for left, right in links:
        merged = groups[left] | groups[right]
        for id in merged:
            groups[id] = merged
    return {id: frozenset(group) for id, group in groups.items()}


@given(STEPS)
def test_person_is_what_its_links_connect(steps):
    parents, links = apply_steps(steps)
    classes = connected(links)
    people = {id: rules.find_person(parents, id) for id in IDS}
    for left in IDS:
        assert people[left] in classes[left]
        for right in IDS:
            assert (people[left] == people[right]) == (right in classes[left])


@given(STEPS, st.sampled_from(IDS), st.sampled_from(IDS))
def test_undoing_a_link_restores_the_forest(steps, id, other):
    parents, _ = apply_steps(steps)
    try:
        after = rules.link(parents, id, other)
    except Conflict:
        return
    assert rules.unlink(after, id, other) == parents


@given(STEPS, STEPS)
def test_undoing_one_link_keeps_the_others(steps, later):
    """Consumers that were linked after a mistaken link stay linked when that one is undone."""
    parents, links = apply_steps([*steps, *later])
    for id, other in links:
        cut = rules.unlink(parents, id, other)
        assert connected(links - {(id, other)}) == connected({(parent, child) for child, parent in cut.items() if parent})


@given(STEPS, st.data())
def test_consumers_of_a_person_share_derived_fields(steps, data):
    parents, _ = apply_steps(steps)
    brands = st.lists(st.sampled_from(["brd_1", "brd_2", "brd_3"]), unique=True, max_size=3)
    consumers = [Consumer(id=id, person_id=id, created_at=AT, brand_ids=data.draw(brands), met_ids=data.draw(brands)) for id in IDS]
    after = rules.derive_shared_fields(consumers, parents)
    for before, consumer in zip(consumers, after, strict=True):
        assert (consumer.brand_ids, consumer.met_ids, consumer.bound, consumer.profiles) == (
            before.brand_ids,
            before.met_ids,
            before.bound,
            before.profiles,
        )
        members = [other for other in after if other.person_id == consumer.person_id]
        assert set(consumer.known_to) == {brand for member in members for brand in (*member.brand_ids, *member.met_ids)}
    assert rules.derive_shared_fields(after, dict.fromkeys(IDS)) == rules.derive_shared_fields(consumers)


def test_link_of_linked_consumer_names_its_parent():
    with pytest.raises(Conflict) as refused:
        rules.link({"con_a": None, "con_b": "con_c", "con_c": None}, "con_a", "con_b")
    assert (refused.value.reason, refused.value.metadata["consumer_id"]) == ("ALREADY_LINKED", "con_c")


def test_brand_links_only_consumers_it_registered():
    consumers = [Consumer("con_a", "con_a", AT, brand_ids=["brd_1"]), Consumer("con_b", "con_b", AT, brand_ids=["brd_2"])]
    with pytest.raises(Denied, match="LINK_NOT_YOURS"):
        rules.check_link_authority(consumers, {"brd_1"}.__contains__)
    rules.check_link_authority(consumers, {"brd_1", "brd_2"}.__contains__)


@pytest.mark.parametrize("written", ["13812341234", "138 1234 1234", "+86 138-1234-1234", "0086 13812341234"])
def test_phone_numbers_have_one_canonical_form(written):
    normalized = rules.normalize(NewIdentity(IdentityKind.PHONE, written, verified=True), "brd_1")
    assert (normalized.value, normalized.is_identifying) == ("+8613812341234", True)
    assert normalized == rules.normalize(NewIdentity(IdentityKind.PHONE, "13812341234", verified=True), "brd_2")


@pytest.mark.parametrize("written", ["", "12", "no phone", "+86 1", "1381234123412341234"])
def test_impossible_phone_number_is_refused(written):
    with pytest.raises(Invalid, match="INVALID_PHONE") as refused:
        rules.normalize(NewIdentity(IdentityKind.PHONE, written), "brd_1")
    assert refused.value.metadata["field"] == "value"


@given(st.sampled_from(list(IdentityKind)), st.text(min_size=1, max_size=20).filter(str.strip), st.booleans())
def test_only_cross_brand_kinds_hash_equally_across_brands(kind, value, verified):
    if kind is IdentityKind.PHONE:
        value = "13812341234"
    mine, theirs = (rules.normalize(NewIdentity(kind, value, "app", verified), brand) for brand in ("brd_1", "brd_2"))
    assert (mine.hash_input == theirs.hash_input) == (kind in rules.CROSS_BRAND_KINDS)
    assert mine.is_identifying == (verified or kind is not IdentityKind.PHONE)


@given(st.sampled_from(list(IdentityKind)), st.text(min_size=1, max_size=60))
def test_mask_shows_at_most_seven_characters(kind, value):
    assert sum(character != "*" for character in rules.mask(kind, value)) <= 7
    assert value not in rules.mask(kind, value) or set(value) == {"*"}


def test_mask_of_phone_shows_both_ends():
    assert rules.mask(IdentityKind.PHONE, "+8613812341234") == "138****1234"
    assert rules.format_value(IdentityKind.PHONE, "+8613812341234") == "13812341234"


def test_owner_of_different_peoples_identities_is_refused():
    people = {"con_a": "con_a", "con_b": "con_a", "con_c": "con_c"}
    for is_unrestricted, details in ((True, {"consumer_ids": "['con_b', 'con_c']"}), (False, {})):
        assert rules.find_owner("", [], people, is_unrestricted=is_unrestricted) is None
        assert rules.find_owner("con_new", [], people, is_unrestricted=is_unrestricted) is None
        assert rules.find_owner("", ["con_b", "con_a"], people, is_unrestricted=is_unrestricted) == "con_b"
        with pytest.raises(Conflict, match="IDENTITIES_DISAGREE") as refused:
            rules.find_owner("con_c", ["con_b"], people, is_unrestricted=is_unrestricted)
        assert refused.value.metadata == details


def test_profile_is_visible_to_brand_guides_and_consumer():
    consumer = Consumer(
        "con_a", "con_a", AT, bound=[BoundGuide("brd_2", "stf_1", "str_1")],
        profiles=[Profile("brd_1", b"Li", {"shirt": "40"}), Profile("brd_2", b"Lisa", {"shoe": "38"})],
    )  # fmt: skip
    nothing = {"is_unrestricted": False, "consumers": [], "brands": [], "stores": [], "staff": []}

    def visible_profile(**reach):
        return rules.merge_visible_profiles([consumer], rules.build_viewer([consumer], **(nothing | reach)), "con_a")

    assert visible_profile() == Profile("")
    assert visible_profile(brands=["brd_1"]) == Profile("", b"Li", {"shirt": "40"})
    assert visible_profile(staff=["stf_1"]) == visible_profile(stores=["str_1"]) == Profile("", b"Lisa", {"shoe": "38"})
    assert visible_profile(staff=["stf_2"], stores=["str_2"]) == Profile("")
    assert (
        visible_profile(consumers=["con_a"]) == visible_profile(is_unrestricted=True) == Profile("", b"Lisa", {"shirt": "40", "shoe": "38"})
    )
