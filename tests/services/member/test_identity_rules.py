"""The algebra of links, and what an identity is in its one usual writing."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.errors import Conflict, Denied, Invalid, Refusal
from services.member.identity import rules
from services.member.identity.enums import IdentityKind
from services.member.identity.rules import Consumer, NewIdentity, Profile, Served

IDS = [f"con_{letter}" for letter in "abcdefg"]
AT = datetime(2026, 1, 1, tzinfo=UTC)
STEPS = st.lists(st.tuples(st.sampled_from(["link", "unlink"]), st.sampled_from(IDS), st.sampled_from(IDS)), max_size=40)


def played(steps: list[tuple[str, str, str]]) -> tuple[dict[str, str | None], set[tuple[str, str]]]:
    """The forest after the steps that were not refused, and the links that stand by a plain book of them."""
    parents: dict[str, str | None] = dict.fromkeys(IDS)
    standing: set[tuple[str, str]] = set()
    for verb, id, other in steps:
        try:
            parents = rules.link(parents, id, other) if verb == "link" else rules.unlink(parents, id, other)
        except Refusal:
            continue
        (standing.add if verb == "link" else standing.remove)((id, other))
    return parents, standing


def connected(standing: set[tuple[str, str]]) -> dict[str, frozenset[str]]:
    """The equivalence classes of the links that stand, by brute force."""
    groups = {id: {id} for id in IDS}
    for left, right in standing:
        merged = groups[left] | groups[right]
        for id in merged:
            groups[id] = merged
    return {id: frozenset(group) for id, group in groups.items()}


@given(STEPS)
def test_one_person_is_exactly_what_standing_links_connect(steps):
    parents, standing = played(steps)
    classes = connected(standing)
    people = {id: rules.person_of(parents, id) for id in IDS}
    for left in IDS:
        assert people[left] in classes[left]
        for right in IDS:
            assert (people[left] == people[right]) == (right in classes[left])


@given(STEPS, st.sampled_from(IDS), st.sampled_from(IDS))
def test_undoing_a_link_restores_everything(steps, id, other):
    parents, _ = played(steps)
    try:
        after = rules.link(parents, id, other)
    except Conflict:
        return
    assert rules.unlink(after, id, other) == parents


@given(STEPS, STEPS)
def test_undoing_one_link_leaves_the_others(steps, later):
    """Whatever was linked after the mistaken link stays linked when that one is cut."""
    parents, standing = played([*steps, *later])
    for id, other in standing:
        cut = rules.unlink(parents, id, other)
        assert connected(standing - {(id, other)}) == connected({(parent, child) for child, parent in cut.items() if parent})


@given(STEPS, st.data())
def test_rows_of_a_person_share_what_each_owns_and_keep_it(steps, data):
    parents, _ = played(steps)
    brands = st.lists(st.sampled_from(["brd_1", "brd_2", "brd_3"]), unique=True, max_size=3)
    rows = [Consumer(id=id, person_id=id, created_at=AT, brand_ids=data.draw(brands), met_ids=data.draw(brands)) for id in IDS]
    after = rules.arranged(rows, parents)
    for before, row in zip(rows, after, strict=True):
        assert (row.brand_ids, row.met_ids, row.bound, row.profiles) == (before.brand_ids, before.met_ids, before.bound, before.profiles)
        members = [other for other in after if other.person_id == row.person_id]
        assert set(row.known_to) == {brand for member in members for brand in (*member.brand_ids, *member.met_ids)}
    assert rules.arranged(after, dict.fromkeys(IDS)) == rules.arranged(rows)


def test_a_link_to_somebody_linked_elsewhere_names_whom():
    with pytest.raises(Conflict) as refused:
        rules.link({"con_a": None, "con_b": "con_c", "con_c": None}, "con_a", "con_b")
    assert (refused.value.reason, refused.value.metadata["consumer_id"]) == ("ALREADY_LINKED", "con_c")


def test_a_brand_links_only_whom_it_registered():
    rows = [Consumer("con_a", "con_a", AT, brand_ids=["brd_1"]), Consumer("con_b", "con_b", AT, brand_ids=["brd_2"])]
    with pytest.raises(Denied, match="LINK_NOT_YOURS"):
        rules.may_link(rows, {"brd_1"}.__contains__)
    rules.may_link(rows, {"brd_1", "brd_2"}.__contains__)


@pytest.mark.parametrize("written", ["13812341234", "138 1234 1234", "+86 138-1234-1234", "0086 13812341234"])
def test_a_phone_has_one_writing(written):
    claim = rules.claim(NewIdentity(IdentityKind.PHONE, written, verified=True), "brd_1")
    assert (claim.value, claim.stands) == ("+8613812341234", True)
    assert claim == rules.claim(NewIdentity(IdentityKind.PHONE, "13812341234", verified=True), "brd_2")


@pytest.mark.parametrize("written", ["", "12", "no phone", "+86 1", "1381234123412341234"])
def test_what_cannot_be_a_phone_is_refused(written):
    with pytest.raises(Invalid, match="INVALID_PHONE") as refused:
        rules.claim(NewIdentity(IdentityKind.PHONE, written), "brd_1")
    assert refused.value.metadata["field"] == "value"


@given(st.sampled_from(list(IdentityKind)), st.text(min_size=1, max_size=20).filter(str.strip), st.booleans())
def test_only_phone_union_id_and_oidc_subject_mean_the_same_to_every_brand(kind, value, verified):
    if kind is IdentityKind.PHONE:
        value = "13812341234"
    mine, theirs = (rules.claim(NewIdentity(kind, value, "app", verified), brand) for brand in ("brd_1", "brd_2"))
    assert (mine.hashed == theirs.hashed) == (kind in rules.ACROSS_BRANDS)
    assert mine.stands == (verified or kind is not IdentityKind.PHONE)


@given(st.sampled_from(list(IdentityKind)), st.text(min_size=1, max_size=60))
def test_a_mask_shows_at_most_seven_characters(kind, value):
    assert sum(character != "*" for character in rules.masked(kind, value)) <= 7
    assert value not in rules.masked(kind, value) or set(value) == {"*"}


def test_the_mask_of_a_phone():
    assert rules.masked(IdentityKind.PHONE, "+8613812341234") == "138****1234"
    assert rules.whole(IdentityKind.PHONE, "+8613812341234") == "13812341234"


def test_identities_of_different_people_disagree():
    people = {"con_a": "con_a", "con_b": "con_a", "con_c": "con_c"}
    for everywhere, told in ((True, {"consumer_ids": "['con_b', 'con_c']"}), (False, {})):
        assert rules.holder("", [], people, everywhere=everywhere) is None
        assert rules.holder("con_new", [], people, everywhere=everywhere) is None
        assert rules.holder("", ["con_b", "con_a"], people, everywhere=everywhere) == "con_b"
        with pytest.raises(Conflict, match="IDENTITIES_DISAGREE") as refused:
            rules.holder("con_c", ["con_b"], people, everywhere=everywhere)
        assert refused.value.metadata == told


def test_a_profile_is_seen_by_its_brand_its_guides_and_the_consumer():
    row = Consumer(
        "con_a", "con_a", AT, bound=[Served("brd_2", "stf_1", "str_1")],
        profiles=[Profile("brd_1", b"Li", {"shirt": "40"}), Profile("brd_2", b"Lisa", {"shoe": "38"})],
    )  # fmt: skip
    nothing = {"everywhere": False, "consumers": [], "brands": [], "stores": [], "staff": []}

    def seen(**reach):
        return rules.seen_profile([row], rules.viewer([row], **(nothing | reach)), "con_a")

    assert seen() == Profile("")
    assert seen(brands=["brd_1"]) == Profile("", b"Li", {"shirt": "40"})
    assert seen(staff=["stf_1"]) == seen(stores=["str_1"]) == Profile("", b"Lisa", {"shoe": "38"})
    assert seen(staff=["stf_2"], stores=["str_2"]) == Profile("")
    assert seen(consumers=["con_a"]) == seen(everywhere=True) == Profile("", b"Lisa", {"shirt": "40", "shoe": "38"})
