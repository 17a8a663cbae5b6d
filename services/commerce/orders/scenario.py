"""The scenario of an order: versioned rules derive it from the consumer's visit, the guides' messages and the order itself.

The rules are data, and each order stores their version and the event that decided.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from services.kit.enums import Scenario, Touchpoint


class GuideMessage(Struct, frozen=True):
    """A message that a guide of a brand sent to a consumer."""

    outreach_id: str
    at: datetime


class Visit(Struct, frozen=True):
    """A consumer's last visit to a district and, by brand, the last guide's message since (`visit_view`).

    `id` is the consumer id in the events. `merge_visits` combines the visits of all ids of a person.
    """

    id: str
    visit_id: str = ""
    entered_at: datetime | None = None
    left_at: datetime | None = None
    reached: dict[str, GuideMessage] = {}
    version: int = 1


class Situation(Struct, frozen=True):
    """The facts that the rules read."""

    at: datetime
    touchpoint: Touchpoint = Touchpoint.UNSPECIFIED
    needed_by: datetime | None = None
    hint: Scenario = Scenario.UNSPECIFIED
    visit: Visit | None = None
    brand_ids: frozenset[str] = frozenset()
    """The seller and the brands of the goods. Messages of other brands do not count."""


class Condition(StrEnum):
    """The condition of a rule."""

    NEEDED_WITHIN = "needed_within"
    VISIT_OPEN = "visit_open"
    REACHED_AFTER_VISIT = "reached_after_visit"
    TOUCHED_AT = "touched_at"
    ALWAYS = "always"


class Rule(Struct, frozen=True):
    """A rule: the first rule whose condition is met decides the scenario."""

    name: str
    scenario: Scenario
    condition: Condition
    within: timedelta = timedelta()
    touchpoints: tuple[Touchpoint, ...] = ()
    accepts_hint: bool = False
    """True if the front end's hint of the same scenario also meets the condition."""


class RuleSet(Struct, frozen=True):
    """A version of the rules, in order of precedence."""

    version: int
    rules: tuple[Rule, ...]


class ScenarioBasis(Struct, frozen=True):
    """The rule and the event that decided an order's scenario."""

    rules_version: int
    rule: str
    evidence_id: str = ""
    evidence_at: datetime | None = None


Evidence = tuple[str, datetime | None]
"""The id of the event that meets a condition, empty without an event, and its time."""

RULES = RuleSet(
    version=1,
    rules=(
        Rule("needed_soon", Scenario.URGENT_NEED, Condition.NEEDED_WITHIN, within=timedelta(hours=6)),
        # A visit without a recorded end is over by the next day.
        Rule("visit_open", Scenario.DISTRICT_VISIT, Condition.VISIT_OPEN, within=timedelta(hours=24)),
        Rule("reached_after_visit", Scenario.OFF_STORE, Condition.REACHED_AFTER_VISIT, within=timedelta(hours=24)),
        Rule("in_store", Scenario.IN_STORE, Condition.TOUCHED_AT, touchpoints=(Touchpoint.STORE,)),
        Rule(
            "looking_around",
            Scenario.DISCOVERY,
            Condition.TOUCHED_AT,
            touchpoints=(Touchpoint.LIVE, Touchpoint.DISTRICT_SCREEN),
            accepts_hint=True,
        ),
        Rule("otherwise", Scenario.AT_HOME, Condition.ALWAYS),
    ),
)


def derive(situation: Situation, rules: RuleSet = RULES) -> tuple[Scenario, ScenarioBasis]:
    """Returns the scenario, and the rule and event that decided it."""
    for rule in rules.rules:
        evidence = CONDITIONS[rule.condition](rule, situation)
        if evidence is not None:
            id, at = evidence
            return rule.scenario, ScenarioBasis(rules.version, rule.name, id, at)
    raise AssertionError("The last rule of a rule set must always apply.")


def _needed_within(rule: Rule, situation: Situation) -> Evidence | None:
    return ("", situation.needed_by) if situation.needed_by is not None and situation.needed_by <= situation.at + rule.within else None


def _visit_open(rule: Rule, situation: Situation) -> Evidence | None:
    visit = situation.visit
    if visit is None or visit.entered_at is None or visit.left_at is not None or situation.at - visit.entered_at >= rule.within:
        return None
    return visit.visit_id, visit.entered_at


def _reached_after_visit(rule: Rule, situation: Situation) -> Evidence | None:
    visit = situation.visit
    if visit is None or visit.left_at is None or situation.at - visit.left_at >= rule.within:
        return None
    since = [message for brand_id, message in visit.reached.items() if brand_id in situation.brand_ids and message.at >= visit.left_at]
    last = max(since, key=lambda message: (message.at, message.outreach_id), default=None)
    return (last.outreach_id, last.at) if last else None


def _touched_at(rule: Rule, situation: Situation) -> Evidence | None:
    return ("", None) if situation.touchpoint in rule.touchpoints or (rule.accepts_hint and situation.hint is rule.scenario) else None


def _always(rule: Rule, situation: Situation) -> Evidence | None:
    return "", None


CONDITIONS: dict[Condition, Callable[[Rule, Situation], Evidence | None]] = {
    Condition.NEEDED_WITHIN: _needed_within,
    Condition.VISIT_OPEN: _visit_open,
    Condition.REACHED_AFTER_VISIT: _reached_after_visit,
    Condition.TOUCHED_AT: _touched_at,
    Condition.ALWAYS: _always,
}


def start_visit(visit: Visit, visit_id: str, at: datetime) -> Visit:
    """Returns the visit after VisitStarted."""
    return Visit(visit.id, visit_id, at, None, _messages_since(visit, at), visit.version)


def end_visit(visit: Visit, visit_id: str, at: datetime) -> Visit:
    """Returns the visit after VisitLeft. The end of an earlier visit changes nothing."""
    if visit.visit_id not in ("", visit_id):
        return visit
    return Visit(visit.id, visit_id, visit.entered_at or at, at, _messages_since(visit, at), visit.version)


def record_message(visit: Visit, brand_id: str, outreach_id: str, at: datetime) -> Visit:
    """Returns the visit after OutreachSent."""
    return replace(visit, reached=visit.reached | {brand_id: GuideMessage(outreach_id, at)})


def merge_visits(visits: Sequence[Visit]) -> Visit | None:
    """Returns a person's last visit and, by brand, the last message, from the visits under each of their ids. None without a visit."""
    if not visits:
        return None
    last = max((visit for visit in visits if visit.entered_at), key=lambda visit: (visit.entered_at, visit.visit_id), default=visits[0])
    newest: dict[str, GuideMessage] = {}
    for brand_id, message in sorted((item for visit in visits for item in visit.reached.items()), key=lambda item: item[1].at):
        newest[brand_id] = message
    return replace(last, reached=newest)


def _messages_since(visit: Visit, at: datetime) -> dict[str, GuideMessage]:
    return {brand_id: message for brand_id, message in visit.reached.items() if message.at >= at}
