"""The scenario of an order: the first rule whose condition is met decides, and names the event."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from services.commerce.orders import scenario
from services.commerce.orders.scenario import RULES, GuideMessage, Situation, Visit, derive
from services.kit.enums import Scenario, Touchpoint

NOW = datetime(2026, 11, 20, 13, 40, tzinfo=UTC)
HOURS = st.integers(-60, 60).map(lambda hours: NOW + timedelta(hours=hours))
VISITS = st.builds(
    Visit,
    id=st.just("con_a"),
    visit_id=st.just("vis_a"),
    entered_at=st.none() | HOURS,
    left_at=st.none() | HOURS,
    reached=st.dictionaries(st.sampled_from(["brd_a", "brd_b"]), st.builds(GuideMessage, st.just("out_a"), HOURS)),
)
SITUATIONS = st.builds(
    Situation,
    at=st.just(NOW),
    touchpoint=st.sampled_from(Touchpoint),
    needed_by=st.none() | HOURS,
    hint=st.sampled_from(Scenario),
    visit=st.none() | VISITS,
    brand_ids=st.frozensets(st.sampled_from(["brd_a", "brd_b"])),
)


@given(SITUATIONS)
def test_first_matching_rule_decides(situation: Situation) -> None:
    derived, basis = derive(situation)
    rule = next(rule for rule in RULES.rules if rule.name == basis.rule)
    assert derived is rule.scenario
    assert basis.rules_version == RULES.version
    earlier = RULES.rules[: RULES.rules.index(rule)]
    assert all(scenario.CONDITIONS[other.condition](other, situation) is None for other in earlier)


@given(SITUATIONS, st.integers(0, 6))
def test_need_within_hours_is_always_urgent(situation: Situation, hours: int) -> None:
    urgent = replace(situation, needed_by=NOW + timedelta(hours=hours))
    assert derive(urgent)[0] is Scenario.URGENT_NEED


@given(SITUATIONS)
def test_hint_never_overrides_facts(situation: Situation) -> None:
    without, _ = derive(replace(situation, hint=Scenario.UNSPECIFIED))
    if without is not Scenario.AT_HOME:
        assert derive(situation)[0] is without


def ago(hours: float) -> datetime:
    return NOW - timedelta(hours=hours)


def message_sent(hours: float, left: float = 2, brand_ids: frozenset[str] = frozenset({"brd_a", "brd_b"})) -> Situation:
    """Returns the situation of a consumer who left the district and got a message from a guide of brd_a, both hours ago."""
    visit = Visit("con_a", "vis_a", ago(left + 1), ago(left), {"brd_a": GuideMessage("out_a", ago(hours))})
    return Situation(NOW, visit=visit, brand_ids=brand_ids)


@pytest.mark.parametrize(
    ("situation", "derived", "rule", "evidence"),
    [
        (Situation(NOW, visit=Visit("con_a", "vis_a", ago(1))), Scenario.DISTRICT_VISIT, "visit_open", "vis_a"),
        (Situation(NOW, visit=Visit("con_a", "vis_a", ago(25))), Scenario.AT_HOME, "otherwise", ""),
        (message_sent(1), Scenario.OFF_STORE, "reached_after_visit", "out_a"),
        (message_sent(2.5), Scenario.AT_HOME, "otherwise", ""),
        (message_sent(1, left=25), Scenario.AT_HOME, "otherwise", ""),
        (message_sent(1, brand_ids=frozenset({"brd_b", "brd_c"})), Scenario.AT_HOME, "otherwise", ""),
        (Situation(NOW, Touchpoint.STORE), Scenario.IN_STORE, "in_store", ""),
        (Situation(NOW, Touchpoint.LIVE), Scenario.DISCOVERY, "looking_around", ""),
        (Situation(NOW, Touchpoint.APP, hint=Scenario.DISCOVERY), Scenario.DISCOVERY, "looking_around", ""),
        (Situation(NOW, Touchpoint.APP, hint=Scenario.IN_STORE), Scenario.AT_HOME, "otherwise", ""),
    ],
)
def test_scenario_names_the_deciding_event(situation: Situation, derived: Scenario, rule: str, evidence: str) -> None:
    found, basis = derive(situation)
    assert (found, basis.rule, basis.evidence_id) == (derived, rule, evidence)


def test_late_end_of_earlier_visit_changes_nothing() -> None:
    visit = scenario.start_visit(scenario.start_visit(Visit("con_a"), "vis_a", ago(5)), "vis_b", ago(1))
    assert scenario.end_visit(visit, "vis_a", NOW) == visit
    ended = scenario.end_visit(visit, "vis_b", NOW)
    assert ended.left_at == NOW
    assert scenario.record_message(ended, "brd_a", "out_a", NOW).reached == {"brd_a": GuideMessage("out_a", NOW)}


def test_message_before_visit_does_not_count() -> None:
    visit = scenario.record_message(Visit("con_a"), "brd_a", "out_a", ago(3))
    later = scenario.record_message(visit, "brd_b", "out_b", ago(1))
    assert scenario.end_visit(scenario.start_visit(later, "vis_a", ago(2.5)), "vis_a", ago(2)).reached == {
        "brd_b": GuideMessage("out_b", ago(1))
    }
