"""Consent rules: the latest consent counts."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.member.consent import rules
from services.member.consent.enums import Purpose
from services.member.consent.rules import Consent

START = datetime(2026, 1, 1, tzinfo=UTC)
CONSENTS = st.lists(
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
    unique_by=lambda consent: consent.word_id,
    max_size=12,
)


@given(CONSENTS, st.randoms())
def test_latest_consents_do_not_depend_on_order(consents, random):
    shuffled = random.sample(consents, len(consents))
    assert rules.select_latest(shuffled) == rules.select_latest(consents)


@given(CONSENTS)
def test_latest_consent_counts_for_each_brand_and_purpose(consents):
    latest = rules.select_latest(consents)
    for consent in consents:
        chosen = latest[consent.brand_id, consent.purpose]
        assert (chosen.at, chosen.word_id) >= (consent.at, consent.word_id)
    granted = {brand_id for (brand_id, purpose), consent in latest.items() if purpose is Purpose.OUTREACH and consent.granted}
    assert rules.filter_granted(consents, ["brd_2", "brd_1", "brd_3"], Purpose.OUTREACH) == [
        id for id in ["brd_2", "brd_1"] if id in granted
    ]
