"""The newest word counts."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.member.consent import rules
from services.member.consent.enums import Purpose
from services.member.consent.rules import Consent

START = datetime(2026, 1, 1, tzinfo=UTC)
WORDS = st.lists(
    st.builds(
        Consent,
        id=st.just(""),
        word_id=st.integers(0, 10**9).map(lambda number: f"cns_{number:010}"),
        consumer_id=st.sampled_from(["con_a", "con_b"]),
        brand_id=st.sampled_from(["brd_1", "brd_2"]),
        purpose=st.sampled_from(Purpose),
        granted=st.booleans(),
        at=st.integers(0, 5).map(lambda days: START + timedelta(days=days)),
        recorded_by=st.just("me"),
    ),
    unique_by=lambda word: word.word_id,
    max_size=12,
)


@given(WORDS, st.randoms())
def test_the_order_in_which_words_arrive_does_not_matter(words, random):
    shuffled = random.sample(words, len(words))
    assert rules.newest(shuffled) == rules.newest(words)


@given(WORDS)
def test_what_stands_is_the_last_word_in_time(words):
    stands = rules.newest(words)
    for word in words:
        standing = stands[word.brand_id, word.purpose]
        assert (standing.at, standing.word_id) >= (word.at, word.word_id)
    yes = {brand_id for (brand_id, purpose), word in stands.items() if purpose is Purpose.OUTREACH and word.granted}
    assert rules.granted(words, ["brd_2", "brd_1", "brd_3"], Purpose.OUTREACH) == [id for id in ["brd_2", "brd_1"] if id in yes]
