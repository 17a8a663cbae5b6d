"""Scenario is derived, not declared: the strongest rule that holds decides, and says by which event."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from services.commerce.orders import scenario
from services.commerce.orders.scenario import RULES, Reached, Situation, Visit, derive
from services.kit.enums import Scenario, Touchpoint

NOW = datetime(2026, 11, 20, 13, 40, tzinfo=UTC)
HOURS = st.integers(-60, 60).map(lambda hours: NOW + timedelta(hours=hours))
VISITS = st.builds(
    Visit,
    id=st.just("con_a"),
    visit_id=st.just("vis_a"),
    entered_at=st.none() | HOURS,
    left_at=st.none() | HOURS,
    reached=st.dictionaries(st.sampled_from(["brd_a", "brd_b"]), st.builds(Reached, st.just("out_a"), HOURS)),
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
def test_there_is_always_a_scenario_and_the_rule_that_gave_it(situation: Situation) -> None:
    derived, basis = derive(situation)
    rule = next(rule for rule in RULES.rules if rule.name == basis.rule)
    assert derived is rule.scenario
    assert basis.rules_version == RULES.version
    stronger = RULES.rules[: RULES.rules.index(rule)]
    assert all(scenario.CONDITIONS[other.condition](other, situation) is None for other in stronger)


@given(SITUATIONS, st.integers(0, 6))
def test_what_is_needed_within_hours_is_urgent_whatever_else_holds(situation: Situation, hours: int) -> None:
    urgent = replace(situation, needed_by=NOW + timedelta(hours=hours))
    assert derive(urgent)[0] is Scenario.URGENT_NEED


@given(SITUATIONS)
def test_a_hint_never_beats_what_is_known(situation: Situation) -> None:
    without, _ = derive(replace(situation, hint=Scenario.UNSPECIFIED))
    if without is not Scenario.AT_HOME:
        assert derive(situation)[0] is without


def ago(hours: float) -> datetime:
    return NOW - timedelta(hours=hours)


def wrote_after(hours: float, left: float = 2, brand_ids: frozenset[str] = frozenset({"brd_a", "brd_b"})) -> Situation:
    """She left the district; a guide of brd_a wrote so long ago; she buys from these brands."""
    visit = Visit("con_a", "vis_a", ago(left + 1), ago(left), {"brd_a": Reached("out_a", ago(hours))})
    return Situation(NOW, visit=visit, brand_ids=brand_ids)


@pytest.mark.parametrize(
    ("situation", "derived", "rule", "evidence"),
    [
        (Situation(NOW, visit=Visit("con_a", "vis_a", ago(1))), Scenario.DISTRICT_VISIT, "visit_open", "vis_a"),
        (Situation(NOW, visit=Visit("con_a", "vis_a", ago(25))), Scenario.AT_HOME, "otherwise", ""),
        (wrote_after(1), Scenario.OFF_STORE, "reached_after_visit", "out_a"),
        (wrote_after(2.5), Scenario.AT_HOME, "otherwise", ""),
        (wrote_after(1, left=25), Scenario.AT_HOME, "otherwise", ""),
        (wrote_after(1, brand_ids=frozenset({"brd_b", "brd_c"})), Scenario.AT_HOME, "otherwise", ""),
        (Situation(NOW, Touchpoint.STORE), Scenario.IN_STORE, "in_store", ""),
        (Situation(NOW, Touchpoint.LIVE), Scenario.DISCOVERY, "looking_around", ""),
        (Situation(NOW, Touchpoint.APP, hint=Scenario.DISCOVERY), Scenario.DISCOVERY, "looking_around", ""),
        (Situation(NOW, Touchpoint.APP, hint=Scenario.IN_STORE), Scenario.AT_HOME, "otherwise", ""),
    ],
)
def test_which_event_decides(situation: Situation, derived: Scenario, rule: str, evidence: str) -> None:
    found, basis = derive(situation)
    assert (found, basis.rule, basis.evidence_id) == (derived, rule, evidence)


def test_a_late_leaving_of_an_earlier_visit_does_not_end_the_present_one() -> None:
    view = scenario.entered(scenario.entered(Visit("con_a"), "vis_a", ago(5)), "vis_b", ago(1))
    assert scenario.left(view, "vis_a", NOW) == view
    gone = scenario.left(view, "vis_b", NOW)
    assert gone.left_at == NOW
    assert scenario.reached(gone, "brd_a", "out_a", NOW).reached == {"brd_a": Reached("out_a", NOW)}


def test_what_was_written_before_a_visit_counts_no_more() -> None:
    view = scenario.reached(Visit("con_a"), "brd_a", "out_a", ago(3))
    late = scenario.reached(view, "brd_b", "out_b", ago(1))
    assert scenario.left(scenario.entered(late, "vis_a", ago(2.5)), "vis_a", ago(2)).reached == {"brd_b": Reached("out_b", ago(1))}
